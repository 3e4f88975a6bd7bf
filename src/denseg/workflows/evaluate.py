# SPDX-License-Identifier: Apache-2.0
"""Evaluate: score a run or a checkpoint on a labelled folder.

Where the folder is the one that the run was trained on, its split manifest says which images are which; the masks are
read as the model learned them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from denseg.data.encoding import MaskEncoding
from denseg.data.folders.folder import Inventory, Pair, discover
from denseg.data.folders.split import split_rows
from denseg.data.samples.pairs import read_pair_labels
from denseg.errors import DataError, UsageError, nearest_name
from denseg.inference.crf import find_crf
from denseg.report.numbers import plural
from denseg.runs import RunFolder
from denseg.training.interrupt import stoppable
from denseg.types import ClassTable

if TYPE_CHECKING:
    from denseg.inference.predictor import Predictor
    from denseg.inference.strategy import TileOptions

__all__ = ["EvaluateResult", "LabelledImages", "evaluate", "find_images"]


@dataclass(frozen=True)
class EvaluateResult:
    """The scores of a split.

    Attributes:
        document: What ``evaluation/<split>.json`` holds.
        notes: What is worth saying besides.
        written: The run's file with the same scores; ``None`` where the data are not the run's.
    """

    document: dict[str, Any]
    notes: tuple[str, ...] = ()
    written: Path | None = None

    def lines(self) -> list[str]:
        """Say the result to a person: one table."""
        scores = self.document
        low, high = scores["interval"]
        lines = [
            f"{scores['split']}: {plural(scores['images'], 'image')}, mIoU {_shown(scores['miou'])}, 95 % interval "
            f"{_shown(low)} to {_shown(high)}, majority baseline {_shown(scores['baseline_miou'])}",
            f"pixel accuracy {_shown(scores['pixel_accuracy'])}, mean accuracy {_shown(scores['mean_accuracy'])}, "
            f"frequency-weighted IoU {_shown(scores['frequency_weighted_iou'])}",
            "",
        ]
        width = max(5, *(len(row["name"]) for row in scores["classes"]))
        lines.append(f"{'class':<{width}}    IoU  accuracy        pixels")
        for row in scores["classes"]:
            lines.append(
                f"{row['name']:<{width}}  {_shown(row['iou']):>5}  {_shown(row['accuracy']):>8}  {row['pixels']:>12,}"
            )
        absent = sum(row["iou"] is None for row in scores["classes"])
        if absent:
            lines.append(f"{absent} of {len(scores['classes'])} classes are in neither labels nor predictions (-)")
        lines += [f"note: {note}" for note in (*self.notes, *scores["warnings"])]
        if self.written is not None:
            lines.append(f"written to {self.written}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Give the result as JSON values."""
        return {**self.document, "notes": list(self.notes)}


def evaluate(  # noqa: PLR0913 - the options of the command
    run: Path | str,
    data: Path | str,
    *,
    split: str | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    options: TileOptions | None = None,
    turns: bool = False,
    crf: str | None = None,
    tune: bool = False,
    output_stride: int | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> EvaluateResult:
    """Score a model on a folder.

    Args:
        run: A run folder (its best checkpoint) or a checkpoint.
        data: The folder of images and masks.
        split: ``train``, ``val``, ``test`` or ``all``; ``val`` where there is one, else all, if ``None``.
        tile: Side of the windows in pixels; chosen from the memory if ``None``.
        overlap: Pixels that two windows share; chosen from the model if ``None``.
        scales: Sizes at which each image is seen; several are averaged.
        flip: See it mirrored left to right, too.
        options: All options of tiles.
        turns: See it at all four quarter turns.
        crf: Sharpen labels by the dense CRF of this preset; ``search`` finds the best on these images and stores it in
            the checkpoint.
        tune: Find the best threshold, and which holes to fill and regions to drop, and store them in the checkpoint.
        output_stride: Of the backbone, in place of the one that it was trained with.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        progress: Called with images done and images in all.

    Returns:
        The scores.
    """
    found = _choose(run, data, split)
    inventory, folder, own, name, chosen = found
    from denseg.inference.predictor import Predictor
    from denseg.training.conclude import write_counts
    from denseg.training.scoring import score_pairs

    with stoppable("interrupted; nothing was written"):
        predictor = Predictor.load(
            run,
            device=device,
            tile=tile,
            overlap=overlap,
            options=options,
            scales=scales,
            flip=flip,
            turns=turns,
            output_stride=output_stride,
        )
        if crf not in {None, "search"}:
            predictor.postprocessing = dataclasses.replace(predictor.postprocessing, crf=find_crf(str(crf)))
        encoding, notes = _prepare(predictor, found, asked=split is not None)
        classes = ClassTable(predictor.classes.names, predictor.classes.colors, encoding.ignore_index)
        usual = tile is None and overlap is None and tuple(scales) == (1.0,) and not flip and options is None
        usual &= output_stride is None and not turns and crf in {None, "search"}
        if crf == "search" or tune:
            notes += _tune(predictor, chosen, name, encoding, crf == "search", tune, progress)
        elif predictor.postprocessing:
            notes.append(f"post-processing: {predictor.postprocessing}")
        keep = folder if own and usual and _is_finished(folder, predictor.path) else None
        evaluation = score_pairs(
            predictor,
            chosen,
            encoding=encoding,
            classes=classes,
            on_image=None if keep is None else _writer(keep, name, classes),
            progress=progress,
        )
    checkpoint = predictor.path or Path(run)
    document = evaluation.to_json(
        name,
        train_counts=(predictor.metadata.get("training") or {}).get("class_pixels"),
        root=inventory.root,
        seed=(predictor.metadata.get("training") or {}).get("seed", 0),
        checkpoint=_checkpoint_name(checkpoint, folder),
        model=predictor.metadata["model"]["name"],
    )
    if keep is None:
        return EvaluateResult(document, tuple(notes))
    keep.write_evaluation(name, document)
    write_counts(keep, name, evaluation)
    from denseg.report import write_report

    write_report(keep)
    return EvaluateResult(document, tuple(notes), keep.evaluation_path(name))


class LabelledImages(NamedTuple):
    """Images to score a model on.

    Attributes:
        split: Their name: a split, or ``all``.
        pairs: Images and masks.
        encoding: What the values of the masks mean.
        notes: What is worth saying besides.
    """

    split: str
    pairs: tuple[Pair, ...]
    encoding: MaskEncoding
    notes: tuple[str, ...]


def find_images(predictor: Predictor, run: Path | str, data: Path | str) -> LabelledImages:
    """Find the images that ``evaluate`` would score a model on: those of ``val`` where there are any, else all.

    Args:
        predictor: The model; takes the run's limit of pixels where the data are the run's.
        run: Its run folder or checkpoint.
        data: The folder of images and masks.

    Returns:
        The images, and how their masks are read.
    """
    found = _choose(run, data, None)
    encoding, notes = _prepare(predictor, found, asked=False)
    return LabelledImages(found.split, found.pairs, encoding, tuple(notes))


class _Found(NamedTuple):
    """What a run and a folder say before any model is loaded; ``own``: the run was trained on this folder."""

    inventory: Inventory
    run: RunFolder | None
    own: bool
    split: str
    pairs: tuple[Pair, ...]


def _choose(run: Path | str, data: Path | str, split: str | None) -> _Found:
    inventory = discover(data)
    folder = _run_of(Path(run))
    pairs, own = _with_splits(inventory, folder)
    name = _choose_split(pairs, split, Path(data))
    chosen = pairs if name == "all" else tuple(pair for pair in pairs if pair.split == name)
    return _Found(inventory, folder, own, name, chosen)


def _prepare(predictor: Predictor, found: _Found, *, asked: bool) -> tuple[MaskEncoding, list[str]]:
    """Find how the masks are read, and what is worth saying; ``asked``: the user named the split."""
    run = found.run if found.own else None
    if run is not None:
        predictor.max_pixels = run.config().data.max_pixels
    encoding, notes = _encoding(predictor, found.inventory, found.pairs)
    if found.split == "all" and not asked:
        notes.append(f"the folder has no split val: all {len(found.pairs)} images are scored")
    if run is not None:
        notes += _manifest_notes(run, found.pairs, found.inventory.root)
    return encoding, notes


def _tune(
    predictor: Predictor,
    pairs: Sequence[Pair],
    split: str,
    encoding: MaskEncoding,
    crf: bool,
    rest: bool,
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    """Search post-processing on the chosen images, give it to the predictor, and store it in the checkpoint."""
    from denseg.workflows.tune import Tuner, store_postprocessing

    if split == "test":
        raise UsageError("a search on the test split would flatter its scores; take --split val")
    with Tuner(predictor, pairs, encoding, progress=progress) as tuner:
        start = tuner.score(predictor.postprocessing)
        steps = tuner.search_crf(predictor.postprocessing) if crf else predictor.postprocessing
        steps = tuner.search_steps(steps) if rest else steps
        end = tuner.score(steps)
        tried = len(tuner.trials)
    predictor.postprocessing = steps
    if predictor.path is not None:
        store_postprocessing(predictor.path, steps)
    return [
        f"post-processing, best of {tried} settings: {steps}; mIoU {start:.4f} before, {end:.4f} after on the images "
        "that chose it; stored in the checkpoint"
    ]


def _run_of(path: Path) -> RunFolder | None:
    """Find the run of a path: the folder itself, or the run whose checkpoint it is."""
    for folder in (path, path.parent.parent):
        if RunFolder.is_run(folder):
            return RunFolder.open(folder)
    return None


def _with_splits(inventory: Inventory, run: RunFolder | None) -> tuple[tuple[Pair, ...], bool]:
    """Give the pairs their splits, the run's where the folder is the run's; say whether it is."""
    if run is not None:
        rows = {row.stem: row for row in run.split()}
        known = {pair.stem: pair for pair in inventory.pairs}
        if rows and rows.keys() <= known.keys():
            root = inventory.root.resolve()
            same = all(_inside(known[stem].image, root) == row.image for stem, row in rows.items())
            if same or _same_folder(run, root):
                named = tuple(
                    dataclasses.replace(pair, split=rows[pair.stem].split) if pair.stem in rows else pair
                    for pair in inventory.pairs
                )
                return named, True
    return inventory.pairs, False


def _same_folder(run: RunFolder, root: Path) -> bool:
    path = run.config().data.path
    return path is not None and Path(path).resolve() == root


def _inside(path: Path, root: Path) -> str:
    path = path.resolve()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _choose_split(pairs: Sequence[Pair], split: str | None, data: Path) -> str:
    if not pairs:
        raise DataError(f"{data} holds no image with a mask: there is nothing to score", path=data)
    there = sorted({pair.split for pair in pairs if pair.split})
    if split is None:
        return "val" if "val" in there else "all"
    if split != "all" and split not in there:
        near = nearest_name(split, [*there, "all"])
        hint = f" Did you mean {near!r}?" if near else ""
        listed = ", ".join([*there, "all"])
        raise UsageError(f"{data} has no split {split!r}.{hint} There: {listed}")
    return split


def _encoding(predictor: Predictor, inventory: Inventory, pairs: Sequence[Pair]) -> tuple[MaskEncoding, list[str]]:
    """How the masks are read: as the model learned them, or as the folder's own classes of the same names."""
    stored = predictor.metadata.get("encoding")
    if stored is not None:
        encoding = MaskEncoding.from_json(stored)
        try:
            read_pair_labels(pairs[0], encoding, max_pixels=predictor.max_pixels)
        except DataError as error:
            if not _looks_readable(pairs[0], predictor.max_pixels):
                raise
            return _examined(predictor, inventory, str(error))
        return encoding, []
    return _examined(predictor, inventory, "the checkpoint does not say how masks are read")


def _looks_readable(pair: Pair, max_pixels: int) -> bool:
    """Whether the mask is a picture at all, so that only its values are at fault."""
    from denseg.data.samples.pairs import read_pair_mask

    try:
        read_pair_mask(pair, max_pixels=max_pixels)
    except DataError:
        return False
    return True


def _examined(predictor: Predictor, inventory: Inventory, reason: str) -> tuple[MaskEncoding, list[str]]:
    from denseg.data.doctor.doctor import examine

    examination = examine(inventory.root)
    ours, theirs = predictor.classes.names, examination.classes.names
    numbered = ours == ClassTable.numbered(len(ours)).names
    if len(ours) != len(theirs) or not (numbered or ours == theirs):
        raise DataError(
            f"the masks of {inventory.root} do not fit the model: {reason}; read by themselves they hold "
            f"{len(theirs)} classes ({_listed(theirs)}), the model has {len(ours)} ({_listed(ours)})",
            path=inventory.root,
        )
    return examination.encoding, [f"masks are read by themselves, since {reason}"]


def _manifest_notes(run: RunFolder, pairs: Sequence[Pair], root: Path) -> list[str]:
    """Compare with the run's manifest: images it learned from, files that changed."""
    rows = {row.stem: row for row in run.split()}
    notes = []
    learned = sum(pair.stem in rows and rows[pair.stem].split == "train" for pair in pairs)
    if learned:
        notes.append(f"{learned} of these {len(pairs)} images trained the model: the scores flatter it")
    known = [pair for pair in pairs if pair.stem in rows]
    now = split_rows([dataclasses.replace(pair, split=pair.split or "all") for pair in known], root)
    changed = [row.image for row in now if rows[row.stem].sha256 != row.sha256]
    if changed:
        notes.append(f"{len(changed)} files changed since the run began, first {changed[0]}")
    return notes


def _is_finished(run: RunFolder | None, checkpoint: Path | None) -> bool:
    """Whether scores of this checkpoint are the run's own, and nobody else writes into the run."""
    return run is not None and run.status == "finished" and checkpoint is not None and checkpoint == run.checkpoint()


def _writer(run: RunFolder, split: str, classes: ClassTable) -> Callable[[Pair, Any], None]:
    from denseg.inference.writer import write_labels

    return lambda pair, labels: write_labels(run.prediction_path(split, pair.stem), labels, classes)


def _checkpoint_name(path: Path, run: RunFolder | None) -> str:
    if run is not None and path.resolve().is_relative_to(run.path.resolve()):
        return path.resolve().relative_to(run.path.resolve()).as_posix()
    return str(path)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
