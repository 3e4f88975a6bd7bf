# SPDX-License-Identifier: Apache-2.0
"""``train.border_weight``: U-Net's weight map, for the loss of any model."""

from __future__ import annotations

from pydantic import Field

from denseg.config.section import Section

__all__ = ["BorderWeightConfig"]


class BorderWeightConfig(Section):
    """Pixels between cells that nearly touch count more (U-Net, equation 2)."""

    w0: float = Field(10.0, ge=0, description="weight of a gap of width 0")
    sigma: float = Field(5.0, gt=0, description="pixels: width of gaps that count")
    background: int = Field(0, ge=0, description="the class between the cells")
    balance: bool = Field(True, description="cells and background have the same total weight")
