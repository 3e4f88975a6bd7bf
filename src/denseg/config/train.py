# SPDX-License-Identifier: Apache-2.0
"""The ``train`` section of the configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from denseg.config.augment import AugmentConfig
from denseg.config.border import BorderWeightConfig
from denseg.config.section import Section
from denseg.config.units import parse_budget

__all__ = ["PartConfig", "TrainConfig"]


class PartConfig(Section):
    """Multipliers of one part of the network."""

    learning_rate: float = Field(1.0, ge=0, description="times the learning rate; 0 freezes the part")
    weight_decay: float = Field(1.0, ge=0, description="times the weight decay")


class TrainConfig(Section):
    """How the network is trained."""

    epochs: int | None = Field(None, ge=1, description="passes over the training split")
    iterations: int | None = Field(None, ge=1, description="optimiser steps; takes the place of epochs")
    budget: str | None = Field(None, description="time, for example 30m; decides epochs where nothing else does")
    batch_size: int = Field(8, ge=1, description="images per step and process")
    accumulate: int = Field(1, ge=1, description="batches summed into one optimiser step")
    crop: int | tuple[int, int] | None = Field(None, description="pixels or [height, width]; 512 or the image if empty")
    scale: tuple[float, float] = Field((0.5, 2.0), description="random resize, drawn between these")
    scales: tuple[float, ...] = Field((), description="random resize, drawn from this list instead")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a left-right flip")
    flip_vertical: float = Field(0.0, ge=0, le=1, description="probability of an up-down flip")
    augment: AugmentConfig = Field(AugmentConfig(), description="further random changes of training samples")
    sampling: Literal["uniform", "rare"] = Field(
        "uniform", description="rare: pictures with rare classes come more often, by repeat factors"
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="what moves the weights")
    learning_rate: float = Field(0.01, gt=0, description="the highest of the schedule")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    nesterov: bool = Field(False, description="of SGD")
    betas: tuple[float, float] = Field((0.9, 0.999), description="of AdamW")
    weight_decay: float = Field(1e-4, ge=0, description="of weights; see decay_norm_and_bias")
    decay_norm_and_bias: bool = Field(False, description="decay normalisation weights and biases too")
    parts: dict[str, PartConfig] = Field(
        default_factory=dict,
        description="multipliers by part: `backbone`, `head`, `bias`, `norm`, `depthwise`, or a prefix of names",
    )
    schedule: Literal["poly", "cosine", "step", "constant", "one_cycle"] = Field(
        "poly", description="how the learning rate moves"
    )
    power: float = Field(0.9, gt=0, description="of the poly schedule")
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    warmup_factor: float = Field(0.0, ge=0, le=1, description="share of the learning rate that warm-up rises from")
    step_every: int | None = Field(None, ge=1, description="steps between drops of the step schedule")
    step_factor: float = Field(0.1, gt=0, le=1, description="each drop of the step schedule multiplies by this")
    peak_at: float = Field(0.3, gt=0, lt=1, description="share of the steps at which one_cycle is highest")
    start_factor: float = Field(0.04, gt=0, le=1, description="share of the learning rate that one_cycle starts from")
    end_factor: float = Field(
        0.0, ge=0, lt=1, description="share of the learning rate that poly, cosine and one_cycle end at"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    freeze_norm: bool = Field(False, description="batch norm keeps its stored statistics")
    sync_norm: bool = Field(False, description="batch norm over all processes; needs GPUs")
    loss: dict[str, float | dict[str, Any]] = Field({"cross_entropy": 1.0}, description="name: weight, or options too")
    loss_at: Literal["input", "heatmap"] = Field("input", description="where scores and labels meet")
    border_weight: BorderWeightConfig | None = Field(
        None, description="gaps between cells weigh more, as U-Net has it: {} for its w0 = 10 and sigma = 5"
    )
    aux_weight: float = Field(0.4, ge=0, description="weight of the loss on auxiliary classifiers")
    class_weight: Literal["none", "enet", "median", "sqrt"] = Field(
        "none",
        description="of losses that take one, from the training pixels: enet 1 / ln(1.02 + share), "
        "median frequency / frequency, or its square root",
    )
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the moving average of weights that is kept")
    precision: Annotated[Literal["32", "bf16", "16", "auto"], BeforeValidator(str)] = Field(
        "32", description="16, bf16: mixed; auto: bf16 where the device multiplies it faster"
    )
    channels_last: bool = Field(True, description="memory format; faster on current CPUs and GPUs")
    compile: bool = Field(False, description="torch.compile of the network; needs a C++ compiler on a CPU")
    workers: int = Field(2, ge=0, description="loader processes; the result does not depend on it")
    metric: str = Field("miou", description="the score that decides the best checkpoint")
    validate_every: int = Field(1, ge=1, description="epochs between validations; the last epoch always has one")
    patience: int | None = Field(None, ge=1, description="stop after so many validations without a better score")
    checkpoint_every: int | None = Field(None, ge=1, description="save inside an epoch too, every so many steps")

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.epochs is not None and self.iterations is not None:
            raise ValueError("give train.epochs or train.iterations, not both")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"train.scale must be [low, high] with 0 < low <= high, got {list(self.scale)}")
        if any(scale <= 0 for scale in self.scales):
            raise ValueError(f"train.scales must be positive, got {list(self.scales)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"train.betas must be at least 0 and below 1, got {list(self.betas)}")
        crop = (self.crop,) if isinstance(self.crop, int) else self.crop or ()
        if any(side < 1 for side in crop):
            raise ValueError(f"train.crop must be at least 1 pixel, got {self.crop}")
        if not self.loss:
            raise ValueError("train.loss names no loss")
        if self.budget is not None:
            try:
                parse_budget(self.budget)
            except ValueError as error:
                raise ValueError(f"train.budget: {error}") from error
        return self
