# SPDX-License-Identifier: Apache-2.0
"""Compare: several models on the same data, split, seeds and budget, and what the difference between them is worth.

Every training is a ``denseg train`` of its own process, so that one that fails, or takes all memory, stops no other.
What is finished stays: the same command goes on where it stopped, and further models can be added later.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from denseg.config import load_config, recipe_names
from denseg.data.folders.folder import discover
from denseg.errors import DataError, InterruptedRunError, OutputError, UnknownNameError, UsageError
from denseg.files import make_folder, write_atomic, write_json
from denseg.runs import RunFolder
from denseg.workflows.comparison import Comparison, Member, judge

__all__ = ["Candidate", "CompareResult", "compare", "plan_candidates"]

RECORD = "compare.json"
FORMATS = ("csv", "md", "tex")


@dataclass(frozen=True)
class Candidate:
    """One way to train.

    Attributes:
        name: What it is called in the table; unique.
        model: Catalog name; ``None``: the recipe's.
        backbone: Name of the backbone; ``None``: the model's own, or the recipe's.
        recipe: Name or file of a recipe; ``None``: none.
        settings: ``key=value`` besides.
    """

    name: str
    model: str | None = None
    backbone: str | None = None
    recipe: str | None = None
    settings: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The name as a folder's."""
        return re.sub(r"[^\w.+-]+", "-", self.name).strip("-")


@dataclass(frozen=True)
class CompareResult:
    """A comparison.

    Attributes:
        out: The folder.
        comparison: Scores and tests.
        failed: Names of candidates that failed, each with the reason.
    """

    out: Path
    comparison: Comparison
    failed: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether every candidate was trained and scored."""
        return not self.failed

    def lines(self) -> list[str]:
        """Say the result to a person."""
        lines = self.comparison.lines() if self.comparison.rows else []
        return [*lines, "", f"report    {self.out / 'report.html'}", f"tables    {self.out}/table.{{csv,md,tex}}"]

    def problems(self) -> list[str]:
        """Say each failure in one line."""
        return [f"{name}: {reason}" for name, reason in self.failed]

    def to_json(self) -> dict[str, Any]:
        """Give the result as JSON values."""
        failed = [{"name": name, "message": reason} for name, reason in self.failed]
        return {"ok": self.ok, "out": str(self.out), **self.comparison.to_json(), "failed": failed}


def plan_candidates(
    *,
    models: Sequence[str] = (),
    layers: Sequence[str] = (),
    losses: Sequence[str] = (),
    recipes: Sequence[str] = (),
    backbone: str | None = None,
) -> tuple[Candidate, ...]:
    """List what is compared: models, layers on a backbone and recipes side by side, each with every loss.

    Args:
        models: Catalog names; ``NAME@BACKBONE`` gives one its own backbone.
        layers: Context layers, each in the model ``context``.
        losses: Names of losses, sums as ``cross_entropy+dice``; the default loss where empty.
        recipes: Names or files.
        backbone: For all that take one and do not name theirs.

    Returns:
        The candidates, in order.

    Raises:
        UsageError: There is nothing to compare, or the same twice.
        UnknownNameError: A model, layer, loss or recipe is unknown.
    """
    from denseg.layers.catalog import LAYERS
    from denseg.losses.catalog import LOSSES
    from denseg.models import MODELS

    for kind, names, known in (("layer", layers, LAYERS), ("model", [_bare(name) for name in models], MODELS)):
        for name in names:
            if name not in known:
                raise UnknownNameError(kind, name, known)
    for name in (part for loss in losses for part in loss.split("+")):
        if name not in LOSSES:
            raise UnknownNameError("loss", name, LOSSES)
    for name in recipes:
        if name not in recipe_names() and not Path(name).is_file():
            raise UnknownNameError("recipe", name, recipe_names())
    found = []
    for name in models:
        plain, _, own = name.partition("@")
        takes = MODELS[plain].backbone is not None
        found.append(Candidate(name, plain, own or (backbone if takes else None)))
    found += [Candidate(f"context:{name}", "context", backbone, None, (f"model.layer={name}",)) for name in layers]
    found += [Candidate(Path(name).stem, None, backbone, name) for name in recipes]
    if losses:
        weights = {loss: json.dumps(dict.fromkeys(loss.split("+"), 1.0)) for loss in losses}
        found = [
            Candidate(f"{one.name}, {loss}", one.model, one.backbone, one.recipe, (*one.settings, f"train.loss={text}"))
            for one in found or [Candidate("unet", "unet")]
            for loss, text in weights.items()
        ]
    if not found:
        raise UsageError("nothing to compare; name some with --models, --layers, --losses or --recipes")
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice!r} is named twice; every candidate needs a name of its own")
    return tuple(found)


def compare(  # noqa: PLR0913 - the options of the command
    data: Path | str,
    candidates: Sequence[Candidate],
    *,
    out: Path | str | None = None,
    seeds: int = 1,
    budget: str | None = None,
    epochs: int | None = None,
    settings: Sequence[str] = (),
    device: str | None = None,
    message: Callable[[str], None] = lambda text: None,
) -> CompareResult:
    """Train, score and judge all candidates.

    Args:
        data: The data folder.
        candidates: What ``plan_candidates`` gave.
        out: The folder; ``runs/DATA-compare`` if empty. One that holds a comparison on the same terms is gone on with.
        seeds: Trainings of each, with seeds 0, 1, …; 3 or more test the ways to train, fewer the networks at hand.
        budget: Time of each training, for example ``20m``.
        epochs: Passes over the training split, instead.
        settings: ``key=value`` for all.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        message: Told what happens.

    Returns:
        The comparison.

    Raises:
        UsageError: Options exclude each other.
        DataError: Not one candidate could be trained.
        InterruptedRunError: Ctrl-C or SIGTERM; the same command goes on.
    """
    if budget is not None and epochs is not None:
        raise UsageError("give --budget or --epochs, not both")
    if seeds < 1:
        raise UsageError(f"--seeds is at least 1, got {seeds}")
    data, common = Path(data), list(settings)
    common += [f"train.budget={budget}"] if budget is not None else []
    common += [f"train.epochs={epochs}"] if epochs is not None else []
    if not any(setting.startswith("data.split_seed=") for setting in common):
        common.append("data.split_seed=0")
    for one in candidates:
        load_config(one.recipe, [*one.settings, *common])  # a misspelt key is told before anything is trained
    split = "test" if "test" in discover(data).splits else "val"
    folder = Path("runs") / f"{data.resolve().name}-compare" if out is None else Path(out)
    _claim(folder, {"data": str(data.resolve()), "settings": common, "seeds": seeds, "split": split}, candidates)
    members: list[Member] = []
    failed: list[tuple[str, str]] = []
    for number, one in enumerate(candidates):
        runs = []
        for seed in range(seeds):
            run = folder / "runs" / one.folder / f"seed-{seed}"
            message(f"{one.name} ({number + 1} of {len(candidates)}), seed {seed}: {run}")
            where = [f"device={device}"] if device is not None else []
            reason = _train_and_score(data, one, run, [*common, *where, f"seed={seed}"], split)
            if reason:
                failed.append((one.name, reason))
                message(f"{one.name} failed: {reason}")
                break
            runs.append(RunFolder.open(run))
        if len(runs) == seeds:
            members.append(Member(one.name, tuple(runs)))
        _write(folder, members, split)
    if not members:
        raise DataError(f"not one of {len(candidates)} candidates could be trained; the first: {failed[0][1]}")
    comparison = _write(folder, members, split)
    return CompareResult(folder, comparison, tuple(failed))


def _bare(name: str) -> str:
    return name.partition("@")[0]


def _claim(folder: Path, terms: dict[str, Any], candidates: Sequence[Candidate]) -> None:
    """Mark the folder with the terms of the comparison; refuse other terms."""
    path = folder / RECORD
    known: dict[str, Any] = {}
    if path.is_file():
        record = json.loads(path.read_text(encoding="utf-8"))
        for key, value in terms.items():
            if record["terms"].get(key) != value:
                raise OutputError(
                    f"{folder} holds a comparison with {key} {record['terms'].get(key)}, not {value}; "
                    "choose another --out",
                    path=folder,
                )
        known = {entry["name"]: entry for entry in record["candidates"]}
        for one in candidates:
            entry = json.loads(json.dumps(asdict(one)))
            if known.get(one.name, entry) != entry:
                raise OutputError(
                    f"{folder} holds another candidate of the name {one.name!r}; choose another --out", path=folder
                )
    elif folder.is_dir() and any(folder.iterdir()):
        raise OutputError(f"{folder} is not empty and holds no comparison; choose another --out", path=folder)
    make_folder(folder)
    known |= {one.name: asdict(one) for one in candidates}
    write_json(path, {"format": 1, "terms": terms, "candidates": list(known.values())})


def _train_and_score(data: Path, one: Candidate, run: Path, settings: Sequence[str], split: str) -> str:
    """Do what is left to do of one training; give the reason why it failed, or nothing."""
    words = [word for setting in (*one.settings, *settings) for word in ("--set", setting)]
    for option, value in (("--model", one.model), ("--backbone", one.backbone), ("--recipe", one.recipe)):
        words += [option, value] if value is not None else []
    steps = []
    if not RunFolder.is_run(run) or RunFolder.open(run).status != "finished":
        steps.append(["train", str(data), "--out", str(run), "--resume", *words])
    if not RunFolder(run).evaluation_path(split).is_file():
        steps.append(["eval", str(run), str(data), "--split", split])
    if not (run.parent / f"{run.name}.json").is_file():
        steps.append(["inspect", "--checkpoint", str(run), "--latency", "--json", f"{run}.json"])
    for step in steps:
        if step[0] == "eval" and RunFolder(run).evaluation_path(split).is_file():
            continue  # the training has scored val
        if step[0] == "inspect":
            step += ["--size", _picture_size(RunFolder.open(run), split)]
        reason = _call(step)
        if reason:
            return reason
    return ""


def _picture_size(run: RunFolder, split: str) -> str:
    """Give the size of the first scored image, as ``HxW``."""
    from denseg.data.reading.images import probe_image

    name = run.evaluation(split)["per_image"][0]["image"]
    info = probe_image(Path(run.config().data.path or ".") / name)
    return f"{info.height}x{info.width}"


def _call(arguments: list[str]) -> str:
    """Run one command of denseg in a process of its own.

    Args:
        arguments: What follows ``denseg``.

    Returns:
        What it said when it failed, or nothing.

    Raises:
        InterruptedRunError: It was asked to stop.
    """
    command = [sys.executable, "-m", "denseg", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # noqa: S603
    said: list[str] = []
    try:
        for line in process.stderr or ():
            said = [*said[-20:], line.strip()]
            sys.stderr.write(line)
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)  # it saves, and so it can go on
        process.wait()
        raise
    finally:
        if process.stderr is not None:
            process.stderr.close()
    if code == 3:
        raise InterruptedRunError("stopped; what was saved is whole: the same command goes on from there")
    if code == 0:
        return ""
    errors = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    return errors[-1] if errors else f"the process ended with code {code}" + _signal_words(code)


def _signal_words(code: int) -> str:
    if code != -signal.SIGKILL or os.name != "posix":
        return ""
    return " (killed, most likely because the memory was full; try a smaller train.batch_size or train.crop)"


def _write(folder: Path, members: Sequence[Member], split: str) -> Comparison:
    """Judge what is there, and write table and report."""
    from denseg.report import write_compare_page

    comparison = judge(members, split)
    if members:
        for name in FORMATS:
            write_atomic(folder / f"table.{name}", comparison.table(name))
        document = comparison.to_json()
        write_json(folder / "results.json", document)
        write_compare_page(document, folder / "report.html")
    return comparison
