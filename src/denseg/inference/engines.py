# SPDX-License-Identifier: Apache-2.0
"""Engines: the same network run by torch, ONNX Runtime or OpenVINO, the fastest of them found by timing.

An engine takes the place of the network within a predictor; tiles, views and all behind stay. ``auto`` times each
engine once on a real tile, keeps only those whose labels are torch's but for ties, and remembers the fastest for this
model, tile and machine in the user's cache, with the graph that it runs.

OpenVINO computes in 32 bits here. By itself it takes bfloat16 where the processor has it, which changes 1 to 4 % of the
labels; that is asked for by ``precision``, and then the share of changed labels is measured.

Shape letters: B batch, C bands, K classes, H and W image height and width, h and w of a window.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from denseg import __version__
from denseg.errors import DensegError, UsageError
from denseg.files import make_folder, sha256_of, write_json
from denseg.inference.graph import Graph, fixed_size, import_openvino, write_onnx
from denseg.inference.portable import OnnxScores
from denseg.inference.views import Views
from denseg.types import SegmentationOutput

if TYPE_CHECKING:
    from denseg.inference.predictor import Predictor

__all__ = ["ENGINES", "EngineChoice", "OpenVinoScores", "check_engine", "choose_engine"]

Array = npt.NDArray[Any]
Scores = Callable[[Array], Array]

ENGINES = ("auto", "torch", "onnx", "openvino")
PRECISIONS = ("float32", "bf16")
TIES = 1e-3
"""Share of another label that rounding may cause; of a trained network it is far below, of noise a little."""
FEW = 8
"""Tiles up to which ``auto`` does not even time them."""
KEPT_SHAPES = 4
"""Window shapes for which OpenVINO keeps a network of its own; after that one for any shape."""
WORTH = 60.0
"""Seconds of work with torch from which on ``auto`` looks for a faster engine: to write the graph takes some."""


@dataclass(frozen=True)
class EngineChoice:
    """Which engine computes, and why.

    Attributes:
        name: ``torch``, ``onnx`` or ``openvino``.
        precision: ``float32`` or ``bf16``.
        seconds: Of one window, per engine that was timed.
        changed: Share of labels that differ from torch in 32 bits, on one real window.
        remembered: Whether the choice was made before.
    """

    name: str
    precision: str = "float32"
    seconds: dict[str, float] = field(default_factory=dict)
    changed: float = 0.0
    remembered: bool = False

    def __str__(self) -> str:
        """Say the choice in one line."""
        timed = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in sorted(self.seconds.items()))
        text = f"engine {self.name}" + (f" in {self.precision}" if self.precision != "float32" else "")
        if timed:
            text += f" ({timed} per tile{', timed before' if self.remembered else ''})"
        if self.precision != "float32":
            text += f"; {100 * self.changed:.2f} % of the labels of one tile differ from 32 bits"
        return text


class OpenVinoScores:
    """A graph run by OpenVINO; safe to call from several threads."""

    def __init__(self, path: Path | str, *, threads: int | None = None, precision: str = "float32") -> None:
        """Read the file.

        Args:
            path: ``.onnx`` or ``.xml``.
            threads: All processors if ``None``.
            precision: ``float32``, or ``bf16`` where the processor has it.
        """
        openvino = import_openvino()
        self._core = openvino.Core()
        self._model = self._core.read_model(os.fspath(path))
        self._settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._lock = threading.Lock()

    def __call__(self, images: Array) -> npt.NDArray[np.float32]:
        """Score images.

        Args:
            images: ``(B, C, H, W)`` float32.

        Returns:
            ``(B, K, H, W)`` logits (a model with a margin: its own size).
        """
        request = self._network(images.shape).create_infer_request()
        request.infer([np.ascontiguousarray(images, np.float32)], share_inputs=True)
        return np.array(request.get_output_tensor(0).data, dtype=np.float32)

    def _network(self, shape: tuple[int, ...]) -> Any:
        """A network compiled for one shape is faster; many shapes share one for all."""
        with self._lock:
            key = shape if shape in self._compiled or len(self._compiled) < KEPT_SHAPES else ()
            if key not in self._compiled:
                model = self._model.clone()
                if key:
                    model.reshape(list(key))
                self._compiled[key] = self._core.compile_model(model, "CPU", self._settings)
            return self._compiled[key]


class EngineModule(nn.Module):
    """An engine in the place of a network."""

    def __init__(self, scores: Scores) -> None:
        """Keep the engine.

        Args:
            scores: From ``(B, C, H, W)`` to logits.
        """
        super().__init__()
        self.scores = scores
        self.eval()

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score images.

        Args:
            images: ``(B, C, H, W)``.

        Returns:
            The output; heatmap and features are the logits, too: an engine knows no others.
        """
        logits = torch.from_numpy(self.scores(images.contiguous().cpu().numpy()))
        return SegmentationOutput(logits, (), logits, logits)


class BFloat16(nn.Module):
    """A network of torch in bfloat16 where that is safe (autocast)."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a network.

        Args:
            model: In evaluation mode.
        """
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Score images.

        Args:
            images: ``(B, C, H, W)``.

        Returns:
            The output, logits in 32 bits.
        """
        with torch.autocast(images.device.type, dtype=torch.bfloat16):
            output: SegmentationOutput = self.model(images)
        return output._replace(logits=output.logits.float())


def choose_engine(
    predictor: Predictor,
    name: str,
    windows: Array,
    *,
    precision: str = "float32",
    count: int | None = None,
    cache: Path | None = None,
) -> EngineChoice:
    """Give a predictor an engine.

    Args:
        predictor: The model; computes with the engine afterwards.
        name: ``auto``, ``torch``, ``onnx`` or ``openvino``.
        windows: ``(B, C, h, w)`` float32, normalised: a real tile, of the shape that most tiles have.
        precision: ``float32``; ``bf16`` for torch and OpenVINO only.
        count: How many such tiles there are to do; ``auto`` stays with torch for few. Many if ``None``.
        cache: Folder of graphs and choices; a temporary one, and nothing remembered, if ``None``.

    Returns:
        The choice.
    """
    check_engine(predictor, name, precision)
    on_cpu = next(predictor.tiled.model.parameters()).device.type == "cpu"
    if (name == "auto" and not on_cpu) or (name == "torch" and precision == "float32"):
        return EngineChoice("torch")
    if cache is not None and predictor.path is not None:
        return _Search(predictor, windows, precision, cache / "engines").choose(name, count)
    with tempfile.TemporaryDirectory(prefix="denseg-") as folder:
        return _Search(predictor, windows, precision, Path(folder)).choose(name, count)


def check_engine(predictor: Predictor, name: str, precision: str = "float32") -> None:
    """Refuse an engine that cannot be, before any work.

    Args:
        predictor: The model.
        name: Of the engine.
        precision: Of its numbers.

    Raises:
        UsageError: The engine or the precision is unknown, or they do not go together.
    """
    if name not in ENGINES:
        raise UsageError(f"an engine is {', '.join(ENGINES)}; got {name!r}")
    if precision not in PRECISIONS:
        raise UsageError(f"a precision is {' or '.join(PRECISIONS)}; got {precision!r}")
    if name == "onnx" and precision != "float32":
        raise UsageError("ONNX Runtime computes in float32 here; for bf16 take --engine openvino or torch")
    on_cpu = next(predictor.tiled.model.parameters()).device.type == "cpu"
    if name in {"onnx", "openvino"} and not on_cpu:
        raise UsageError(f"the engine {name} computes on the CPU; give --device cpu, or --engine torch")
    if name == "openvino":
        import_openvino()


class _Search:
    """Candidates for one model, tile and machine."""

    def __init__(self, predictor: Predictor, windows: Array, precision: str, folder: Path) -> None:
        self.predictor = predictor
        self.windows = np.ascontiguousarray(windows, np.float32)
        self.precision = precision
        self.tiled = predictor.tiled
        digest = "model" if predictor.path is None else sha256_of(predictor.path)[:24]
        self.graph = folder / f"{digest}-{__version__}.onnx"
        self.memory = folder / f"{digest}-{__version__}.json"
        shape = "x".join(map(str, windows.shape))
        views = "" if self.tiled.views is None else f" {self.tiled.views.count} views"
        threads = torch.get_num_threads()
        self.key = f"{shape}{views} {precision} {platform.machine()} {os.cpu_count()} cores {threads} threads"

    def choose(self, name: str, count: int | None) -> EngineChoice:
        known = self._recall() if name == "auto" else None
        if known is not None:
            try:
                self._install(known.name)
                return known
            except (DensegError, RuntimeError):
                pass  # what was there then is not any more: look again
        little = name == "auto" and self.precision == "float32" and count is not None
        if little and count is not None and count <= FEW:
            return EngineChoice("torch")
        self._use(None)
        start = time.perf_counter()
        expected = self.tiled.compute_labels(self.windows)
        if little and count is not None and (time.perf_counter() - start) * count < WORTH:
            return EngineChoice("torch")
        first = self._time()
        seconds = {"torch": first} if self.precision == "float32" else {}
        changed = {"torch": 0.0}
        wanted = (
            [name] if name != "auto" else ["onnx", "openvino"] if self.precision == "float32" else ["torch", "openvino"]
        )
        for candidate in wanted:
            try:
                self._install(candidate)
                differing = float((self.tiled.compute_labels(self.windows) != expected).mean())
                if name == "auto" and self.precision == "float32" and differing > TIES:
                    continue
                seconds[candidate], changed[candidate] = self._time(), differing
            except (DensegError, RuntimeError):
                if name != "auto":
                    raise
        best = name if name != "auto" else min(seconds, key=lambda key: seconds[key])
        self._install(best)
        choice = EngineChoice(best, self.precision, seconds, changed[best])
        self._remember(choice)
        return choice

    def _use(self, module: nn.Module | None) -> None:
        views = self.tiled.views
        if module is not None and views is not None:
            scales = [float(scale) for scale in views.scales]
            module = Views(module, self.tiled.geometry, scales=scales, flip=views.flip, turns=views.turns).eval()
        self.tiled.fast = module

    def _install(self, name: str) -> None:
        if name == "torch":
            self._use(BFloat16(self.tiled.model) if self.precision == "bf16" else None)
            return
        if not self.graph.is_file():
            make_folder(self.graph.parent)
            write_onnx(Graph(self.tiled.model), self.graph, side=fixed_size(self.tiled.geometry))
        threads = torch.get_num_threads()
        scores: Scores
        if name == "onnx":
            scores = OnnxScores(self.graph, threads=threads)
        else:
            scores = OpenVinoScores(self.graph, threads=threads, precision=self.precision)
        self._use(EngineModule(scores))

    def _time(self) -> float:
        """Seconds of one window: the better of two, after one to warm up."""
        self.tiled.compute_labels(self.windows)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            self.tiled.compute_labels(self.windows)
            times.append(time.perf_counter() - start)
        return min(times)

    def _recall(self) -> EngineChoice | None:
        try:
            found = json.loads(self.memory.read_text(encoding="utf-8"))[self.key]
            return EngineChoice(
                str(found["name"]), self.precision, dict(found["seconds"]), float(found["changed"]), remembered=True
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, choice: EngineChoice) -> None:
        known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self.memory.read_text(encoding="utf-8"))
        known[self.key] = {"name": choice.name, "seconds": choice.seconds, "changed": choice.changed}
        with contextlib.suppress(OSError):  # a cache that cannot be written is no cache
            make_folder(self.memory.parent)
            write_json(self.memory, known)
