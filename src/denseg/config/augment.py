# SPDX-License-Identifier: Apache-2.0
"""``train.augment``: what is changed at random in training samples, beside scale, crop and flip.

Everything is off by default. Angles are in degrees, lengths in pixels of the sample, and changes of brightness in
shares of the pictures' range of values, so that they mean the same for 8 bits, 16 bits and floating point.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from denseg.config.section import Section

__all__ = ["AugmentConfig", "ElasticConfig"]


class ElasticConfig(Section):
    """Smooth random deformation: displacements on a coarse grid, interpolated by cubic splines (U-Net, Section 3.1)."""

    sigma: float = Field(0.0, ge=0, description="pixels: standard deviation of the displacements; U-Net takes 10")
    grid: int = Field(3, ge=2, le=32, description="displacements along each side of the sample; U-Net takes 3")
    probability: float = Field(1.0, ge=0, le=1, description="share of samples that are deformed")


class AugmentConfig(Section):
    """Random changes of training samples. All geometry is one warp with one interpolation."""

    rotation: float = Field(0.0, ge=0, le=180, description="degrees: turned by up to so much, either way")
    quarter_turns: float = Field(0.0, ge=0, le=1, description="probability of a turn by 90, 180 or 270 degrees")
    shear: float = Field(0.0, ge=0, lt=80, description="degrees: slanted by up to so much, either way")
    perspective: float = Field(0.0, ge=0, lt=0.25, description="corners are shifted by up to this share of the sides")
    elastic: ElasticConfig = Field(ElasticConfig(), description="smooth deformation by a coarse grid of displacements")
    interpolation: Literal["bilinear", "bicubic"] = Field("bilinear", description="of images; masks take the nearest")
    border: Literal["ignore", "mirror"] = Field("ignore", description="what lies outside of the picture")
    rare_crop: float = Field(0.0, ge=0, le=1, description="probability of a crop around a class drawn evenly")
    copy_paste: float = Field(0.0, ge=0, le=1, description="probability that rare classes of another image are put in")
    gain: float = Field(0.0, ge=0, lt=1, description="values are multiplied by 1 - gain to 1 + gain")
    brightness: float = Field(0.0, ge=0, le=1, description="up to this share of the range is added or subtracted")
    contrast: float = Field(0.0, ge=0, lt=1, description="distance to the sample's mean, times 1 - this to 1 + this")
    gamma: float = Field(0.0, ge=0, lt=1, description="values of 0..1 are raised to 1 / (1 + this) to 1 + this")
    saturation: float = Field(0.0, ge=0, le=1, description="distance to grey, times 1 - this to 1 + this; RGB")
    hue: float = Field(0.0, ge=0, le=180, description="degrees: colours turn by up to so much; RGB")
    noise: float = Field(0.0, ge=0, le=1, description="standard deviation is drawn up to this share of the range")
    blur: float = Field(0.0, ge=0, le=20, description="pixels: sigma of a Gaussian blur is drawn up to this")
