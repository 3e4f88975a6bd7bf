# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one safetensors file that proves its own bytes and says how to build, feed and read the model.

The tensors, and a JSON document in the file's header, are covered by a SHA-256 that is checked at every read: a flipped
bit or a cut end is refused, never loaded. Files are written whole or not at all, and nothing here unpickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import denseg
from denseg.errors import CheckpointError, DensegError, UnknownNameError, UsageError
from denseg.files import write_json
from denseg.models.catalog import create_model
from denseg.models.tensor_file import read_any_tensors, read_tensors, write_tensors
from denseg.types import ClassTable, ModelSpec

__all__ = [
    "FORMAT_VERSION",
    "Checkpoint",
    "LoadReport",
    "checkpoint_path",
    "load_checkpoint",
    "load_weights",
    "read_tensors",
    "save_checkpoint",
    "write_tensors",
]

FORMAT_VERSION = 1
"""Of the metadata that ``save_checkpoint`` writes; a larger one is refused."""

_OPTIONAL_KEYS = (
    "calibration",
    "classes",
    "commit",
    "encoding",
    "halo",
    "normalization",
    "notes",
    "postprocessing",
    "training",
)
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "scale": 255.0, "bands": 3}


class Checkpoint(NamedTuple):
    """A model and what its file says about it.

    Attributes:
        model: The network with its weights, in evaluation mode.
        metadata: JSON values: ``format_version``, ``version`` and ``commit`` of denseg, ``model`` (``name``,
            ``arguments``), ``classes`` (see ``ClassTable.from_json``), ``normalization`` (``mean``, ``std``, ``scale``,
            ``bands``; ``None`` where unknown), ``halo``, ``encoding``, ``postprocessing``, ``calibration``,
            ``training``, ``notes``.
    """

    model: nn.Module
    metadata: dict[str, Any]


class LoadReport(NamedTuple):
    """What ``load_weights`` took from a file.

    Attributes:
        matched: Names loaded.
        replaced: Names of the classifier that keep their fresh values because the classes differ.
        missing: Names of the model that the file lacks.
        unexpected: Names of the file that the model lacks.
        mismatched: Names whose shapes differ for another reason than the number of classes.
    """

    matched: tuple[str, ...]
    replaced: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]


def save_checkpoint(model: nn.Module, path: Path | str, **metadata: Any) -> None:
    """Write a model, whole or not at all, and a readable copy of its metadata beside it as ``.json``.

    Args:
        model: A network made by ``create_model``: its ``spec`` holds name and arguments.
        path: Where; the folder must exist.
        **metadata: Any of ``classes`` (a ``ClassTable`` or its JSON), ``normalization``, ``halo``, ``encoding``,
            ``postprocessing``, ``calibration``, ``commit``, ``training``, ``notes``; JSON values. Classes left out
            are ``class_0`` …, and three bands without normalisation take ImageNet's.

    Raises:
        UnknownNameError: A metadata key is not one of these.
        UsageError: The model has no ``spec``, or a value is not JSON.
        OutputError: The file cannot be written; what stood there before still stands.
    """
    path = Path(path)
    document = describe_model(model, metadata)
    write_tensors(path, model.state_dict(), document)
    write_json(path.with_suffix(".json"), document)


def describe_model(model: nn.Module, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the metadata of a checkpoint with the model's name, its arguments and the defaults.

    Args:
        model: A network made by ``create_model``.
        metadata: The keyword arguments of ``save_checkpoint``.

    Returns:
        The document that stands in the file's header.

    Raises:
        UnknownNameError: A metadata key is not known.
        UsageError: The model has no ``spec``.
    """
    for key in metadata:
        if key not in _OPTIONAL_KEYS:
            raise UnknownNameError("checkpoint metadata", key, _OPTIONAL_KEYS)
    spec = getattr(model, "spec", None)
    if not isinstance(spec, ModelSpec):
        raise UsageError(f"a checkpoint needs a model made by create_model (with a spec), got {type(model).__name__}")
    values = dict(metadata)
    if isinstance(values.get("classes"), ClassTable):
        values["classes"] = values["classes"].to_json()
    arguments = {key: value for key, value in spec.arguments.items() if key != "pretrained"}
    document = {
        "format_version": FORMAT_VERSION,
        "version": denseg.__version__,
        "model": {"name": spec.name, "arguments": arguments},
    }
    return _with_defaults(document | values)


def load_checkpoint(path: Path | str, *, output_stride: int | None = None) -> Checkpoint:
    """Build the model that a checkpoint describes and give it its weights.

    Args:
        path: The file, or a run folder (its best checkpoint, else its last).
        output_stride: Of the backbone, in place of the one that it was trained with: the weights stay, strides are
            removed or restored, and rates that follow the stride (DeepLab's) follow it.

    Returns:
        The model, on the CPU and in evaluation mode, and the metadata with defaults for what the file leaves out.

    Raises:
        CheckpointError: The file is missing, damaged, newer than this denseg, or does not fit the model it names.
        UsageError: The model has no backbone, or its weights depend on the output stride.
    """
    path = checkpoint_path(path)
    tensors, metadata = read_tensors(path)
    spec = _model_spec(path, metadata)
    if output_stride is not None and spec.arguments.get("output_stride") != output_stride:
        return _at_stride(path, tensors, metadata, output_stride)
    try:
        with torch.random.fork_rng(devices=[]):  # building draws fresh weights; the caller's random numbers stay
            model = create_model(spec.name, **spec.arguments)
    except (DensegError, TypeError) as error:
        raise CheckpointError(
            f"{path} describes a model that this denseg cannot build: {error}; update denseg", path=path
        ) from error
    _load(model, tensors, path, strict=True, replace_head=False, file_classes=None)
    return Checkpoint(model.eval(), _with_defaults(metadata))


def _at_stride(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], output_stride: int
) -> Checkpoint:
    """Load a checkpoint at another output stride than its own; how far the network sees is no longer known."""
    spec = _model_spec(path, metadata)
    arguments = dict(spec.arguments) | {"output_stride": output_stride}
    with torch.random.fork_rng(devices=[]):
        model = create_model(spec.name, **arguments)
    own = {name: value.shape for name, value in model.state_dict().items()}
    if own != {name: value.shape for name, value in tensors.items()}:
        raise UsageError(
            f"{path} holds a {spec.name} whose weights depend on the output stride; train it again at {output_stride}"
        )
    model.load_state_dict(dict(tensors))
    document = {**metadata, "model": {"name": spec.name, "arguments": arguments}, "halo": None}
    return Checkpoint(model.eval(), _with_defaults(document))


def load_weights(model: nn.Module, path: Path | str, *, strict: bool = True, replace_head: bool = True) -> LoadReport:
    """Give a model the weights of a checkpoint, or of any safetensors file with the same names.

    Args:
        model: The network; changed in place, or not at all when an error is raised.
        path: The file, or a run folder (its best checkpoint, else its last).
        strict: Every name must be in both and fit; otherwise what fits is loaded and the rest reported.
        replace_head: Tensors that differ only by the number of classes keep the model's fresh values.

    Returns:
        What was loaded and what was not.

    Raises:
        CheckpointError: The file is missing or damaged, or does not fit the model.
    """
    path = checkpoint_path(path)
    tensors, metadata = read_any_tensors(path)
    arguments = metadata.get("model", {}).get("arguments", {})
    return _load(
        model, tensors, path, strict=strict, replace_head=replace_head, file_classes=arguments.get("num_classes")
    )


def checkpoint_path(path: Path | str) -> Path:
    """Find the checkpoint that a path means.

    Args:
        path: A file, or a run folder.

    Returns:
        The file; in a run folder ``checkpoints/best.safetensors``, else ``checkpoints/last.safetensors``.

    Raises:
        CheckpointError: There is no such file, or no checkpoint in the folder.
    """
    path = Path(path)
    if path.is_dir():
        for folder in (path / "checkpoints", path):
            for name in ("best", "last"):
                if (folder / f"{name}.safetensors").is_file():
                    return folder / f"{name}.safetensors"
        raise CheckpointError(
            f"no checkpoint in the folder {path}: "
            "expected checkpoints/best.safetensors or checkpoints/last.safetensors",
            path=path,
        )
    if not path.exists():
        raise CheckpointError(f"no checkpoint {path}: there is no such file or folder", path=path)
    return path


def _load(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    path: Path,
    *,
    strict: bool,
    replace_head: bool,
    file_classes: int | None,
) -> LoadReport:
    own = model.state_dict()
    model_classes = getattr(model, "num_classes", None)
    matched, replaced, mismatched = [], [], []
    for name in own:
        if name not in tensors:
            continue
        if tensors[name].shape == own[name].shape:
            matched.append(name)
        elif replace_head and _differs_by_classes(tensors[name].shape, own[name].shape, file_classes, model_classes):
            replaced.append(name)
        else:
            mismatched.append(name)
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    if not matched or (strict and (missing or unexpected or mismatched)):
        facts = []
        if mismatched:
            name = mismatched[0]
            facts.append(
                f"{len(mismatched)} of another shape (first {name}: "
                f"{tuple(tensors[name].shape)} in the file, {tuple(own[name].shape)} in the model)"
            )
        if missing:
            facts.append(f"{len(missing)} missing (first {missing[0]})")
        if unexpected:
            facts.append(f"{len(unexpected)} unknown to the model (first {unexpected[0]})")
        raise CheckpointError(
            f"{path} does not fit the model: {', '.join(facts) or 'no tensor of it'}; "
            "build the model with the checkpoint's own options",
            path=path,
        )
    model.load_state_dict({name: tensors[name] for name in matched}, strict=False)
    return LoadReport(tuple(matched), tuple(replaced), tuple(missing), tuple(unexpected), tuple(mismatched))


def _differs_by_classes(
    theirs: torch.Size, ours: torch.Size, file_classes: int | None, model_classes: int | None
) -> bool:
    """Whether the sides that differ are multiples of the number of classes (context modules keep several per class)."""
    if model_classes is None or len(theirs) != len(ours):
        return False
    if file_classes is None:  # another program's file: the classifier's own first side tells
        return ours[:1] == (model_classes,) and theirs[1:] == ours[1:]
    return all(
        a == b or (a % file_classes == 0 and a * model_classes == b * file_classes)
        for a, b in zip(theirs, ours, strict=True)
    )


def _model_spec(path: Path, metadata: Mapping[str, Any]) -> ModelSpec:
    version, model = metadata.get("format_version"), metadata.get("model")
    if not isinstance(version, int) or not isinstance(model, dict):
        raise CheckpointError(
            f"{path} is not a model checkpoint: it names no model; give checkpoints/best.safetensors of a run",
            path=path,
        )
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} was written by a newer denseg (checkpoint format {version}, this one reads up to "
            f"{FORMAT_VERSION}); update denseg",
            path=path,
        )
    arguments = {key: value for key, value in model["arguments"].items() if key != "pretrained"}
    return ModelSpec(model["name"], arguments)


def _with_defaults(metadata: Mapping[str, Any]) -> dict[str, Any]:
    arguments = metadata["model"]["arguments"]
    values = dict(metadata)
    for key in _OPTIONAL_KEYS:
        values.setdefault(key, None)
    if values["classes"] is None:
        values["classes"] = ClassTable.numbered(arguments["num_classes"]).to_json()
    if values["normalization"] is None and arguments.get("in_channels", 3) == 3:
        values["normalization"] = {
            key: list(value) if isinstance(value, list) else value for key, value in _IMAGENET.items()
        }
    return values
