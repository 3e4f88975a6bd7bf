# SPDX-License-Identifier: Apache-2.0
"""K-fold training: one run per fold, each held out another part; together they predict as one model.

``denseg train DATA --folds 5 --out RUN`` writes the folds' runs into ``RUN/fold-1`` … and, when all are there, makes
``RUN`` itself a finished run: its checkpoint holds all networks, its scores are those of every picture by the one
network that had not seen it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denseg.config import RunConfig, load_config, parse_budget
from denseg.errors import InterruptedRunError, RunError, UsageError
from denseg.files import make_folder, write_json
from denseg.runs import RunFolder, SplitRow, describe_environment, lock_run
from denseg.runs.folder import RUN_FORMAT

if TYPE_CHECKING:
    from denseg.models import SegmentationModel
    from denseg.training.evaluation import Evaluation
    from denseg.training.progress import Progress
    from denseg.workflows.train import TrainResult

__all__ = ["train_folds"]

SPLIT = "val"


def train_folds(
    path: Path,
    config: RunConfig,
    out: Path,
    *,
    recipe: str | Path,
    words: Sequence[str],
    resume: bool,
    progress: Progress,
) -> TrainResult:
    """Train every fold that is not finished, then put them together.

    Args:
        path: The data folder.
        config: What the user said, with ``folds``.
        out: The run folder.
        recipe: Of the folds.
        words: ``key=value`` of the command, for the folds too.
        resume: Go on with folds that are there.
        progress: Where to tell how it goes.

    Returns:
        The finished run.

    Raises:
        UsageError: Several processes were started, or one fold was asked for beside all.
        RunError: Folds are there and ``resume`` was not asked for.
    """
    from denseg.workflows.train import TrainResult, train

    count = config.folds or 0
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(f"--folds takes one process; train fold k on its own with --set data.fold=[k,{count}]")
    if config.data.fold is not None:
        raise UsageError("data.fold is one fold and --folds are all of them; give one of the two")
    run = RunFolder(out)
    if RunFolder.is_run(out) and run.status == "finished":
        if not resume:
            RunFolder.check_free(out)
        return TrainResult(run, run.evaluation(SPLIT), note=f"{out} is finished; nothing was done")
    folds = [out / f"fold-{number}" for number in range(1, count + 1)]
    if not RunFolder.is_run(out):
        write_json(make_folder(out) / "run.json", {"format": RUN_FORMAT, "status": "starting", "folds": count})
    elif run.record().get("folds") not in {count, None}:
        raise UsageError(f"{out} was started with {run.record()['folds']} folds; got {count}")
    begun = [fold for fold in folds if RunFolder.is_run(fold)]
    if begun and not resume:
        raise RunError(f"{out} holds folds of another start; go on with --resume, or choose another --out", path=out)
    own = [word for word in words if not word.startswith(("folds=", "train.budget="))]
    if config.train.budget is not None:
        seconds, clock = parse_budget(config.train.budget)
        own.append(f"train.budget={seconds / count:g}s" + (" cpu" if clock == "cpu" else ""))
    for number, fold in enumerate(folds, start=1):
        progress.message(f"fold {number} of {count}: {fold}")
        train(
            path,
            recipe=recipe,
            settings=[*own, "folds=null", f"data.fold=[{number}, {count}]"],
            out=fold,
            resume=True,
            progress=progress,
        )
    return TrainResult(run, _put_together(run, config, [RunFolder.open(fold) for fold in folds], progress))


def _put_together(run: RunFolder, config: RunConfig, folds: Sequence[RunFolder], progress: Progress) -> dict[str, Any]:
    """Make one run of finished folds: split, checkpoint, scores, report."""
    from denseg.report import write_report
    from denseg.training.conclude import store_reach, write_counts

    first = folds[0]
    decided = first.config()
    values = decided.model_dump(mode="json") | {"folds": len(folds)}
    values["data"]["fold"] = None
    values["model"]["members"] = len(folds)
    with contextlib.ExitStack() as held:
        held.enter_context(lock_run(run.path))
        RunFolder.create(
            run.path,
            config=load_config(base=values),
            classes=first.classes(),
            split=_rows(folds),
            environment=describe_environment(plan=first.environment().get("plan", [])),
            check=first.check(),
        )
        run.set_status("running", metric=decided.train.metric, folds=len(folds))
        try:
            _save_ensemble(run, folds)
            store_reach(run, config.device)
            evaluation, counts = _judge(run, folds, progress)
            document = evaluation.to_json(
                SPLIT,
                train_counts=counts,
                root=Path(decided.data.path or "."),
                seed=decided.seed,
                checkpoint=run.checkpoint().relative_to(run.path).as_posix(),
                model=decided.model.name,
                folds=[{"run": fold.path.name, "miou": fold.evaluation(SPLIT)["miou"]} for fold in folds],
            )
        except KeyboardInterrupt as error:
            raise InterruptedRunError("stopped while the folds were put together: go on with --resume") from error
        run.write_evaluation(SPLIT, document)
        write_counts(run, SPLIT, evaluation)
        run.set_status("finished", message="")
        write_report(run)
    return run.evaluation(SPLIT)


def _rows(folds: Sequence[RunFolder]) -> list[SplitRow]:
    """List every picture once, with the fold that it was held out in."""
    held = {row.stem: f"fold-{number}" for number, fold in enumerate(folds, start=1) for row in fold.split(SPLIT)}
    return [row._replace(split=held.get(row.stem, row.split)) for row in folds[0].split()]


def _save_ensemble(run: RunFolder, folds: Sequence[RunFolder]) -> None:
    from denseg.models.checkpoint import load_checkpoint, save_checkpoint
    from denseg.models.ensemble import Ensemble
    from denseg.types import ModelSpec

    members: list[SegmentationModel] = []
    metadata: dict[str, Any] = {}
    for fold in folds:
        loaded = load_checkpoint(fold.path)
        members.append(loaded.model)  # type: ignore[arg-type]
        metadata = metadata or loaded.metadata
    model = Ensemble(members)
    spec = members[0].spec
    model.spec = ModelSpec(spec.name, {**spec.arguments, "members": len(members)})
    kept = {key: metadata[key] for key in ("classes", "commit", "encoding", "normalization") if metadata.get(key)}
    training = {"folds": len(members), "scores": {}}
    save_checkpoint(model, run.best_path, **kept, training=training)


def _judge(run: RunFolder, folds: Sequence[RunFolder], progress: Progress) -> tuple[Evaluation, tuple[int, ...]]:
    """Count every picture by the prediction of the fold that had held it out; keep the predictions."""
    import numpy as np
    from PIL import Image

    from denseg.data.samples.pairs import read_pair
    from denseg.inference.writer import write_labels
    from denseg.training.evaluation import Evaluation
    from denseg.training.prepare import restore
    from denseg.training.state import load_state

    evaluation = Evaluation(run.classes())
    total = np.zeros(len(run.classes()), np.int64)
    done, pictures = 0, sum(len(fold.split(SPLIT)) for fold in folds)
    for fold in folds:
        state = load_state(fold)
        if state is None:
            raise RunError(
                f"{fold.path} holds no state; train it again: remove it, and go on with --resume", path=fold.path
            )
        data = restore(fold, fold.config().data, state.extras)
        for pair in data.val:
            _, target = read_pair(pair, data.encoding, bands=data.normalization.bands, max_pixels=data.max_pixels)
            with Image.open(fold.prediction_path(SPLIT, pair.stem)) as stored:
                labels = np.asarray(stored)
            evaluation.add(replace(pair, split=SPLIT), labels, target)
            write_labels(run.prediction_path(SPLIT, pair.stem), labels, data.classes)
            done += 1
            progress.work("judge", done, pictures)
        total += np.asarray(data.train_counts, np.int64)
    progress.close()
    return evaluation, tuple((total // max(len(folds) - 1, 1)).tolist())
