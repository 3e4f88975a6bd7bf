# SPDX-License-Identifier: Apache-2.0
"""``denseg demo``: the whole way on pictures that denseg draws itself; no download, no data of anybody's."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from denseg.data.generated.synthetic import write_demo_dataset
from denseg.errors import OutputError
from denseg.files import make_folder, write_json
from denseg.training.progress import create_progress
from denseg.workflows.evaluate import EvaluateResult, evaluate
from denseg.workflows.predict import PredictResult, predict
from denseg.workflows.train import train

__all__ = ["DemoResult", "run_demo"]

MARKER = "demo.json"
RECIPE = "demo"


@dataclass(frozen=True)
class DemoResult:
    """What the demo left.

    Attributes:
        out: Folder with ``data/``, ``run/`` and ``predictions/``.
        scores: Those of the test split, which training never saw.
        predictions: What became of the test pictures.
        seconds: How long it took.
    """

    out: Path
    scores: EvaluateResult
    predictions: PredictResult
    seconds: float

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.out / "run" / "report.html"

    def lines(self) -> list[str]:
        """Give the result as text for a person."""
        document = self.scores.document
        low, high = document["interval"]
        unseen = (
            f"{document['images']} unseen pictures: mIoU {document['miou']:.3f}, 95 % interval {low:.3f}-{high:.3f}; "
            f"majority baseline {document['baseline_miou']:.3f}"
        )
        classes = ", ".join(f"{row['name']} {row['iou']:.3f}" for row in document["classes"] if row["iou"] is not None)
        return [
            unseen,
            f"IoU by class: {classes}",
            f"labels and overlays: {self.predictions.out}",
            f"took {self.seconds:.0f} s",
            f"open this in a browser: {self.report.resolve()}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Give the result as JSON values."""
        return {
            "out": str(self.out),
            "report": str(self.report),
            "seconds": round(self.seconds, 1),
            "test": self.scores.to_json(),
            "predictions": self.predictions.to_json(),
        }


def run_demo(
    out: Path | str, *, recipe: str = RECIPE, settings: tuple[str, ...] = (), progress: bool = True, size: int = 256
) -> DemoResult:
    """Draw the data, train, score the test split, label it, and write the report.

    A demo that was interrupted is gone on with; a finished one is shown again.

    Args:
        out: The folder; new, empty, or of an earlier demo.
        recipe: How it is trained.
        settings: ``key=value`` over the recipe.
        progress: Tell how it goes, on stderr.
        size: Height and width of the pictures drawn, in pixels.

    Returns:
        What it left.

    Raises:
        OutputError: The folder holds something else.
    """
    began = time.monotonic()
    out = Path(out)
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise OutputError(f"{out} is not empty and holds no demo; choose another --out", path=out)
    make_folder(out)
    write_json(out / MARKER, {"format": 1})
    display = create_progress(progress)
    data, run, predictions = out / "data", out / "run", out / "predictions"
    if not (data / "dataset.yaml").is_file():  # written last
        display.message(f"drawing pictures of cells into {data}")
        write_demo_dataset(data, size=size)
    train(data, recipe=recipe, settings=settings, out=run, resume=True, progress=progress)
    display.message("scoring and labelling the pictures that training never saw")
    scores = evaluate(run, data, split="test")
    labelled = predict(run, [data / "images" / "test"], out=predictions)
    return DemoResult(out, scores, labelled, time.monotonic() - began)
