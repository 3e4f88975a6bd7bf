# SPDX-License-Identifier: Apache-2.0
"""Batches in an order that depends on seed and epoch alone, read by worker processes that are watched.

Nothing here keeps a state between epochs: the order of an epoch is a permutation made of ``(seed, epoch)``, every
sample carries its epoch in its key, and an epoch can be entered at any batch. So the number of workers, a restart in
the middle of an epoch, or the split over ranks change nothing in what a step sees.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import warnings
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from denseg.data.samples.dataset import Key, SegmentationDataset, collate
from denseg.errors import DataError, DensegError, TrainingError, UsageError

__all__ = ["Batch", "BatchOrder", "Loader", "make_loader"]

Batch: TypeAlias = dict[str, Tensor]
"""``images`` (B, C, h, w) float32, ``target`` (B, h, w) int64, ``index`` (B,) int64, extra maps (B, h, w) float32."""


@dataclass(frozen=True)
class BatchOrder:
    """Which samples each step of an epoch takes.

    With ``shuffle`` an epoch is cut into global batches of ``batch_size * world_size`` samples, of which rank r takes
    the r-th part; an incomplete last one is left out, because a batch of one starves batch normalisation. Data sets
    smaller than one global batch are taken whole (one rank) or repeated to fill it (several). Without ``shuffle``
    every sample comes once, in order, and rank r takes every ``world_size``-th.

    With ``repeats`` an epoch has as many samples as ever, but a sample comes in proportion to its factor: its share of
    the epoch rounded down or up, which of the two is drawn anew each epoch.

    Attributes:
        samples: How many samples the data set has.
        batch_size: Samples per batch and rank.
        shuffle: Training order; otherwise evaluation order.
        seed: Of the run.
        rank: Of this process, from 0.
        world_size: How many processes share an epoch.
        repeats: One factor per sample; empty where all come alike.
    """

    samples: int
    batch_size: int
    shuffle: bool
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    repeats: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError("a loader needs at least one sample, got none")
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {self.batch_size}")
        if not 0 <= self.rank < self.world_size:
            raise UsageError(f"rank must be 0..{self.world_size - 1}, got {self.rank}")
        if self.repeats and (len(self.repeats) != self.samples or min(self.repeats) <= 0):
            raise UsageError(f"repeats needs one positive factor per sample, {self.samples}; got {len(self.repeats)}")

    def __len__(self) -> int:
        """Count the batches of one epoch on this rank."""
        if self.shuffle:
            return max(1, self.samples // (self.batch_size * self.world_size))
        return -(-len(range(self.rank, self.samples, self.world_size)) // self.batch_size)

    def batches(self, epoch: int = 0, *, start: int = 0) -> Iterator[list[Key]]:
        """Give the keys of each batch.

        Args:
            epoch: Counted from 0 over the whole run.
            start: How many batches of the epoch have been done already.

        Yields:
            ``(epoch, index)`` of each sample of a batch.
        """
        if not self.shuffle:
            mine = range(self.rank, self.samples, self.world_size)
            for first in range(start * self.batch_size, len(mine), self.batch_size):
                yield [(epoch, index) for index in mine[first : first + self.batch_size]]
            return
        sequence = np.random.SeedSequence((self.seed, epoch), spawn_key=(1,))  # 1: apart from the samples' own numbers
        generator = np.random.Generator(np.random.PCG64(sequence))
        order = generator.permutation(self.samples)
        if self.repeats:
            order = generator.permutation(self._repeated(order, generator.random()))
        together = self.batch_size * self.world_size
        if self.samples < together and self.world_size > 1:
            order = np.resize(order, together)
        for step in range(start, len(self)):
            first = step * together + self.rank * self.batch_size
            yield [(epoch, int(index)) for index in order[first : first + self.batch_size]]

    def _repeated(self, order: NDArray[np.int64], offset: float) -> NDArray[np.int64]:
        """Walk over the samples' shares of the epoch in even steps (systematic sampling)."""
        shares = np.asarray(self.repeats)[order]
        ends = np.cumsum(shares) * (self.samples / shares.sum())
        ends[-1] = self.samples  # whatever rounding made of it
        return order[np.searchsorted(ends, np.arange(self.samples) + offset, side="right")]


class Loader:
    """Batches of a data set; the workers live from the first epoch until ``close``.

    Attributes:
        order: Which samples each step takes.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        order: BatchOrder,
        *,
        workers: int,
        timeout: float,
        pin_memory: bool,
        start_method: str | None,
    ) -> None:
        """Prepare the workers; they start with the first epoch.

        Args:
            dataset: Where samples come from.
            order: Which samples each step takes.
            workers: Processes that read; 0 reads in this one.
            timeout: Seconds to wait for a batch before a worker counts as stuck.
            pin_memory: Copy batches to page-locked memory, for transfers to a GPU.
            start_method: How workers start; the platform's own where ``None``.
        """
        self.order = order
        self._timeout = timeout
        self._keys = _Keys(order)
        with _calm():
            self._loader: DataLoader[Batch | _Failure] | None = DataLoader(
                _Batches(dataset),
                batch_sampler=self._keys,
                collate_fn=_same,
                num_workers=workers,
                timeout=timeout if workers else 0,
                pin_memory=pin_memory,
                persistent_workers=workers > 0,
                worker_init_fn=_start_worker,
                multiprocessing_context=multiprocessing.get_context(start_method) if workers else None,
                generator=torch.Generator(),  # its own: the run's generator is not touched
            )
        if workers:
            _OPEN.add(self)

    def __len__(self) -> int:
        """Count the batches of one epoch on this rank."""
        return len(self.order)

    def epoch(self, epoch: int = 0, *, start: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch.

        Args:
            epoch: Counted from 0 over the whole run.
            start: How many batches of the epoch have been done already.

        Yields:
            ``{"images", "target", "index"}`` and extra maps, see ``Batch``.

        Raises:
            DensegError: A sample cannot be read; what the data set raised.
            TrainingError: A worker process died or is stuck.
            UsageError: The loader is closed.
        """
        if self._loader is None:
            raise UsageError("the loader is closed; make another one")
        self._keys.epoch, self._keys.start = epoch, start
        try:
            with _calm():
                iterator = iter(self._loader)
            for batch in iterator:
                if isinstance(batch, _Failure):
                    raise batch.error()
                yield batch
        except RuntimeError as error:
            raise self._explain(error) from error

    def worker_ids(self) -> tuple[int, ...]:
        """Give the process ids of the workers that run now."""
        iterator = getattr(self._loader, "_iterator", None)
        return tuple(worker.pid for worker in getattr(iterator, "_workers", ()))

    def close(self) -> None:
        """End the workers; one that is stuck is killed."""
        loader, self._loader = self._loader, None
        iterator = getattr(loader, "_iterator", None)
        if iterator is not None:
            workers = list(iterator._workers)
            iterator._shutdown_workers()
            for worker in workers:
                if worker.is_alive():
                    worker.kill()
                    worker.join()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _explain(self, error: RuntimeError) -> Exception:
        message = str(error)
        if message.startswith("DataLoader timed out"):
            self.close()
            return TrainingError(
                f"no batch came from the data loader's workers for {self._timeout:g} s: one is stuck, or the disk is; "
                "look at the disk, or read in the main process with train.workers=0"
            )
        if message.startswith("DataLoader worker"):
            self.close()
            return TrainingError(
                "a worker process of the data loader died; most often memory or shared memory (/dev/shm) ran out: "
                "lower train.workers or train.crop, or read in the main process with train.workers=0"
            )
        return error


def make_loader(  # noqa: PLR0913 - how to read, and who reads what
    dataset: SegmentationDataset,
    *,
    batch_size: int,
    shuffle: bool,
    workers: int = 0,
    shard: tuple[int, int] = (0, 1),
    repeats: tuple[float, ...] = (),
    timeout: float = 300.0,
    pin_memory: bool = False,
    start_method: Literal["fork", "forkserver", "spawn"] | None = None,
) -> Loader:
    """Make a loader for training (``shuffle``) or for evaluation.

    Args:
        dataset: Where samples come from; its seed also decides the order.
        batch_size: Samples per batch and rank; evaluation of pictures of different sizes takes 1.
        shuffle: Training order, incomplete last batch left out; otherwise every sample once, in order.
        workers: Processes that read; 0 reads in this one. What comes does not depend on it.
        shard: ``(rank, world_size)``: which part of each epoch this process takes.
        repeats: One factor per sample for training order, see ``BatchOrder``; empty where all come alike.
        timeout: Seconds to wait for a batch before a worker counts as stuck.
        pin_memory: Copy batches to page-locked memory, for transfers to a GPU.
        start_method: How workers start; the platform's own where ``None``.

    Returns:
        The loader; ``close`` it, or use it in a ``with`` block.

    Raises:
        UsageError: There is no sample, or batch size or rank are out of range.
    """
    order = BatchOrder(len(dataset), batch_size, shuffle, dataset.seed, *shard, repeats)
    return Loader(dataset, order, workers=workers, timeout=timeout, pin_memory=pin_memory, start_method=start_method)


@dataclass
class _Keys:
    """What torch's loader asks for the next batch's keys; runs in the main process."""

    order: BatchOrder
    epoch: int = 0
    start: int = 0

    def __iter__(self) -> Iterator[list[Key]]:
        return self.order.batches(self.epoch, start=self.start)

    def __len__(self) -> int:
        return max(0, len(self.order) - self.start)


@dataclass(frozen=True)
class _Failure:
    """An error of denseg on its way out of a worker."""

    kind: type[DensegError]
    message: str
    path: Path | None

    def error(self) -> DensegError:
        """Build the error again."""
        if issubclass(self.kind, DataError):
            return self.kind(self.message, path=self.path)
        return DataError(self.message, path=self.path)


class _Batches(Dataset["Batch | _Failure"]):
    """Makes whole batches where the samples are read, so that a failure travels as a value and keeps its message."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __getitems__(self, keys: Sequence[Key]) -> Batch | _Failure:
        try:
            return collate([self.dataset[key] for key in keys])
        except DensegError as error:
            path = getattr(error, "path", None)
            return _Failure(type(error), str(error), path)


def _same(batch: Any) -> Any:
    """Hand the batch through: it is collated already."""
    return batch


@contextlib.contextmanager
def _calm() -> Iterator[None]:
    """Silence two warnings while torch sets up its workers."""
    with warnings.catch_warnings():
        # More workers than cores: the user's choice, and slow disks want more.
        warnings.filterwarnings("ignore", category=UserWarning, message="This DataLoader will create")
        # Python 3.12+, fork beside threads: workers run no code that waits for a lock of this process.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        yield


def _start_worker(worker: int) -> None:
    """Leave signals to the main process, which ends the workers after it has saved.

    A terminal, a batch system and `timeout` signal the whole group of processes: a worker that died of it would take
    the step along that the main process is about to finish. A worker whose main process is gone ends by itself.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            with contextlib.suppress(ValueError):
                signal.signal(getattr(signal, name), signal.SIG_IGN)


_OPEN: weakref.WeakSet[Loader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """End what is still open before the interpreter asks workers to end by a signal that they leave to us."""
    for loader in list(_OPEN):
        loader.close()
