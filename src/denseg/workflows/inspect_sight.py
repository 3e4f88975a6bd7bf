# SPDX-License-Identifier: Apache-2.0
"""``denseg inspect``: how far a model sees, how fast it is, and whether that fits the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denseg.errors import DataError
from denseg.inference.device import choose_device
from denseg.inference.measure import measure_speed
from denseg.models import SegmentationModel
from denseg.models.receptive_field import receptive_field

__all__ = ["Part", "advise", "fit_to_data", "sight_parts", "speed_part"]

_HOLES = 0.9  # coverage below which a field has holes worth a word
_MUCH_LARGER = 8  # times the median object, from which on most of a field is not about the object


@dataclass(frozen=True)
class Part:
    """A part of an inspection.

    Attributes:
        key: Name in the JSON document.
        value: JSON values.
        text: Lines for a person.
    """

    key: str
    value: Any
    text: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Give the part as text for a person."""
        return list(self.text)

    def to_json(self) -> Any:
        """Give the part as JSON values."""
        return self.value


def sight_parts(model: SegmentationModel, size: tuple[int, int]) -> list[Part]:
    """Tell the theoretical receptive field.

    Args:
        model: The model, with or without values.
        size: Height and width of the inspected image: what a model that sees everything sees.

    Returns:
        ``receptive_field``, pixels from first to last, and ``field`` with everything known of it.
    """
    field = receptive_field(model)
    if field.size is None:
        words = "the whole image"
    else:
        holes = "" if field.coverage > 0.9995 else f", {100 * field.coverage:.1f} % of it (dilations leave holes)"
        words = f"{field.height}x{field.width} pixels{holes}"
    seen = max(size) if field.size is None else field.size
    return [Part("receptive_field", seen), Part("field", field.to_json(), (f"sees           {words}",))]


def speed_part(model: SegmentationModel, size: tuple[int, int], device: str) -> Part:
    """Time the model on one image, and tell the memory it takes.

    Args:
        model: The model, with values.
        size: Height and width of the image.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns:
        ``speed``.
    """
    speed = measure_speed(model.to(choose_device(device)).eval(), size)
    where = speed.device if speed.device != "cpu" else f"cpu, {speed.threads} threads"
    text = (
        f"time           {1000 * speed.seconds:.1f} ms ({1000 * speed.low:.1f} to {1000 * speed.high:.1f}) for one "
        f"image of {speed.size[0]}x{speed.size[1]}; {where}",
        f"memory         {speed.memory / 2**20:,.0f} MiB for that image, weights included",
    )
    return Part("speed", speed.to_json(), text)


def fit_to_data(data: Path | str, field: Mapping[str, Any], effective: int | None = None) -> Part:
    """Hold what a model sees against the objects of a data set.

    Args:
        data: The data folder.
        field: JSON values of the receptive field.
        effective: Size of the effective field in pixels, where it was measured.

    Returns:
        ``advice``.

    Raises:
        DataError: The folder cannot be read as a data set.
    """
    from denseg.data.doctor.doctor import examine

    examination = examine(data)
    if not examination.fingerprint:
        raise DataError(f"{data} holds no pair of image and mask to learn sizes from", path=data)
    advice = advise(examination.fingerprint, field, effective)
    return Part("advice", list(advice), tuple(f"advice         {line}" for line in advice))


def advise(fingerprint: Mapping[str, Any], field: Mapping[str, Any], effective: int | None = None) -> Sequence[str]:
    """Say whether a model sees enough for the objects of a data set.

    Args:
        fingerprint: Of the data set, see ``data.fingerprint``.
        field: JSON values of the receptive field.
        effective: Size of the effective field in pixels, where it was measured.

    Returns:
        Sentences.
    """
    spans = {
        row["name"]: row["object_pixels"] ** 0.5
        for row in fingerprint["classes"]
        if row.get("object_pixels") and row.get("objects")
    }
    if not spans:
        return ("the masks hold no objects whose size could be compared with what the model sees",)
    height, width = fingerprint["images"]["height"]["median"], fingerprint["images"]["width"]["median"]
    largest = max(spans, key=lambda name: spans[name])
    span = spans[largest]
    told = f"objects span about {span:.0f} pixels ({largest}, median)"
    advice = []
    seen = field["size"]
    if effective is not None and effective < span:
        advice.append(
            f"your {told}, and nine tenths of what moves a score lie within {effective}: a larger output stride, "
            "larger dilations or a context layer (aspp, pyramid_pooling, criss_cross_attention) would bring in more"
        )
    elif seen is not None and seen < span:
        advice.append(
            f"your {told}, this model sees {seen}: a larger output stride, larger dilations or a context layer (aspp, "
            "pyramid_pooling, criss_cross_attention) would let it see them whole"
        )
    elif seen is None:
        advice.append(f"your {told}; this model sees the whole image, {height}x{width} at the median")
    else:
        advice.append(f"your {told}, this model sees {seen}: enough to see one whole")
    if seen is not None and seen > _MUCH_LARGER * span and seen > max(height, width):
        advice.append(f"it sees more than your images are large ({height}x{width}): a shallower model may do as well")
    if field["coverage"] < _HOLES:
        advice.append(
            f"only {100 * field['coverage']:.0f} % of the positions it sees count: dilations that share a factor leave "
            "holes; smaller or unequal ones (1, 2, 5) close them"
        )
    small = min(spans, key=lambda name: spans[name])
    if spans[small] < 8:
        advice.append(
            f"the smallest objects ({small}) span about {spans[small]:.0f} pixels, less than one position of a map at "
            "stride 8: larger crops of enlarged images (train.scale) or a smaller output stride help"
        )
    return tuple(advice)
