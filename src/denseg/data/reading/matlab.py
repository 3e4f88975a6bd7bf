# SPDX-License-Identifier: Apache-2.0
"""Masks in MATLAB files: COCO-Stuff's ``S``, PASCAL Context's ``LabelMap``, SBD's ``GTcls``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from denseg.data.reading.stored import Decoded, Header, check_size
from denseg.errors import ImageError

__all__ = ["matlab_pixels"]

VARIABLES = ("S", "LabelMap", "GTcls", "labels", "mask", "label")
MAX_BYTES = 256 << 20


def matlab_pixels(path: Path, *, max_pixels: int) -> Decoded:
    """Read the mask in a MATLAB file of version 5 to 7.2.

    Args:
        path: The file.
        max_pixels: More than this is refused.

    Returns:
        The values as stored.

    Raises:
        ImageError: The file is of version 7.3, holds no mask that denseg knows, or is too large.
    """
    from scipy import io

    with path.open("rb") as file:
        if file.read(10).startswith(b"MATLAB 7.3"):
            raise ImageError(f"{path}: MATLAB 7.3 files are not read; save it with -v7 or as PNG", path=path)
    if path.stat().st_size > MAX_BYTES:
        raise ImageError(
            f"{path}: larger than the {MAX_BYTES >> 20} MB that a mask may take; save it as PNG", path=path
        )
    shapes = {name: shape for name, shape, _ in io.whosmat(path)}
    name = next((name for name in VARIABLES if name in shapes), None)
    if name is None:
        known = ", ".join(VARIABLES)
        raise ImageError(f"{path}: holds {', '.join(shapes) or 'nothing'}, none of {known}; save it as PNG", path=path)
    if len(shapes[name]) == 2 and name != "GTcls":
        check_size(path, shapes[name][1], shapes[name][0], max_pixels)
    value: Any = io.loadmat(path, variable_names=[name])[name]
    if value.dtype.names:
        value = value[0, 0]["Segmentation"]
    values = np.asarray(value)
    if values.dtype == object and values.size == 1:
        values = np.asarray(values.flat[0])
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise ImageError(f"{path}: {name} is no picture of numbers but {values.dtype} of {values.shape}", path=path)
    check_size(path, values.shape[1], values.shape[0], max_pixels)
    height, width = values.shape
    return Decoded(Header(height, width, 1, values.dtype.name, "grey", name, "MAT"), np.ascontiguousarray(values))
