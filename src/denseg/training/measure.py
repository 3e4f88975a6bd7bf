# SPDX-License-Identifier: Apache-2.0
"""What a training step costs on this machine, by taking a few: what a time budget is planned with."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch

from denseg.data.samples.dataset import collate
from denseg.data.samples.loader import BatchOrder
from denseg.losses import CompositeLoss
from denseg.models import feature_channels
from denseg.training.balance import balance_loss
from denseg.training.fabric import device_kind
from denseg.training.loaders import train_dataset, validation_dataset
from denseg.training.memory import keep_freed_memory
from denseg.training.optimizer import create_optimizer, set_training_mode
from denseg.training.setup import create_stage_model, crop_size, stage_train
from denseg.training.validation import Scorer, crop_target

if TYPE_CHECKING:
    from torch import Tensor

    from denseg.config import RunConfig
    from denseg.models import SegmentationModel
    from denseg.training.setup import TrainingData

__all__ = ["Costs", "Spent", "activation_bytes", "measure_costs"]

Result = TypeVar("Result")

STEPS = 3
"""Steps that are timed, after one that warms up."""


class Spent(NamedTuple):
    """Time that something took.

    Attributes:
        wall: Seconds on the clock.
        cpu: Seconds of processors, all threads together.
    """

    wall: float
    cpu: float


class Costs(NamedTuple):
    """What training costs.

    Attributes:
        step: The network's part of an optimiser step.
        read: Reading and augmenting the samples of an optimiser step, in one process.
        image: Scoring one validation image.
    """

    step: Spent
    read: Spent
    image: Spent

    def per_step(self, clock: str, *, workers: int, processors: int, shared: bool) -> float:
        """Estimate the seconds that an optimiser step takes with its samples read beside it.

        Args:
            clock: ``wall`` or ``cpu``.
            workers: Loader processes.
            processors: Processors that there are.
            shared: Whether loader and network compete for the processors.

        Returns:
            Seconds.
        """
        if clock == "cpu":
            return self.step.cpu + self.read.cpu
        if workers == 0:
            return self.step.wall + self.read.wall
        if shared:
            return self.step.wall + self.read.wall / max(processors, 1)
        return max(self.step.wall, self.read.wall / min(workers, max(processors, 1)))


def measure_costs(config: RunConfig, data: TrainingData) -> Costs:
    """Take a few steps of a run's first stage, and score one validation image; nothing is kept.

    Args:
        config: The configuration, with a crop.
        data: The data set.

    Returns:
        What they cost, the median of several.
    """
    keep_freed_memory()
    train = stage_train(config, 0)
    device = torch.device(config.device if ":" in config.device else device_kind(config.device))
    form = torch.channels_last if train.channels_last else torch.contiguous_format
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model = create_stage_model(
            config, 0, num_classes=len(data.classes), bands=data.normalization.bands, pretrained=False
        )
        model = model.to(device=device, memory_format=form)  # type: ignore[call-overload]
        loss = CompositeLoss(
            balance_loss(train, data.train_counts),
            num_classes=len(data.classes),
            ignore_index=data.classes.ignore_index,
            aux_weight=train.aux_weight,
            loss_at=train.loss_at,
            feature_channels=feature_channels(model),
        ).to(device)
        optimizer = create_optimizer(model, train)
        dataset = train_dataset(data, train, crop_size(train, model), seed=config.seed)
        keys = itertools.cycle(BatchOrder(len(dataset), train.batch_size, True, config.seed).batches())
        steps, reads = [], []
        set_training_mode(model, freeze_norm=train.freeze_norm)
        for _ in range(1 + STEPS):
            batch, read = timed(lambda: collate([dataset[key] for key in next(keys)]), device)

            def step(batch: dict[str, Tensor] = batch) -> None:
                images = batch["images"].to(device=device, memory_format=form)
                with autocast(device, train.precision):
                    output = model(images)
                    maps = {
                        name: crop_target(value.to(device), output.logits)
                        for name, value in batch.items()
                        if name not in {"images", "target", "index"}
                    }
                    total = loss(output, crop_target(batch["target"].to(device), output.logits), **maps).total
                total.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            _, spent = timed(step, device)
            steps.append(spent)
            reads.append(read)
        image = _time_image(config, data, model, device)
    parts = train.accumulate
    median = [
        Spent(*(statistics.median(getattr(one, clock) for one in taken[1:]) * parts for clock in Spent._fields))
        for taken in (steps, reads)
    ]
    return Costs(median[0], median[1], image)


def activation_bytes(config: RunConfig, data: TrainingData) -> int:
    """Measure what one training sample keeps in memory between forward and backward pass.

    Args:
        config: The configuration, with a crop.
        data: The data set.

    Returns:
        Bytes, on the CPU, in float32: an upper bound for mixed precision.
    """
    train = stage_train(config, 0)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.random.fork_rng(devices=[]):
        model = create_stage_model(
            config, 0, num_classes=len(data.classes), bands=data.normalization.bands, pretrained=False
        ).train()
        images = torch.zeros(2, data.normalization.bands, *crop_size(train, model))  # two: batch norm takes no single
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model(images)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    total = sum(size for pointer, size in kept.items() if pointer not in weights)
    return int(total + output.logits.untyped_storage().nbytes()) // 2


def timed(work: Callable[[], Result], device: torch.device) -> tuple[Result, Spent]:
    """Do something and look at both clocks.

    Args:
        work: What to do.
        device: Waited for, before and after.

    Returns:
        What it gave, and what it took.
    """
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    _wait(device)
    return result, Spent(time.perf_counter() - wall, time.process_time() - cpu)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Give the mixed precision of a configuration, outside of Fabric.

    Args:
        device: Where to compute.
        precision: ``32``, ``bf16`` or ``16``.

    Returns:
        The context.
    """
    dtypes = {"bf16": torch.bfloat16, "16": torch.float16}
    return torch.autocast(device.type, dtype=dtypes[precision]) if precision in dtypes else nullcontext()


def _time_image(config: RunConfig, data: TrainingData, model: SegmentationModel, device: torch.device) -> Spent:
    """Score a validation image twice, and time the second."""
    dataset = validation_dataset(data)
    scorer = Scorer(model)
    model.eval()

    def score() -> None:
        images = dataset[0]["images"][None].to(device)
        with torch.no_grad(), autocast(device, config.train.precision):
            if scorer.score(images) is None:
                scorer.label(images)

    timed(score, device)
    return timed(score, device)[1]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
