# SPDX-License-Identifier: Apache-2.0
"""A trial of HDNet's claim: do its attention and its loss keep objects whole, and against what?

``python -m benchmarks.trial --data scenes --data camvid=FOLDER --arms fcn,hdnet --seeds 0,1 --steps 1000``

Every arm is trained with the same data, crops, steps (or seconds of processor time), optimiser and seeds, judged by its
last weights on pictures that it never saw, and scored for mIoU, boundary IoU and continuity, with intervals. What is
done is kept in ``--work``: a second call goes on where the first was stopped, and ``--store`` writes what there is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.harness import commit
from benchmarks.trial_arms import ARMS, Arm
from benchmarks.trial_scores import image_statistics
from benchmarks.trial_table import write_tables
from denseg.data.encoding import MaskEncoding
from denseg.data.folders.folder import discover
from denseg.data.generated.controlled import SceneOptions, write_scene_dataset
from denseg.data.samples.normalization import Normalization
from denseg.data.samples.pairs import read_pair
from denseg.metrics import FeatureScatter, feature_compactness
from denseg.models import load_checkpoint
from denseg.models.complexity import count_macs, count_parameters
from denseg.runs import RunFolder
from denseg.workflows.train import train

__all__ = ["Plan", "main"]

SCENES = {"train": 800, "val": 60}


@dataclass(frozen=True)
class Plan:
    """What all arms share.

    Attributes:
        work: Where data, runs and scores lie.
        backbone: Of every network.
        steps: Optimiser steps of every arm; 0 where ``seconds`` decide.
        seconds: Processor time of every training; the steps follow from the time that the first steps take.
        batch: Images per step.
        crop: Side of the training crop, in pixels.
        learning_rate: Of AdamW, falling to 0.
    """

    work: Path
    backbone: str
    steps: int
    seconds: float
    batch: int
    crop: int
    learning_rate: float

    def settings(self, arm: Arm, seed: int, steps: int) -> list[str]:
        """Write the configuration of one training."""
        values: dict[str, Any] = {
            "seed": seed,
            "model.name": arm.model,
            "model.backbone": self.backbone,
            "model.output_stride": 8,
            "train.iterations": steps,
            "train.batch_size": self.batch,
            "train.crop": self.crop,
            "train.scale": [0.8, 1.25],
            "train.optimizer": "adamw",
            "train.learning_rate": self.learning_rate,
            "train.weight_decay": 0.01,
            "train.warmup": 20,
            "train.workers": 0,
            "train.loss": dict(arm.loss),
            **{f"model.{key}": value for key, value in arm.options.items()},
        }
        return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names.

    Args:
        arguments: Of the command line; the process's own where ``None``.

    Returns:
        0 where all is done, 3 where the time ran out first.
    """
    options = _parser().parse_args(arguments)
    arms = [name.strip() for name in options.arms.split(";")] if options.arms else list(ARMS)
    unknown = [name for name in arms if name not in ARMS]
    if unknown:
        print(f"no arm named {unknown[0]!r}; known: {'; '.join(ARMS)}", file=sys.stderr)
        return 2
    plan = Plan(
        options.work, options.backbone, options.steps, 60 * options.minutes, options.batch, options.crop, options.rate
    )
    if bool(plan.steps) == bool(plan.seconds):
        print("give --steps or --minutes, and not both", file=sys.stderr)
        return 2
    seeds = [int(seed) for seed in options.seeds.split(",")]
    data = {name: folder for spec in options.data or ["scenes"] for name, folder in [_data(spec, plan, options.shrink)]}
    deadline = time.monotonic() + 60 * options.stop_after if options.stop_after else None
    done = True
    for name, arm, seed in [(n, a, s) for s in seeds for n in data for a in arms if not ARMS[a].base]:
        wanted = [arm, *(other for other in arms if ARMS[other].base == arm)]
        if all(_record_path(plan, name, each, seed).is_file() for each in wanted):
            continue
        done &= _in_process(plan, data[name], name, arm, seed, deadline)
        if options.store:
            _store(options, plan, list(data), arms, seeds)
        if not done:
            print("the time is over; the same command goes on from here", file=sys.stderr)
            break
    paths = _store(options, plan, list(data), arms, seeds) if options.store else ()
    for path in paths:
        print(path)
    return 0 if done else 3


def run_one(plan: Plan, folder: Path, data: str, name: str, seed: int) -> None:
    """Train one arm and score it, and every arm that shares its network; write its records.

    Args:
        plan: What all arms share.
        folder: The data set.
        data: Its name.
        name: Of the arm.
        seed: Of the training.
    """
    torch.set_num_threads(1)
    arm, began, before = ARMS[name], time.process_time(), _peak()
    out = plan.work / "runs" / _file_name(data) / f"{_file_name(name)}-{seed}"
    steps = plan.steps or _steps_in(plan, folder, arm, seed, out)
    result = train(folder, settings=plan.settings(arm, seed, steps), out=out, resume=True, device="cpu", progress=False)
    spent, peak = time.process_time() - began, _peak() - before
    run = RunFolder.open(result.run.path)
    model, metadata = load_checkpoint(run.last_path)
    facts = {
        "parameters": count_parameters(model),
        "macs": count_macs(model, plan.crop, plan.crop),
        "cpu_seconds": spent,
        "steps": steps,
        "memory": peak,
        "torch": torch.__version__,
        "commit": commit(),
    }
    shared = {other: arm for other, arm in ARMS.items() if other == name or arm.base == name}
    images: dict[str, list[Any]] = {other: [] for other in shared}
    scatter: FeatureScatter | None = None
    broken: dict[str, str] = {}
    classes = metadata["classes"]
    for image, target, probabilities, features in _judge(model, metadata, run, folder):
        here = feature_compactness(features, target[None], len(classes["names"]), classes["ignore_index"])
        scatter = here if scatter is None else scatter + here
        for other, member in shared.items():
            if other in broken:
                continue
            try:
                labels = probabilities.argmax(axis=0) if member.post is None else member.post(probabilities, image)
            except ImportError as error:  # a part of denseg that this version does not have
                broken[other] = str(error)
                continue
            counts = image_statistics(labels, target, len(classes["names"]), classes["ignore_index"])
            images[other].append({key: value.tolist() for key, value in counts.items()})
    facts["compactness"] = None if scatter is None else scatter.compactness
    for other in shared:
        if other in broken:
            print(f"{other}: left out, {broken[other]}", file=sys.stderr)
            continue
        path = _record_path(plan, data, other, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"arm": other, "seed": seed, "data": data, "facts": facts, "images": images[other]}
        scratch = path.with_suffix(".part")
        scratch.write_text(json.dumps(document), encoding="utf-8")
        scratch.replace(path)


@torch.inference_mode()
def _judge(model: Any, metadata: Any, run: RunFolder, folder: Path) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Give image, target, probabilities and features of every picture of the validation split."""
    normalization = Normalization.from_json(metadata["normalization"])
    encoding = MaskEncoding.from_json(metadata["encoding"])
    held_out = {row.stem for row in run.split() if row.split == "val"}
    for pair in discover(folder).pairs:
        if pair.stem in held_out:
            image, target = read_pair(pair, encoding, bands=normalization.bands)
            output = model(torch.from_numpy(normalization.apply(image))[None])
            yield image, np.asarray(target), output.logits[0].softmax(dim=0).numpy(), output.features


def _steps_in(plan: Plan, folder: Path, arm: Arm, seed: int, out: Path) -> int:
    """Find how many steps fit the time: measured on the network's own first steps, kept for a resumed run."""
    known = out.with_suffix(".steps")
    if not known.is_file():
        probe, times = out.with_name(f"{out.name}-probe"), []
        for count in (4, 12):
            began = time.process_time()
            train(
                folder,
                settings=plan.settings(arm, seed, count),
                out=probe.with_name(f"{probe.name}-{count}"),
                resume=True,
                device="cpu",
                progress=False,
            )
            times.append(time.process_time() - began)
        each = max((times[1] - times[0]) / 8, 1e-3)
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(str(max(20, round(plan.seconds / each))), encoding="utf-8")
    return int(known.read_text(encoding="utf-8"))


def _in_process(plan: Plan, folder: Path, data: str, arm: str, seed: int, deadline: float | None) -> bool:
    """Run one training in a process of its own; ask it to stop, so that it can go on, when the time is over."""
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        return False
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    process = context.Process(target=run_one, args=(plan, folder, data, arm, seed))
    print(f"{time.strftime('%H:%M:%S')} {data}: {arm}, seed {seed}", flush=True)
    process.start()
    process.join(left)
    if process.is_alive():
        process.terminate()  # saves its state
        process.join()
        return False
    if process.exitcode:
        raise RuntimeError(f"{data}: {arm}, seed {seed} ended with exit code {process.exitcode}")
    return True


def _store(
    options: Any, plan: Plan, data: Sequence[str], arms: Sequence[str], seeds: Sequence[int]
) -> tuple[Path, ...]:
    """Write the tables of what is done."""
    records: dict[str, dict[str, list[Any]]] = {}
    for name in data:
        for arm in arms:
            paths = [_record_path(plan, name, arm, seed) for seed in seeds]
            found = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
            if found:
                records.setdefault(name, {})[arm] = found
    facts = {
        "backbone": plan.backbone,
        "budget": f"{plan.steps} steps" if plan.steps else f"{plan.seconds / 60:g} minutes of processor time",
        "batch": plan.batch,
        "crop": plan.crop,
        "learning_rate": plan.learning_rate,
        "pictures": SCENES,
        "shrink": options.shrink,
        "data": list(data),
        "asked": {"arms": list(arms), "seeds": list(seeds)},
    }
    return write_tables(options.store, records, facts, baseline=options.baseline)


def _data(spec: str, plan: Plan, shrink: int) -> tuple[str, Path]:
    """Find or make a data set: ``scenes[:key=value,…]``, or ``NAME=FOLDER``."""
    kind, _, rest = spec.partition(":")
    if kind == "scenes":
        changes = {key: float(value) for key, _, value in (part.partition("=") for part in rest.split(",") if part)}
        size = int(changes.pop("size", plan.crop))
        groups = int(changes.pop("groups", 4))
        folder = plan.work / "data" / _file_name(spec)
        if not (folder / "dataset.yaml").is_file():
            write_scene_dataset(folder, replace(SceneOptions(), size=size, groups=groups, **changes), images=SCENES)
        return spec, folder
    name, _, path = spec.partition("=")
    source = Path(path)
    if shrink == 1:
        return name, source
    folder = plan.work / "data" / f"{name}-{shrink}"
    if not (folder / "dataset.yaml").is_file():
        _shrink(source, folder, shrink)
    return name, folder


def _shrink(source: Path, folder: Path, factor: int) -> None:
    """Copy a folder with pictures of a fraction of the size; masks keep the label in the middle of each block."""
    for path in sorted(source.rglob("*.*")):
        target = folder / path.relative_to(source)
        if path.suffix.lower() not in {".png", ".jpg"}:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            size = picture.width // factor, picture.height // factor
            mask = path.relative_to(source).parts[0] == "masks"
            picture.resize(size, Image.Resampling.NEAREST if mask else Image.Resampling.BOX).save(
                target, **({} if mask else {"quality": 95})
            )
    (folder / "dataset.yaml").write_text((source / "dataset.yaml").read_text(encoding="utf-8"), encoding="utf-8")


def _record_path(plan: Plan, data: str, arm: str, seed: int) -> Path:
    return plan.work / "scores" / _file_name(data) / f"{_file_name(arm)}-{seed}.json"


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def _peak() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trial", description=__doc__)
    parser.add_argument("--data", action="append", help="scenes[:key=value,…] or NAME=FOLDER; may be given again")
    parser.add_argument("--arms", default="", help="names with ; between them; all where empty")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=0, help="optimiser steps of every arm")
    parser.add_argument("--minutes", type=float, default=0.0, help="instead: processor time of every arm")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.005, help="learning rate")
    parser.add_argument("--shrink", type=int, default=1, help="folders' pictures at this fraction of their size")
    parser.add_argument("--baseline", default="fcn", help="arm that the others are compared with")
    parser.add_argument("--work", type=Path, default=Path("runs/trial"))
    parser.add_argument("--store", default="", help="name of the files in benchmarks/results")
    parser.add_argument("--stop-after", type=float, default=0.0, help="minutes after which to stop, resumable")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
