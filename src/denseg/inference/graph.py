# SPDX-License-Identifier: Apache-2.0
"""A network as a graph that other programs run: ONNX, OpenVINO and torch.export, with what it needs inside the file.

The graph takes stored pixel values, normalises them, and gives logits; a JSON document in the same file says the rest
(classes, colours, tiling, halo, calibration, post-processing). The engines of the predictor use the same graph without
the normalisation.

Shape letters: B batch, C bands, K classes, H and W image height and width.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from denseg.errors import MissingDependencyError, UnsupportedError
from denseg.files import atomic_path, write_atomic
from denseg.inference.canvas import fit_size

if TYPE_CHECKING:
    from denseg.data.samples.normalization import Normalization
    from denseg.types import Geometry

__all__ = ["DOCUMENT", "Graph", "fixed_size", "import_openvino", "write_onnx", "write_openvino", "write_pt2"]

DOCUMENT = "denseg"
"""Name of the JSON document: a metadata property of ONNX, a runtime attribute of OpenVINO, and, with ``.json`` behind
it, a file within a pt2 archive."""
LARGEST_SIDE = 1 << 16
"""Pixels; the exporter wants a bound."""


class Graph(nn.Module):
    """Pixels to logits.

    Attributes:
        model: The network.
    """

    factor: Tensor | None
    shift: Tensor | None

    def __init__(self, model: nn.Module, normalization: Normalization | None = None) -> None:
        """Wrap a model.

        Args:
            model: A network of ``create_model`` in evaluation mode; copied to the CPU.
            normalization: Done inside where given; else the graph takes normalised images.
        """
        super().__init__()
        self.model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
        factor = shift = None
        if normalization is not None:
            std = torch.tensor(normalization.std, dtype=torch.float64)
            mean = torch.tensor(normalization.mean, dtype=torch.float64)
            factor = (1 / (normalization.scale * std)).float().view(-1, 1, 1)  # (C, 1, 1)
            shift = (-mean / std).float().view(-1, 1, 1)  # (C, 1, 1)
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Score images.

        Args:
            images: ``(B, C, H, W)`` float32, stored values or normalised ones; see ``__init__``.

        Returns:
            ``(B, K, H, W)`` logits (a model with a margin: its own size).
        """
        if self.factor is not None and self.shift is not None:
            images = images * self.factor + self.shift
        logits: Tensor = self.model(images).logits
        return logits


def fixed_size(geometry: Geometry, side: int = 512) -> int | None:
    """Give the one window size of an exported model that takes sizes of its own only; ``None`` where any size goes.

    Args:
        geometry: The model's.
        side: Pixels that are wished for.

    Returns:
        A size that the model takes, or ``None``.
    """
    if geometry.size_step == 1:
        return None
    return fit_size(max(side, 2 * geometry.margin + 2 * geometry.size_step), geometry)


def write_onnx(graph: Graph, path: Path, *, document: Mapping[str, Any] | None = None, side: int | None = None) -> None:
    """Write an ONNX file: input ``images``, output ``logits``, any batch and (unless ``side``) any size.

    Args:
        graph: The model.
        path: Where.
        document: JSON values that the file carries under ``DOCUMENT``.
        side: The only size, of a model that takes its own sizes only.

    Raises:
        UnsupportedError: The network has an operation that ONNX does not know.
    """
    import onnx

    with _quiet():
        try:
            program = torch.onnx.export(
                graph,
                (_example(graph, side),),
                dynamo=True,
                dynamic_shapes=_open_sides(1, side),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise UnsupportedError(f"this model cannot be written as ONNX: {_first_line(error)}") from error
    if program is None:
        raise UnsupportedError("this model cannot be written as ONNX: the exporter gave nothing")
    proto = program.model_proto
    for node in (*proto.graph.node, *(node for function in proto.functions for node in function.node)):
        node.doc_string = ""  # where in the source it came from
        del node.metadata_props[:]
    if document is not None:
        onnx.helper.set_model_props(proto, {DOCUMENT: json.dumps(document, ensure_ascii=False, allow_nan=False)})
    write_atomic(path, proto.SerializeToString())


def write_pt2(graph: Graph, path: Path, *, document: Mapping[str, Any], multiple: int, side: int | None = None) -> None:
    """Write a torch.export archive; sides are multiples of the model's stride.

    Args:
        graph: The model.
        path: Where.
        document: JSON values, the file ``denseg.json`` of the archive.
        multiple: The model's total stride.
        side: The only size, of a model that takes its own sizes only.

    Raises:
        UnsupportedError: The network cannot be traced.
    """
    with _quiet():
        try:
            program = torch.export.export(
                graph, (_example(graph, side, multiple),), dynamic_shapes=_open_sides(multiple, side)
            )
        except RuntimeError as error:
            raise UnsupportedError(f"this model cannot be written by torch.export: {_first_line(error)}") from error
        with atomic_path(path) as temporary:
            named = temporary.with_suffix(".pt2")  # the writer insists on the suffix
            text = json.dumps(document, ensure_ascii=False, allow_nan=False)
            torch.export.save(program, named, extra_files={f"{DOCUMENT}.json": text})
            named.replace(temporary)


def write_openvino(onnx_path: Path, path: Path, *, document: Mapping[str, Any]) -> None:
    """Turn an ONNX file into OpenVINO's ``.xml`` with its ``.bin``; weights stay 32-bit.

    Args:
        onnx_path: What ``write_onnx`` wrote.
        path: The ``.xml`` file.
        document: JSON values, the runtime attribute ``DOCUMENT`` of the model.
    """
    openvino = import_openvino()
    model = openvino.convert_model(onnx_path)
    model.set_rt_info(json.dumps(document, ensure_ascii=False, allow_nan=False), [DOCUMENT])
    openvino.save_model(model, path, compress_to_fp16=False)


def import_openvino() -> Any:
    """Import OpenVINO.

    Returns:
        The module.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import openvino
    except ImportError as error:
        raise MissingDependencyError("OpenVINO is not installed; pip install 'denseg[openvino]'") from error
    return openvino


def _example(graph: Graph, side: int | None, multiple: int = 1) -> Tensor:
    geometry: Any = graph.model.geometry
    in_channels: Any = graph.model.in_channels
    tall, wide = (side, side) if side else (2 * geometry.total_stride, 3 * geometry.total_stride)
    generator = torch.Generator().manual_seed(0)
    return torch.randn((2, in_channels, tall, wide), generator=generator)


def _open_sides(multiple: int, side: int | None) -> dict[str, Any]:
    batch = torch.export.Dim("batch", min=1, max=64)
    if side is not None:
        return {"images": {0: batch}}
    rows, columns = (torch.export.Dim(name, min=1, max=LARGEST_SIDE // multiple) for name in ("rows", "columns"))
    if multiple > 1:
        rows, columns = multiple * rows, multiple * columns
    return {"images": {0: batch, 2: rows, 3: columns}}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own deprecations and its talk from the user."""
    names = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
