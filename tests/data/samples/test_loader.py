# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from denseg.config import AugmentConfig, ElasticConfig
from denseg.data.encoding import MaskEncoding
from denseg.data.folders.folder import discover
from denseg.data.samples.augment import Augmentation
from denseg.data.samples.dataset import SegmentationDataset
from denseg.data.samples.loader import BatchOrder, Loader, make_loader
from denseg.data.samples.normalization import Normalization
from denseg.errors import DataError, ImageError, TrainingError, UsageError


class Slow:
    """A map that never comes, for the second picture."""

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        time.sleep(600)
        return labels


class Deadly:
    """A map that ends its process, as the kernel does when memory runs out."""

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return labels


class Clumsy:
    """A defect: not an error of denseg."""

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        raise RuntimeError("a defect")


def dataset_of(root: Path, split: str | None = "train", **options: Any) -> SegmentationDataset:
    return SegmentationDataset(
        discover(root).of(split),
        encoding=MaskEncoding.identity(3),
        normalization=Normalization.imagenet(),
        ignore_index=255,
        **({"augmentation": Augmentation(), "crop": (32, 32), "seed": 3} | options),
    )


def digest(loader: Loader, epochs: int = 2) -> list[torch.Tensor]:
    with loader:
        return [batch[name] for epoch in range(epochs) for batch in loader.epoch(epoch) for name in sorted(batch)]


EVERYTHING = Augmentation(
    flip_vertical=0.3,
    further=AugmentConfig(
        rotation=30, quarter_turns=0.5, shear=10, perspective=0.1, elastic=ElasticConfig(sigma=3), rare_crop=0.5,
        copy_paste=0.9, gain=0.2, brightness=0.1, contrast=0.2, gamma=0.2, saturation=0.3, hue=10, noise=0.05, blur=1.0,
    ),
)  # fmt: skip


@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING])
def test_what_comes_does_not_depend_on_the_workers(tiny_data: Path, augmentation: Augmentation) -> None:
    def make(workers: int) -> Loader:
        dataset = dataset_of(tiny_data, augmentation=augmentation, rare=(1,))
        return make_loader(dataset, batch_size=2, shuffle=True, workers=workers)

    expected = digest(make(0))
    assert len(expected) == 2 * 2 * 3
    for workers in (1, 3):
        found = digest(make(workers))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_may_start_afresh(tiny_data: Path, method: Any) -> None:
    expected = digest(make_loader(dataset_of(tiny_data), batch_size=2, shuffle=True))
    loader = make_loader(dataset_of(tiny_data), batch_size=2, shuffle=True, workers=1, start_method=method)
    assert all(torch.equal(one, other) for one, other in zip(digest(loader), expected, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_can_be_entered_anywhere(tiny_data: Path, workers: int) -> None:
    loader = make_loader(dataset_of(tiny_data), batch_size=1, shuffle=True, workers=workers)
    with loader:
        whole = list(loader.epoch(5))
        rest = list(loader.epoch(5, start=2))
        broken_off = loader.epoch(5)
        next(broken_off)
        broken_off.close()
        again = list(loader.epoch(5))
    assert len(whole) == len(loader) == 4
    assert [batch["index"].item() for batch in rest] == [batch["index"].item() for batch in whole[2:]]
    for one, other in zip([*rest, *again], [*whole[2:], *whole], strict=True):
        torch.testing.assert_close(one["images"], other["images"], rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_runs_own_randomness_is_not_touched(tiny_data: Path, workers: int) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state()
    with make_loader(dataset_of(tiny_data), batch_size=2, shuffle=True, workers=workers) as loader:
        list(loader.epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_named_by_the_same_error(
    make_pairs: Callable[..., Path], tmp_path: Path, workers: int
) -> None:
    root = make_pairs(tmp_path, {"": 3})
    broken = root / "images" / "image_001.png"
    broken.write_bytes(broken.read_bytes()[:200])
    dataset = dataset_of(root, None, augmentation=None, crop=None)
    with make_loader(dataset, batch_size=1, shuffle=False, workers=workers) as loader:
        batches = loader.epoch()
        next(batches)
        with pytest.raises(ImageError, match=re.escape(str(broken))) as caught:
            next(batches)
        assert caught.value.path == broken
        assert len(list(loader.epoch(start=2))) == 1  # the loader lives on


def test_samples_of_different_sizes_are_told(make_pairs: Callable[..., Path], tmp_path: Path) -> None:
    make_pairs(tmp_path, {"train": 1}, size=(20, 20))
    make_pairs(tmp_path, {"val": 1}, size=(20, 30))
    dataset = dataset_of(tmp_path, None, augmentation=None, crop=None)
    with (
        make_loader(dataset, batch_size=2, shuffle=False) as loader,
        pytest.raises(DataError, match=r"^samples of one batch must have one size, got 20x20, 20x30; set train"),
    ):
        next(loader.epoch())
    with make_loader(dataset, batch_size=1, shuffle=False) as loader:
        assert [tuple(batch["target"].shape) for batch in loader.epoch()] == [(1, 20, 20), (1, 20, 30)]


def test_a_stuck_worker_is_told(tiny_data: Path) -> None:
    loader = make_loader(dataset_of(tiny_data, maps={"slow": Slow()}), batch_size=1, shuffle=True, workers=1, timeout=1)
    message = (
        "no batch came from the data loader's workers for 1 s: one is stuck, or the disk is; "
        "look at the disk, or read in the main process with train.workers=0"
    )
    start = time.monotonic()
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
        next(loader.epoch())
    assert time.monotonic() - start < 60
    with pytest.raises(UsageError, match=r"^the loader is closed; make another one$"):
        next(loader.epoch())


def test_a_dead_worker_is_told(tiny_data: Path) -> None:
    loader = make_loader(dataset_of(tiny_data, maps={"deadly": Deadly()}), batch_size=1, shuffle=True, workers=1)
    message = (
        "a worker process of the data loader died; most often memory or shared memory (/dev/shm) ran out: "
        "lower train.workers or train.crop, or read in the main process with train.workers=0"
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
        next(loader.epoch())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_defect_is_not_explained_away(tiny_data: Path, workers: int) -> None:
    dataset = dataset_of(tiny_data, maps={"clumsy": Clumsy()})
    with (
        make_loader(dataset, batch_size=1, shuffle=True, workers=workers) as loader,
        pytest.raises(RuntimeError, match="a defect"),
    ):
        next(loader.epoch())


def test_ctrl_c_is_left_to_the_main_process(tiny_data: Path) -> None:
    with make_loader(dataset_of(tiny_data), batch_size=1, shuffle=True, workers=1) as loader:
        batches = loader.epoch()
        next(batches)
        (worker,) = loader.worker_ids()
        os.kill(worker, signal.SIGINT)
        assert len(list(batches)) == 3


def test_closing_ends_the_workers(tiny_data: Path) -> None:
    loader = make_loader(dataset_of(tiny_data), batch_size=1, shuffle=True, workers=2)
    next(loader.epoch())
    workers = loader.worker_ids()
    assert len(workers) == 2
    loader.close()
    loader.close()
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


orders = st.builds(
    BatchOrder,
    samples=st.integers(1, 50),
    batch_size=st.integers(1, 9),
    shuffle=st.booleans(),
    seed=st.integers(0, 99),
)


@given(order=orders, epoch=st.integers(0, 9), start=st.integers(0, 60))
def test_starting_late_skips_batches_and_changes_none(order: BatchOrder, epoch: int, start: int) -> None:
    batches = list(order.batches(epoch))
    assert len(batches) == len(order)
    assert list(order.batches(epoch, start=start)) == batches[start:]
    assert all(key[0] == epoch for batch in batches for key in batch)


@given(order=orders, epoch=st.integers(0, 9))
def test_no_sample_comes_twice(order: BatchOrder, epoch: int) -> None:
    batches = list(order.batches(epoch))
    indices = [index for batch in batches for _, index in batch]
    assert len(set(indices)) == len(indices)
    if order.shuffle:
        assert {len(batch) for batch in batches} == {min(order.batch_size, order.samples)}
    else:
        assert indices == list(range(order.samples))


@given(order=orders, epoch=st.integers(0, 9), world=st.integers(1, 5))
def test_ranks_share_the_batches_of_one_process(order: BatchOrder, epoch: int, world: int) -> None:
    """Ranks with batch B see what one process sees that accumulates ``world`` batches of B into a step."""
    ranks = [
        list(
            BatchOrder(order.samples, order.batch_size, order.shuffle, order.seed, rank=rank, world_size=world).batches(
                epoch
            )
        )
        for rank in range(world)
    ]
    if not order.shuffle:
        assert sorted(key for rank in ranks for batch in rank for key in batch) == [
            (epoch, index) for index in range(order.samples)
        ]
        return
    assert len({len(rank) for rank in ranks}) == 1
    assert all(len(batch) > 0 for rank in ranks for batch in rank)
    alone = list(order.batches(epoch))
    if order.samples >= order.batch_size * world:
        together = [batch for step in zip(*ranks, strict=True) for batch in step]
        assert together == alone[: len(together)]


def test_the_order_is_shuffled_and_differs_between_epochs_and_seeds() -> None:
    def indices(seed: int, epoch: int) -> list[int]:
        return [index for batch in BatchOrder(40, 4, True, seed).batches(epoch) for _, index in batch]

    assert indices(0, 0) != sorted(indices(0, 0))
    assert indices(0, 0) != indices(0, 1)
    assert indices(0, 0) != indices(1, 0)
    assert indices(0, 0) == indices(0, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, True), "a loader needs at least one sample, got none"),
        ((4, 0, True), "batch_size must be at least 1, got 0"),
        ((4, 1, True, 0, 2, 2), "rank must be 0..1, got 2"),
    ],
)
def test_senseless_orders_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        BatchOrder(*arguments)


def test_factors_decide_how_often_a_sample_comes() -> None:
    factors = (1.0, 1.0, 3.0, 1.0, 2.0)
    order = BatchOrder(5, 1, True, seed=3, repeats=factors)
    epochs = 400
    counts = np.zeros(5)
    for epoch in range(epochs):
        drawn = [index for keys in order.batches(epoch) for _, index in keys]
        assert len(drawn) == 5, "an epoch is as long as ever"
        here = np.bincount(drawn, minlength=5)
        share = np.asarray(factors) / sum(factors) * 5
        assert ((here >= np.floor(share)) & (here <= np.ceil(share))).all()
        counts += here
    assert counts / epochs == pytest.approx(np.asarray(factors) * 5 / 8, abs=0.08)


def test_equal_factors_give_every_sample_once_in_another_order_each_epoch() -> None:
    order = BatchOrder(7, 2, True, seed=1, repeats=(2.0,) * 7)
    epochs = [[index for keys in order.batches(epoch) for _, index in keys] for epoch in range(3)]
    assert all(len(set(drawn)) == len(drawn) == 6 for drawn in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] == [index for keys in order.batches(0) for _, index in keys]
    tail = [index for keys in order.batches(1, start=2) for _, index in keys]
    assert tail == epochs[1][4:], "an epoch can be entered at any batch"


def test_ranks_share_a_repeated_epoch() -> None:
    factors = (1.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    one = BatchOrder(8, 4, True, seed=5, repeats=factors)
    two = [BatchOrder(8, 2, True, 5, rank, 2, factors) for rank in range(2)]
    whole = [[index for _, index in keys] for keys in one.batches(2)]
    parts = zip(*(order.batches(2) for order in two), strict=True)
    assert whole == [[index for keys in pair for _, index in keys] for pair in parts]


@pytest.mark.parametrize("factors", [(1.0,), (1.0, 0.0), (1.0, -1.0)])
def test_factors_that_do_not_fit(factors: tuple[float, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        BatchOrder(2, 1, True, repeats=factors)
    assert str(caught.value) == f"repeats needs one positive factor per sample, 2; got {len(factors)}"
