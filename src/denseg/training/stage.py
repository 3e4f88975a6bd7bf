# SPDX-License-Identifier: Apache-2.0
"""What one stage trains with: the network on its device, optimiser, loss and loaders."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed
from torch import Tensor

from denseg.errors import ConfigError
from denseg.losses import CompositeLoss
from denseg.models import feature_channels, split_parameters
from denseg.training.average import WeightAverage
from denseg.training.balance import balance_loss
from denseg.training.loaders import train_dataset, train_loader, validation_dataset, validation_loader
from denseg.training.optimizer import create_optimizer, freeze_parts, load_optimizer_tensors, optimizer_tensors
from denseg.training.setup import (
    create_stage_model,
    crop_size,
    plan_stage,
    stage_train,
)
from denseg.training.state import LoadedState, load_model_tensors, take

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lightning_fabric import Fabric

    from denseg.config import RunConfig
    from denseg.data.samples.loader import Batch
    from denseg.models import SegmentationModel
    from denseg.training.setup import TrainingData

__all__ = ["Stage"]


class Stage:
    """Everything of one stage that does not move with the steps.

    Attributes:
        fabric: Device, processes and precision.
        seed: Of the run.
        train: The stage's configuration.
        model: The network, on the device.
        module: The same behind fabric: precision and gradient exchange.
        optimizer: Torch's optimiser.
        stepper: The same behind fabric.
        loss: The composite loss, on the device.
        samples: Training samples, augmented.
        loader: Training batches.
        val_samples: Whole validation images.
        val_loader: The same in batches.
        plan: How long the stage is.
        crop: ``(height, width)`` of training samples.
        frozen: Names of parameters that do not learn.
        average: The moving average of the weights; ``None`` where none is kept.
        memory_format: Of weights and images.
    """

    def __init__(
        self,
        config: RunConfig,
        data: TrainingData,
        fabric: Fabric,
        *,
        index: int,
        weights: tuple[Mapping[str, Tensor], Path] | None = None,
        initialize: Callable[[SegmentationModel], object] | None = None,
    ) -> None:
        """Build the stage; the loaders' workers start with the first batch.

        Args:
            config: The run's configuration.
            data: The data set.
            fabric: Device, processes and precision.
            index: Of the stage.
            weights: The network's weights and where they came from; ``None`` for fresh ones.
            initialize: Gives a fresh network other weights.
        """
        self.fabric = fabric
        self.seed = config.seed
        self.train = stage_train(config, index)
        model = create_stage_model(
            config,
            index,
            num_classes=len(data.classes),
            bands=data.normalization.bands,
            pretrained=config.model.pretrained and weights is None,
        )
        if weights is not None:
            load_model_tensors(model, *weights)
        elif initialize is not None:
            initialize(model)
        if self.train.sync_norm:
            model = synchronized(model, fabric)
        self.memory_format = torch.channels_last if self.train.channels_last else torch.contiguous_format
        self.model = model.to(device=fabric.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        self.crop = crop_size(self.train, model)
        self.samples = train_dataset(data, self.train, self.crop, seed=config.seed)
        self.loader = train_loader(self.samples, data, self.train, fabric=fabric)
        self.val_samples = validation_dataset(data)
        self.val_loader = validation_loader(self.val_samples, data, self.train, fabric=fabric)
        self.plan = plan_stage(config, index, len(self.loader))
        parts = split_parameters(model)
        self.frozen = freeze_parts(model, self.train, self.plan.freeze, parts)
        self.optimizer = create_optimizer(model, self.train, parts)
        self.loss = CompositeLoss(
            balance_loss(self.train, data.train_counts),
            num_classes=len(data.classes),
            ignore_index=data.classes.ignore_index,
            aux_weight=self.train.aux_weight,
            loss_at=self.train.loss_at,
            feature_channels=feature_channels(self.model),
        ).to(fabric.device)
        self.average = None if self.train.ema is None else WeightAverage(model, decay=self.train.ema)
        trained: Any = torch.compile(model, dynamic=False) if self.train.compile else model
        self.module, self.stepper = fabric.setup(trained, self.optimizer)
        if fabric.world_size > 1:
            # The loss is divided by the labelled pixels of all processes, so gradients are summed, not averaged.
            self.module._forward_module.register_comm_hook(None, _sum_gradients)

    def restore(self, state: LoadedState) -> None:
        """Take optimiser, loss tables and scaler from a state of this stage; its weights are in the model already.

        Args:
            state: What was read back.
        """
        load_optimizer_tensors(self.optimizer, take(state.tensors, "optimizer"))
        if state.position.step:  # at its first step a stage has its own, fresh tables
            self.loss.load_state_dict(take(state.tensors, "loss"))
        averages = take(state.tensors, "ema")
        if self.average is not None and averages and state.position.step:  # at its first step a stage starts it anew
            self.average.load(averages)
        if state.position.scaler:
            self.fabric._precision.load_state_dict(state.position.scaler)

    def to_device(self, batch: Batch, *, images: bool = True) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Move a batch to the device; what is there already is not copied.

        Args:
            batch: What the loader gave.
            images: Whether the images are wanted; else an empty tensor stands for them.

        Returns:
            Images ``(B, C, h, w)``, target ``(B, h, w)`` and the further maps by name.
        """
        device = self.fabric.device
        pictures = (
            batch["images"].to(device=device, memory_format=self.memory_format, non_blocking=True)
            if images
            else torch.empty(0)
        )
        maps = {
            name: values.to(device, non_blocking=True)
            for name, values in batch.items()
            if name not in {"images", "target", "index"}
        }
        return pictures, batch["target"].to(device, non_blocking=True), maps

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Give everything that a state holds of this stage: ``model``, ``optimizer``, ``loss``, and ``ema``."""
        groups: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
            "loss": self.loss.state_dict(),
        }
        return groups if self.average is None else groups | {"ema": self.average.tensors()}

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Give the network, inside a ``with`` block, the weights that it predicts with: their average, or its own."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    def close(self) -> None:
        """End the loaders' workers."""
        self.loader.close()
        self.val_loader.close()


def synchronized(model: SegmentationModel, fabric: Fabric) -> SegmentationModel:
    """Let batch norm take its statistics over all processes.

    Args:
        model: The network; changed in place.
        fabric: Processes and device.

    Returns:
        The network; as it was where there is one process.

    Raises:
        ConfigError: There are several processes, and they have no GPUs: torch's ``SyncBatchNorm`` needs them.
    """
    if fabric.world_size == 1:
        return model
    if fabric.device.type != "cuda":
        raise ConfigError(
            f"train.sync_norm needs GPUs, and these processes run on {fabric.device.type}; set train.freeze_norm, or "
            "larger batches",
            key="train.sync_norm",
        )
    converted: SegmentationModel = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted


def _sum_gradients(state: object, bucket: Any) -> torch.futures.Future[Tensor]:
    """Communication hook of DDP: the sum over processes, where torch's own divides by their number."""
    work = torch.distributed.all_reduce(bucket.buffer(), async_op=True)
    future: torch.futures.Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return future


_sum_gradients.__annotations__ = {}  # torch compares annotations with its own classes, and ours are text
