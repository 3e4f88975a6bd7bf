# SPDX-License-Identifier: Apache-2.0
"""Sheets of pictures and maps, each map with its scale: what ``inspect`` draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from denseg.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Panel", "write_sheet"]

_PANEL = 2.6
"""Side of a panel, in inches of 100 pixels."""


class Panel(NamedTuple):
    """One picture or map of a sheet.

    Attributes:
        values: ``(H, W, 3)`` uint8, or a ``(h, w)`` map.
        title: Above it.
        limits: Values of the darkest and the brightest colour of a map; its own extremes if ``None``.
    """

    values: NDArray[Any]
    title: str
    limits: tuple[float, float] | None = None


def write_sheet(path: Path, panels: Sequence[Panel], *, columns: int, title: str) -> None:
    """Write panels in rows as one PNG.

    Args:
        path: Where.
        panels: Row by row.
        columns: Panels per row.
        title: Above all of them.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height, width = panels[0].values.shape[:2]
    tall = 0.8 * _PANEL * min(max(height / width, 0.3), 3.0) + 0.35
    figure = Figure(figsize=(_PANEL * columns, tall * rows + 0.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10)
    for axes, panel in zip(figure.subplots(rows, columns, squeeze=False).flat, panels, strict=False):
        axes.set_title(panel.title, fontsize=8)
        if panel.values.ndim == 3:
            axes.imshow(panel.values)
        else:
            low, high = panel.limits or (float(np.nanmin(panel.values)), float(np.nanmax(panel.values)))
            colors = "RdBu_r" if low < 0 < high else "viridis"
            shown = axes.imshow(panel.values, cmap=colors, vmin=low, vmax=high, interpolation="nearest")
            figure.colorbar(shown, ax=axes, shrink=0.7).ax.tick_params(labelsize=6)
    for axes in figure.axes:
        if axes.get_label() != "<colorbar>":
            axes.set_axis_off()
    write_atomic(path, lambda file: figure.savefig(file, format="png"))
