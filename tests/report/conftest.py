# SPDX-License-Identifier: Apache-2.0
"""A run folder as training and evaluation leave it, made in a second without either."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from denseg.config import RunConfig
from denseg.data.encoding import MaskEncoding
from denseg.runs import RunFolder, SplitRow
from denseg.types import ClassTable

NAMES = ("road", "building", "sky", "tree", "car", "pole")
COLORS = ((128, 64, 128), (128, 0, 0), (128, 128, 128), (128, 128, 0), (64, 0, 128), (192, 192, 128))
ENVIRONMENT = {
    "denseg": "0.1.0",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "python": "3.11.7",
    "platform": "Linux-6.1",
    "processor": "Two-core CPU",
    "cores": 2,
    "memory_bytes": 8 * 2**30,
    "packages": {"torch": "2.10.0", "numpy": "2.3.0"},
    "command": "denseg train street --model unet --out runs/street",
    "folder": "/home/someone",
    "started": "2026-01-02T03:04:05+00:00",
    "device": "cpu",
}


def draw_street(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Draw labels of a street: sky, trees, buildings, road, cars, poles."""
    labels = np.full((height, width), 2, np.uint8)
    horizon = int(height * rng.uniform(0.45, 0.6))
    left = 0
    while left < width:
        right = left + int(width * rng.uniform(0.1, 0.25)) + 1
        top = int(horizon * rng.uniform(0.1, 0.8))
        labels[top:horizon, left:right] = rng.choice((1, 1, 3))
        left = right
    labels[horizon:] = 0
    for _ in range(3):
        row, column = horizon + int(height * rng.uniform(0.0, 0.2)), int(width * rng.uniform(0, 0.9))
        labels[row : row + height // 8, column : column + width // 7] = 4
    for _ in range(3):
        column = int(width * rng.uniform(0, 1))
        labels[int(horizon * 0.4) : horizon + height // 10, column : column + max(1, width // 100)] = 5
    return labels


def spoil(rng: np.random.Generator, labels: np.ndarray, amount: float) -> np.ndarray:
    """Make a prediction of a truth: shift it, lose the poles now and then, and patch a wrong class in."""
    wrong = np.roll(labels, (int(rng.integers(-2, 3)), int(rng.integers(-3, 4))), (0, 1))
    if rng.random() < amount * 3:
        wrong = np.where(wrong == 5, 1, wrong)
    height, width = labels.shape
    side = int(min(height, width) * min(1.0, amount * 3))
    row, column = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
    wrong[row : row + side, column : column + side] = rng.integers(0, 5)
    return wrong.astype(np.uint8)


def counts_of(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    known = truth < classes
    pair = truth[known].astype(np.int64) * classes + prediction[known]
    return np.bincount(pair, minlength=classes * classes).reshape(classes, classes)


def scores_of(counts: np.ndarray) -> dict[str, Any]:
    hits, truth, called = np.diag(counts), counts.sum(1), counts.sum(0)
    union = truth + called - hits
    iou = [None if not u else float(h / u) for h, u in zip(hits, union, strict=True)]
    recall = [None if not t else float(h / t) for h, t in zip(hits, truth, strict=True)]
    there = [value for value in iou if value is not None]
    found = [value for value in recall if value is not None]
    return {
        "miou": float(np.mean(there)) if there else None,
        "pixel_accuracy": float(hits.sum() / max(counts.sum(), 1)),
        "mean_accuracy": float(np.mean(found)) if found else None,
        "frequency_weighted_iou": float(
            np.nansum([(v or 0) * t for v, t in zip(iou, truth, strict=True)]) / counts.sum()
        ),
        "iou": iou,
        "recall": recall,
        "pixels": [int(t) for t in truth],
    }


def make_metrics(epochs: int, names: Sequence[str], rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for epoch in range(1, epochs + 1):
        rise = 1 - np.exp(-3 * epoch / max(epochs, 4))
        row = {
            "stage": "train",
            "epoch": epoch,
            "step": 30 * epoch,
            "images": 240,
            "seconds": 21.5,
            "images_per_second": 11.2,
            "learning_rate": 0.01 * (1 - (epoch - 1) / epochs) ** 0.9,
            "loss": float(1.6 * (1 - 0.85 * rise) + rng.normal(0, 0.01)),
            "val_loss": float(1.7 * (1 - 0.7 * rise) + rng.normal(0, 0.02)),
            "val_miou": float(0.72 * rise + rng.normal(0, 0.01)),
            "val_pixel_accuracy": float(0.3 + 0.62 * rise),
            "val_mean_accuracy": float(0.8 * rise),
        }
        for index, name in enumerate(names):
            row[f"iou/{name}"] = float(np.clip((0.95 - 0.1 * index) * rise + rng.normal(0, 0.015), 0, 1))
        rows.append(row)
    return rows


def details_of(iou: Sequence[float | None]) -> dict[str, Any]:
    """What an evaluation tells beside the confusion matrix."""
    there = [value for value in iou if value is not None]
    mean = float(np.mean(there)) if there else None
    centers = (np.arange(15) + 0.5) / 15
    part = {"score": mean, "interval": [None, None] if mean is None else [mean - 0.02, mean + 0.02], "classes": iou}
    return {
        "boundary": part | {"images": 16},
        "continuity": part | {"images": 16},
        "sizes": [
            {"from": 0, "to": 1024, "components": 61, "recall": 0.41, "found": 0.35},
            {"from": 1024, "to": 9216, "components": 22, "recall": 0.8, "found": 0.91},
            {"from": 9216, "to": None, "components": 0, "recall": None, "found": None},
        ],
        "calibration": {
            "temperature": 1.37,
            "expected_calibration_error": 0.031,
            "unscaled_error": 0.08,
            "brier_score": 0.21,
            "pixels": 196608,
            "bins": [
                {"confidence": None, "accuracy": None, "pixels": 0}
                if at < 4
                else {"confidence": float(sure), "accuracy": float(sure**1.2), "pixels": 1000 * at}
                for at, sure in enumerate(centers)
            ],
        },
        "risk_coverage": {
            "area": 0.02,
            "coverage": [float(at) for at in np.linspace(0.05, 1, 20)],
            "risk": [float(0.12 * at**2) for at in np.linspace(0.05, 1, 20)],
            "threshold": [float(1 - at) for at in np.linspace(0.05, 1, 20)],
        },
    }


def write_run(
    root: Path,
    *,
    images: int = 16,
    epochs: int = 12,
    size: tuple[int, int] = (96, 128),
    names: Sequence[str] = NAMES,
    colors: Sequence[tuple[int, int, int]] = COLORS,
    findings: Sequence[dict[str, Any]] = (),
    splits: Sequence[str] = ("val",),
    evaluation: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
) -> RunFolder:
    """Write a data folder and a finished run on it; ``evaluation`` replaces values of the last split's JSON."""
    rng = np.random.default_rng(7)
    data = root / "street"
    classes = ClassTable(tuple(names), tuple(colors))
    rows = [
        SplitRow(f"t{i:03d}", f"images/train/t{i:03d}.png", f"masks/train/t{i:03d}.png", "train", "0" * 64)
        for i in range(24)
    ]
    truths: dict[str, np.ndarray] = {}
    for split in splits:
        for kind in ("images", "masks"):
            (data / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(images):
            stem = f"{split}_{index:03d}"
            labels = draw_street(rng, *size)
            labels[:2] = 255
            truths[stem] = labels
            table = np.array([*(list(COLORS)), *[(90, 90, 90)] * 250], np.uint8) // 2 + 70
            pixels = table[labels] + rng.integers(0, 40, (*size, 1), np.uint8)
            Image.fromarray(pixels).save(data / "images" / split / f"{stem}.png", compress_level=1)
            Image.fromarray(labels).save(data / "masks" / split / f"{stem}.png")
            rows.append(SplitRow(stem, f"images/{split}/{stem}.png", f"masks/{split}/{stem}.png", split, "0" * 64))
    values: dict[str, Any] = {
        "data": {"path": str(data)},
        "model": {"name": "unet", "width": 0.25},
        "train": {"epochs": max(epochs, 1)},
    }
    run = RunFolder.create(
        root / "runs" / "street",
        config=RunConfig.model_validate(values | (config or {})),
        classes=classes,
        split=rows,
        environment=ENVIRONMENT,
        check={"ok": True, "findings": list(findings), "encoding": MaskEncoding.identity(len(names)).to_json()},
    )
    run.write_metrics(make_metrics(epochs, names, rng))
    for split in splits:
        folder = run.prediction_path(split, "x").parent
        folder.mkdir(parents=True)
        total = np.zeros((len(names), len(names)), np.int64)
        per_image = []
        for row in rows:
            if row.split != split:
                continue
            prediction = spoil(rng, truths[row.stem], float(rng.uniform(0, 0.3)))
            prediction[prediction == 255] = 2
            Image.fromarray(prediction).save(run.prediction_path(split, row.stem))
            counts = counts_of(truths[row.stem], prediction, len(names))
            total += counts
            single = scores_of(counts)
            per_image.append(
                {"stem": row.stem, "image": row.image, "mask": row.mask, "entropy": float(rng.uniform(0, 0.4))}
                | {key: single[key] for key in ("miou", "pixel_accuracy")}
            )
        scores = scores_of(total)
        run.write_evaluation(
            split,
            {
                "split": split,
                **{key: scores[key] for key in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou")},
                "baseline_miou": 0.061,
                "interval": [scores["miou"] - 0.03, scores["miou"] + 0.027],
                "images": images,
                "classes": [
                    {"name": name, "color": list(color), "iou": iou, "accuracy": recall, "pixels": pixels}
                    for name, color, iou, recall, pixels in zip(
                        names, colors, scores["iou"], scores["recall"], scores["pixels"], strict=True
                    )
                ],
                "confusion": total.tolist(),
                "per_image": per_image,
                **details_of(scores["iou"]),
                "warnings": [],
                "checkpoint": "checkpoints/best.safetensors",
                "model": "unet",
                "ignored_pixels": int(sum((label == 255).sum() for label in truths.values())),
                **(evaluation or {}),
            },
        )
    run.set_status("finished", epoch=epochs, epochs=epochs)
    return run


@pytest.fixture
def make_run() -> Callable[..., RunFolder]:
    """``make_run(root, images=16, …)`` writes a data folder and a finished run on it."""
    return write_run


@pytest.fixture(scope="session")
def street_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run of 12 epochs with 16 evaluated images. Read it only."""
    return write_run(
        tmp_path_factory.mktemp("street"),
        findings=[
            {
                "code": "near-duplicates",
                "severity": "warning",
                "count": 3,
                "files": ["images/val/val_001.png", "images/val/val_002.png"],
                "message": "3 images of val look almost like images of train",
                "action": "the score leans high; split by recording instead",
            }
        ],
    )


# What a page must hold for everyone, read from the page itself: contrast of every text against what lies behind it
# (WCAG 1.4.3: 4.5, large text 3), names of controls, names of images and regions, one place for each id.
AUDIT = """
() => {
  const found = [];
  const seen = (element) => {
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    return style.visibility !== "hidden" && style.display !== "none" && box.width > 1 && box.height > 1;
  };
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((value, at) => (at < 3 ? value : value / 255));
  };
  const over = (top, under) => [0, 1, 2].map((at) => top[at] * top[3] + under[at] * (1 - top[3])).concat(1);
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const light = ([red, green, blue]) => {
    const linear = [red, green, blue].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const contrast = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !seen(element) || element.closest(".viewer, .spoken, script, svg")) continue;
    const style = getComputedStyle(element);
    const back = behind(element);
    const ratio = contrast(over(rgba(style.color), back), back);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    texts += 1;
    if (ratio < needed) found.push(`contrast ${ratio.toFixed(2)}: ${walker.currentNode.data.trim().slice(0, 40)}`);
    if (size < 12) found.push(`small ${size}: ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  const named = (element) =>
    element.getAttribute("aria-label") || element.labels?.[0]?.textContent.trim() || element.textContent.trim();
  const controls = "button, input, select, a[href], summary, [role=region], [role=group]";
  for (const element of document.querySelectorAll(controls)) {
    if (!named(element)) found.push(`no name: ${element.outerHTML.slice(0, 80)}`);
  }
  for (const image of document.querySelectorAll("img:not([alt])")) found.push(`no alt: ${image.outerHTML.slice(-80)}`);
  for (const box of document.querySelectorAll("*")) {
    const style = getComputedStyle(box);
    const scrolls = /auto|scroll/.test(style.overflowX) && box.scrollWidth > box.clientWidth + 1;
    if (scrolls && box.tabIndex < 0 && !box.matches("nav")) found.push(`scrolls, no tab stop: ${box.className}`);
  }
  if (document.documentElement.scrollWidth > innerWidth) {
    const beyond = (element) =>
      element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".scroll, .matrix, pre, dialog");
    const wide = [...document.querySelectorAll("main *")].filter(beyond);
    found.push(`wider than the screen: ${document.documentElement.scrollWidth}, ${wide[0]?.outerHTML.slice(0, 80)}`);
  }
  return [found, texts];
}
"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api")
    executable = next(
        (path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).is_file()), None
    )
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync.sync_playwright() as playwright:
        if executable is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip("no Chromium here")
        started = playwright.chromium.launch(executable_path=executable, args=flags)
        yield started
        started.close()


class Visit:
    """An open page that remembers what went wrong."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.faults: list[str] = []
        self.context = browser.new_context(**({"viewport": {"width": 1360, "height": 900}} | options))
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self._requested(request.url))
        self.wanted = path.as_uri()
        self.page.goto(self.wanted)

    def _requested(self, url: str) -> None:
        if not url.startswith(("data:", self.wanted)):
            self.faults.append(f"request: {url[:100]}")

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def audit(self) -> tuple[list[str], int]:
        """List what not everyone can read or use, with everything unfolded; and how many texts were looked at."""
        self.page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        found, texts = self.page.evaluate(AUDIT)
        return found, texts

    def css(self, selector: str, name: str) -> str:
        return str(self.page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{name}"))


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def start(path: Path, **options: Any) -> Visit:
        visits.append(Visit(browser, path, **options))
        return visits[-1]

    yield start
    for one in visits:
        one.context.close()
        assert one.faults == []
