# SPDX-License-Identifier: Apache-2.0
"""What the commands share: option types with one help text each, and the two ways to print a result."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from denseg.errors import OutputError, UsageError

__all__ = [
    "CRFOption",
    "DataArgument",
    "DeviceOption",
    "ExactOption",
    "FlipOption",
    "JsonOption",
    "OverlapOption",
    "RunArgument",
    "ScalesOption",
    "SettingsOption",
    "TileOption",
    "TurnsOption",
    "UnpairedOption",
    "complete_crf",
    "emit",
    "parse_scales",
    "parse_size",
    "parse_strides",
    "parse_thresholds",
]

DataArgument = Annotated[
    Path,
    typer.Argument(metavar="DATA", help="Folder with images/ and masks/, flat or split.", show_default=False),
]
RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_OR_CHECKPOINT", help="A run folder (its best checkpoint) or one checkpoint.", show_default=False
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")]
JsonOption = Annotated[
    str | None,
    typer.Option("--json", metavar="PATH", help="Write the result as JSON too; - is stdout.", show_default=False),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one key of the configuration; repeatable.", show_default=False
    ),
]
UnpairedOption = Annotated[
    str | None,
    typer.Option("--unpaired", metavar="WHAT", help="refuse or skip images without a mask.", show_default="refuse"),
]
TileOption = Annotated[
    int | None,
    typer.Option(
        "--tile",
        metavar="N",
        min=1,
        help="Side of the tiles in pixels; found from the model if omitted.",
        show_default=False,
    ),
]
OverlapOption = Annotated[
    int | None,
    typer.Option(
        "--overlap",
        metavar="N",
        min=0,
        help="Pixels two tiles share; found from the model if omitted.",
        show_default=False,
    ),
]

ScalesOption = Annotated[
    str, typer.Option("--scales", metavar="S,S,…", help="See each image at these sizes and average, e.g. 0.5,1,1.5.")
]
FlipOption = Annotated[bool, typer.Option("--flip", help="See each image mirrored left to right, too, and average.")]


TurnsOption = Annotated[
    bool, typer.Option("--turns", help="See each image at all four quarter turns, too, and average.")
]
CRFOption = Annotated[
    str | None,
    typer.Option(
        "--crf",
        metavar="[NAME]",
        help="Sharpen labels along edges by a dense CRF: a paper's parameters by name, deeplab_v2 if omitted.",
        show_default=False,
    ),
]
DEFAULT_CRF = "deeplab_v2"


def complete_crf(arguments: Sequence[str]) -> list[str]:
    """Give ``--crf`` its name where it stands alone: what follows it may be the next option or argument.

    Args:
        arguments: Of the command line.

    Returns:
        The same, each bare ``--crf`` with the default name.
    """
    if "--crf" not in arguments:
        return list(arguments)
    from denseg.errors import nearest_name
    from denseg.inference.crf import CRF_PRESETS

    names = {*CRF_PRESETS, "search"}
    completed: list[str] = []
    for index, word in enumerate(arguments):
        following = arguments[index + 1] if index + 1 < len(arguments) else "-"
        alone = word == "--crf" and following not in names and nearest_name(following, names) is None
        completed.append(f"--crf={DEFAULT_CRF}" if alone else word)
    return completed


def parse_thresholds(texts: Iterable[str]) -> dict[str, float]:
    """Read ``CLASS=PROBABILITY``.

    Args:
        texts: For example ``crack=0.3``.

    Returns:
        By class.

    Raises:
        UsageError: A text has another form.
    """
    found = {}
    for text in texts:
        name, sign, value = text.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            sign = ""
        if not sign:
            raise UsageError(f"--threshold takes CLASS=PROBABILITY, for example crack=0.3; got {text!r}")
    return found


ExactOption = Annotated[
    bool,
    typer.Option("--exact", help="Make tiles equal to the whole image even where the model sees all of it; slower."),
]


def emit(lines: Iterable[str], result: Mapping[str, Any], json_path: str | None) -> None:
    """Print a result: as text, and as JSON where a path is given; ``-`` puts the JSON on stdout instead of the text.

    Args:
        lines: The text for a person.
        result: The same as JSON values.
        json_path: The value of ``--json``.
    """
    if json_path == "-":
        _print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
        return
    _print("\n".join(lines))
    if json_path is not None:
        from denseg.files import make_folder, write_json

        path = Path(json_path)
        make_folder(path.parent)
        write_json(path, result)


def _print(text: str) -> None:
    """Write to stdout; a reader who has gone (``| head``) is none of our business, a full disk is."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {(error.strerror or str(error)).lower()}") from error


def parse_size(text: str) -> tuple[int, int]:
    """Read ``HxW`` or one number for both sides.

    Args:
        text: For example ``512x768``.

    Returns:
        Height and width in pixels.

    Raises:
        UsageError: The text has another form, or a side is below 1.
    """
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdecimal() and int(side) > 0 for side in sides):
        raise UsageError(f"--size takes HxW in pixels, for example 512x768; got {text!r}")
    return int(sides[0]), int(sides[-1])


def parse_scales(text: str) -> tuple[float, ...]:
    """Read scales separated by commas.

    Args:
        text: For example ``0.5,1,1.5``.

    Returns:
        The scales.

    Raises:
        UsageError: A part is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--scales takes numbers with commas, for example 0.5,1,1.5; got {text!r}") from error


def parse_strides(text: str | None) -> tuple[int, ...]:
    """Read output strides separated by commas.

    Args:
        text: For example ``8,16,32``; ``None`` for none.

    Returns:
        The strides.

    Raises:
        UsageError: A part is no whole number, or one comes twice.
    """
    if text is None:
        return ()
    try:
        strides = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--output-stride takes numbers such as 8 or 8,16,32; got {text!r}") from error
    if len(set(strides)) < len(strides):
        raise UsageError(f"--output-stride names a stride twice: {text}")
    return strides
