# SPDX-License-Identifier: Apache-2.0
"""What the values of a mask mean: a table from stored value or colour to class index or "no label".

The table is proposed by the mask doctor (``proposal.py``), shown to the user, stored in the run, and applied here to
every mask; a value that is not in it is an error, never silently "no label".

Letters: H and W height and width in pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from denseg.data.reading.masks import RawMask
from denseg.errors import DataError

__all__ = ["Color", "MaskEncoding"]

Color = tuple[int, int, int]
Labels = NDArray[np.uint8] | NDArray[np.uint16]
_UNKNOWN = -1


@dataclass(frozen=True)
class MaskEncoding:
    """From stored values to labels; immutable, hashable, and equal after a JSON round trip.

    Attributes:
        kind: ``index`` maps stored numbers (a palette's indices too), ``color`` maps red, green, blue.
        num_classes: K.
        ignore_index: The label that means "no label".
        values: ``(stored value, label)``, for ``index``.
        colors: ``((red, green, blue), label)``, for ``color``.
        other: The label of every value that is not listed (instance ids: 1); ``None`` makes them an error.
        tolerance: Values that are not listed take the label of the nearest listed one up to this distance (largest
            difference of a channel): masks that went through JPEG or a smooth resize. 0 makes them an error.
        threshold: Values from here on are class 1, lower ones class 0, NaN is no label; nothing is listed then.
    """

    kind: Literal["index", "color"]
    num_classes: int
    ignore_index: int = 255
    values: tuple[tuple[int, int], ...] = ()
    colors: tuple[tuple[Color, int], ...] = ()
    other: int | None = None
    tolerance: int = 0
    threshold: float | None = None

    @classmethod
    def identity(cls, num_classes: int, *, ignore_index: int = 255) -> MaskEncoding:
        """Say that stored values are class indices already.

        Args:
            num_classes: K.
            ignore_index: The stored value, and the label, that means "no label".

        Returns:
            The encoding.
        """
        values = {index: index for index in range(num_classes)} | {ignore_index: ignore_index}
        return cls("index", num_classes, ignore_index, tuple(values.items()))

    def decode(self, raw: RawMask, path: Path | str = "mask") -> Labels:
        """Turn a mask's stored values into labels.

        Args:
            raw: The mask as stored.
            path: For messages.

        Returns:
            ``(H, W)`` labels in 0..K-1 or ``ignore_index``; uint8 where they fit, else uint16. Always a new array.

        Raises:
            DataError: A value is not in the table.
        """
        if self.threshold is not None:
            return self._divided(raw, path)
        if raw.kind == "float":
            raise DataError(f"{path}: the mask holds numbers that are not whole; save it as an index PNG", path=path)
        if self.kind == "index" and raw.kind != "color" and raw.values.dtype == np.uint8:
            table, free = _bytes(self)
            found = bytearray(raw.values).translate(table) if table else b""  # ten times as fast as indexing an array
            if found and free not in found:
                return np.frombuffer(found, np.uint8).reshape(raw.values.shape)
        labels = self._color_labels(raw) if self.kind == "color" else self._index_labels(raw, path)
        if raw.hole is not None:
            labels[raw.hole] = self.ignore_index
        if int(labels.min(initial=0)) == _UNKNOWN:
            unknown = self._unknown(raw, labels)
            raise DataError(
                f"{path}: {unknown}, which is no class of this data set; correct the mask, or name the value under"
                " `label_map` in dataset.yaml",
                path=path,
            )
        small = max(self.ignore_index, self.num_classes - 1) <= 255
        return labels.astype(np.uint8) if small else labels.astype(np.uint16)

    def lookup(self, value: int | Color) -> int | None:
        """Give the label of one stored value or colour; ``None`` where there is none."""
        if self.threshold is not None:
            return None if isinstance(value, tuple) else int(value >= self.threshold)
        code = _pack(value) if isinstance(value, tuple) else value
        label = int(_resolve(self, np.asarray([code], np.int64))[0])
        return None if label == _UNKNOWN else label

    def lookup_all(self, values: NDArray[np.int64]) -> NDArray[np.int32]:
        """Give the labels of stored values (colours as ``red << 16 | green << 8 | blue``); -1 where there is none."""
        if self.threshold is not None:
            return (values >= self.threshold).astype(np.int32)
        if self.kind == "index" and values.size and int(values.min()) >= 0 and int(values.max()) < 256:
            return _table(self, 256)[values]
        return _resolve(self, values)

    def to_json(self) -> dict[str, Any]:
        """Give the encoding as JSON values."""
        return {
            "kind": self.kind,
            "num_classes": self.num_classes,
            "ignore_index": self.ignore_index,
            "values": [list(item) for item in self.values],
            "colors": [[list(color), label] for color, label in self.colors],
            "other": self.other,
            "tolerance": self.tolerance,
            "threshold": self.threshold,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MaskEncoding:
        """Build the encoding from what ``to_json`` gave."""
        return cls(
            kind=value["kind"],
            num_classes=int(value["num_classes"]),
            ignore_index=int(value["ignore_index"]),
            values=tuple((int(stored), int(label)) for stored, label in value["values"]),
            colors=tuple(((int(c[0]), int(c[1]), int(c[2])), int(label)) for c, label in value["colors"]),
            other=None if value["other"] is None else int(value["other"]),
            tolerance=int(value["tolerance"]),
            threshold=None if value.get("threshold") is None else float(value["threshold"]),
        )

    def _divided(self, raw: RawMask, path: Path | str) -> Labels:
        if raw.kind == "color":
            raise DataError(f"{path}: the mask holds colours, and a threshold needs one grade per pixel", path=path)
        above = np.asarray(raw.values >= self.threshold)
        labels: Labels = above.astype(np.uint8) if self.ignore_index <= 255 else above.astype(np.uint16)
        hole = np.isnan(raw.values) if raw.values.dtype.kind == "f" else raw.hole
        if hole is not None:
            labels[hole] = self.ignore_index
        return labels

    def _index_labels(self, raw: RawMask, path: Path | str) -> NDArray[np.int32]:
        if raw.kind == "color":
            raise DataError(
                f"{path}: the mask holds colours, the other masks hold numbers; save it like the others", path=path
            )
        values = raw.values
        if values.dtype == np.uint8:
            return _table(self, 256)[values]
        if values.dtype == np.uint16:
            return _table(self, 65536)[values]
        stored, inverse = np.unique(values, return_inverse=True)
        return _resolve(self, stored.astype(np.int64))[inverse].reshape(values.shape)

    def _color_labels(self, raw: RawMask) -> NDArray[np.int32]:
        if raw.kind == "palette":
            palette = np.zeros((max(256, int(raw.values.max(initial=0)) + 1), 3), np.int64)
            if raw.palette is not None:
                palette[: len(raw.palette)] = raw.palette
            return _resolve(self, _codes(palette))[raw.values]
        if raw.kind == "index":  # grey among colours: red = green = blue
            stored, inverse = np.unique(raw.values, return_inverse=True)
            grey = np.clip(stored, 0, 255).astype(np.int64)
            labels = np.where(
                (stored >= 0) & (stored <= 255), _resolve(self, _codes(grey[:, None].repeat(3, 1))), _UNKNOWN
            )
            return labels[inverse].reshape(raw.values.shape).astype(np.int32)
        stored, inverse = np.unique(_codes(raw.values.astype(np.int64)), return_inverse=True)
        return _resolve(self, stored)[inverse].reshape(raw.values.shape[:2])

    def _unknown(self, raw: RawMask, labels: NDArray[np.int32]) -> str:
        """Name the first values that are not in the table, and how many pixels hold them."""
        where = labels == _UNKNOWN
        found = raw.values[where]
        if raw.kind == "palette" and self.kind == "color" and raw.palette is not None:
            found = raw.palette[np.minimum(found, len(raw.palette) - 1)]
        distinct = np.unique(found, axis=0)
        shown = ", ".join(str(tuple(v.tolist()) if v.ndim else v.item()) for v in distinct[:5])
        more = f" and {len(distinct) - 5} more" if len(distinct) > 5 else ""
        return f"{int(where.sum())} pixels hold {shown}{more}"


def _pack(color: Color) -> int:
    return (color[0] << 16) | (color[1] << 8) | color[2]


def _codes(colors: NDArray[np.int64]) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = (colors[..., 0] << 16) | (colors[..., 1] << 8) | colors[..., 2]
    return codes


@lru_cache(maxsize=64)
def _table(encoding: MaskEncoding, size: int) -> NDArray[np.int32]:
    return _resolve(encoding, np.arange(size, dtype=np.int64))


@lru_cache(maxsize=64)
def _bytes(encoding: MaskEncoding) -> tuple[bytes, int]:
    """Give the labels of 0..255 as bytes, and the byte that stands for "no class"; no table where it takes 16 bits."""
    labels = _table(encoding, 256)
    taken = {*labels.tolist(), encoding.ignore_index}
    unknown = next((byte for byte in range(256) if byte not in taken), -1)
    if max(encoding.ignore_index, encoding.num_classes - 1) > 255 or unknown < 0:
        return b"", -1
    return bytes(np.where(labels == _UNKNOWN, unknown, labels).astype(np.uint8)), unknown


def _resolve(encoding: MaskEncoding, stored: NDArray[np.int64]) -> NDArray[np.int32]:
    """Give the label of each stored value (colours packed into one number), -1 where there is none."""
    color = encoding.kind == "color"
    listed = {_pack(c): label for c, label in encoding.colors} if color else dict(encoding.values)
    keys = np.asarray(sorted(listed), np.int64)
    targets = np.asarray([listed[int(key)] for key in keys], np.int32)
    if not len(keys):
        return np.full(stored.shape, _UNKNOWN if encoding.other is None else encoding.other, np.int32)
    position = np.minimum(np.searchsorted(keys, stored), len(keys) - 1)
    labels = np.where(keys[position] == stored, targets[position], _UNKNOWN).astype(np.int32)
    open_ = labels == _UNKNOWN
    if encoding.tolerance and bool(open_.any()):
        labels[open_] = _nearest(encoding, stored[open_], keys, targets)
    if encoding.other is not None:
        labels[labels == _UNKNOWN] = encoding.other
    return labels


def _nearest(
    encoding: MaskEncoding, stored: NDArray[np.int64], keys: NDArray[np.int64], targets: NDArray[np.int32]
) -> NDArray[np.int32]:
    def channels(codes: NDArray[np.int64]) -> NDArray[np.int64]:
        return (
            np.stack([codes >> 16, (codes >> 8) & 255, codes & 255], 1) if encoding.kind == "color" else codes[:, None]
        )

    labels = np.full(stored.shape, _UNKNOWN, np.int32)
    known = channels(keys)  # (N, 3) or (N, 1)
    for start in range(0, len(stored), 4096):
        part = channels(stored[start : start + 4096])
        distance = np.abs(part[:, None] - known[None])  # (M, N, 3 or 1)
        nearest = (distance**2).sum(2).argmin(1)
        near = distance.max(2)[np.arange(len(part)), nearest] <= encoding.tolerance
        labels[start : start + 4096] = np.where(near, targets[nearest], _UNKNOWN)
    return labels
