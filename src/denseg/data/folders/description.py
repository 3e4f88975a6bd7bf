# SPDX-License-Identifier: Apache-2.0
"""``dataset.yaml``: what a person says about a data folder, read strictly.

Every key is optional. Keys that do not exist, classes named twice and colours out of range are errors that name the
place and the nearest key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from denseg.errors import DataError, nearest_name

__all__ = ["ClassDescription", "Description", "read_description"]

NAMES = ("dataset.yaml", "dataset.yml")
Color = tuple[int, int, int]


class ClassDescription(BaseModel):
    """One class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="shown in tables and reports")
    color: Color | None = Field(None, description="red, green, blue in 0..255; also what a colour mask holds")
    value: int | None = Field(
        None, description="what an index mask holds for this class; the place in the list if empty"
    )

    @field_validator("color", mode="before")
    @classmethod
    def _color(cls, value: Any) -> Any:
        return None if value is None else parse_color(value)


class Description(BaseModel):
    """What ``dataset.yaml`` says.

    Attributes:
        path: The file it came from; ``None`` where there is none.
        source: Who says it, for messages.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("", description="of the data set")
    classes: tuple[ClassDescription, ...] = Field((), description="in index order")
    ignore_index: int | None = Field(None, description="stored mask value that means `no label`")
    label_map: dict[str, int | str] = Field(
        default_factory=dict,
        description="stored value, or colour as `#rrggbb` or `r,g,b`: class name, class index, or `ignore`",
    )
    instances: bool = Field(False, description="masks hold object numbers: 0 is background, the rest one class")
    bits: bool = Field(False, description="masks hold one bit for each class, the first class in the lowest")
    threshold: float | None = Field(
        None, description="masks hold grades: values from here on are the second of two classes"
    )
    split: dict[Literal["train", "val", "test"], str | tuple[str, ...]] = Field(
        default_factory=dict, description="stems, or a text file with one stem in a line, for each split"
    )
    group: str = Field(
        "",
        description="`folder`, a CSV file with columns stem and group, or a regular expression with one group",
    )
    other: str = Field("", description="what every stored value means that is named nowhere: a class, or `ignore`")
    neighbours: int = Field(
        0, ge=0, le=8, description="slices on either side of a stack's slice that are given to the network with it"
    )
    windows: int | None = Field(
        None, ge=32, description="pixels of a side: TIFF pictures are read in windows of about this size"
    )
    layout: str = Field("", description="name of a public layout, or `folder`; recognised by its files if empty")
    path: Path | None = Field(None, exclude=True)
    source: str = Field("dataset.yaml", exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _classes(cls, values: Any) -> Any:
        if isinstance(values, dict):
            values = dict(values)
            if "names" in values and "classes" not in values:
                values["classes"] = values.pop("names")
            if "classes" in values:
                values["classes"] = _class_list(values["classes"])
            if isinstance(values.get("label_map"), dict):
                values["label_map"] = {_key_text(key): label for key, label in values["label_map"].items()}
        return values

    @model_validator(mode="after")
    def _check(self) -> Description:
        names = [described.name for described in self.classes]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the class {name!r} is named twice")
        if self.group and self.group != "folder" and not self.group.endswith(".csv"):
            try:
                groups = re.compile(self.group).groups
            except re.error as error:
                raise ValueError(f"group is not a regular expression: {error}") from error
            if groups < 1:
                raise ValueError("group needs a part in round brackets that names the group, for example '^(.+)_'")
        for key, label in self.label_map.items():
            self.label_of(label, key)
        if self.other:
            self.label_of(self.other, "other")
        return self

    def label_of(self, label: int | str, key: str) -> int | None:
        """Give the class index that a ``label_map`` entry means.

        Args:
            label: Name, index or ``ignore``.
            key: The entry's key, for the message.

        Returns:
            The index; ``None`` for ``ignore``.

        Raises:
            ValueError: There is no such class.
        """
        names = [described.name for described in self.classes]
        if isinstance(label, str) and label in names:
            return names.index(label)
        if label == "ignore":
            return None
        if isinstance(label, int) and (0 <= label < len(names) or (not names and label >= 0)):
            return label
        near = nearest_name(str(label), [*names, "ignore"])
        hint = f" Did you mean {near!r}?" if near else ""
        raise ValueError(f"label_map: {key} points to {label!r}, which is no class.{hint}")


def read_description(root: Path) -> Description:
    """Read ``dataset.yaml`` of a data folder.

    Args:
        root: The folder.

    Returns:
        What it says; an empty description where there is no file.

    Raises:
        DataError: The file is not YAML, has an unknown key, or contradicts itself.
    """
    path = next((root / name for name in NAMES if (root / name).is_file()), None)
    if path is None:
        return Description()
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}", path=path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "somewhere"
        said = getattr(error, "problem", None) or " ".join(str(error).split())
        raise DataError(f"{path}: not readable as YAML at {where}: {said}", path=path) from error
    if values is None:
        return Description(path=path)
    if not isinstance(values, dict):
        raise DataError(f"{path}: must hold keys and values, got a {type(values).__name__}", path=path)
    for hidden in {"path", "source"} & values.keys():
        raise DataError(f"{path}: no key named {hidden}", path=path)
    try:
        return Description.model_validate({**values, "path": path})
    except ValidationError as error:
        raise DataError(f"{path}: {_fault(error)}", path=path) from error


def parse_color(value: Any) -> Color:
    """Read a colour: ``[r, g, b]``, ``"r,g,b"`` or ``"#rrggbb"``.

    Args:
        value: What the file holds.

    Returns:
        Red, green, blue.

    Raises:
        ValueError: It is no colour.
    """
    parts: Any = value
    if isinstance(value, str):
        if re.fullmatch(r"#[0-9a-fA-F]{6}", value):
            parts = [int(value[at : at + 2], 16) for at in (1, 3, 5)]
        else:
            parts = [int(part) for part in value.split(",") if part.strip().isdigit()]
    if (
        not isinstance(parts, list | tuple)
        or len(parts) != 3
        or not all(isinstance(p, int) and 0 <= p <= 255 for p in parts)
    ):
        raise ValueError(f"a colour is [red, green, blue] in 0..255 or '#rrggbb', got {value!r}")
    return (parts[0], parts[1], parts[2])


def _class_list(classes: Any) -> Any:
    """Take the usual ways to name classes: a list of names, of ``{name, color}``, or ``{index: name}``."""
    if isinstance(classes, dict):
        if not all(isinstance(key, int) for key in classes):
            raise ValueError("classes as a mapping needs numbers as keys, for example {0: background, 1: cell}")
        items = sorted(classes.items())
        classes = [{"value": index, **(item if isinstance(item, dict) else {"name": item})} for index, item in items]
    if isinstance(classes, list):
        return [{"name": str(item)} if isinstance(item, str | int | float | bool) else item for item in classes]
    return classes


def _key_text(key: Any) -> str:
    return ",".join(str(part) for part in key) if isinstance(key, list | tuple) else str(key)


def _fault(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        fields = ClassDescription.model_fields if first["loc"][0] == "classes" else Description.model_fields
        known = [name for name in fields if name not in {"path", "source"}]
        near = nearest_name(str(first["loc"][-1]), known)
        hint = f" Did you mean {near}?" if near else f" Known: {', '.join(known)}."
        return f"no key named {where}.{hint}"
    if first["type"] == "value_error":
        said = str(first["ctx"]["error"])
        return f"{where}: {said}" if where else said
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}"
