# SPDX-License-Identifier: Apache-2.0
"""The sections of the configuration besides ``train``, and the whole."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from denseg.config.messages import config_error
from denseg.config.section import Section
from denseg.config.train import PartConfig, TrainConfig

__all__ = ["DataConfig", "ModelConfig", "PartConfig", "RunConfig", "StageConfig", "stage_configs"]


class ModelConfig(BaseModel):
    """Which network. Any further key is an option of that model's constructor and is checked against its signature."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field("unet", description="catalog name, see `denseg models`")
    backbone: str | None = Field(None, description="timm or torchvision name; the model's own default where empty")
    form: Literal["modern", "paper"] = Field("modern", description="`paper`: exact layers and sizes of the paper")
    width: float | None = Field(None, gt=0, description="multiplies the channels of models without a backbone")
    output_stride: Literal[4, 8, 16, 32] | None = Field(None, description="input pixels per heatmap position")
    pretrained: bool = Field(False, description="start the backbone from ImageNet weights")

    @property
    def options(self) -> dict[str, Any]:
        """Further keys: options of the model's constructor."""
        return dict(self.model_extra or {})


class DataConfig(Section):
    """Which pictures, and how their masks are read."""

    path: str | None = Field(None, description="the data folder")
    val_share: float = Field(0.2, gt=0, lt=1, description="share of images held out where the folder has no split")
    split_seed: int | None = Field(None, ge=0, description="of the images held out; the run's seed if empty")
    fold: tuple[int, int] | None = Field(None, description="[k, n]: hold out the k-th of n folds; see `--folds`")
    unpaired: Literal["refuse", "skip"] = Field("refuse", description="images without mask, masks without image")
    ignore_index: int | None = Field(None, ge=0, description="label that means `no class`; found if empty")
    max_pixels: int = Field(178_956_970, gt=0, description="larger images are refused before they are decoded")
    normalize: Literal["auto", "mean_std", "percentiles"] = Field(
        "auto", description="auto: ImageNet's numbers for 8-bit RGB, else mean and deviation of train per band"
    )
    percentiles: tuple[float, float] = Field(
        (1.0, 99.0), description="of each band in train, that become -1 and 1 with normalize=percentiles"
    )
    cache_gb: float = Field(8.0, ge=0, description="GiB of decoded images kept on disk for later epochs; 0: none")
    accept: tuple[str, ...] = Field((), description="codes of `denseg check` findings that are known and accepted")

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(
                f"data.percentiles must be [low, high] with 0 <= low < high <= 100, got {list(self.percentiles)}"
            )
        return self

    @model_validator(mode="after")
    def _check_fold(self) -> DataConfig:
        if self.fold is not None and not (1 <= self.fold[0] <= self.fold[1] and self.fold[1] >= 2):
            raise ValueError(f"data.fold is [k, n] with 1 <= k <= n and n at least 2, got {list(self.fold)}")
        return self


class StageConfig(Section):
    """One of several trainings that follow each other."""

    name: str = Field(description="shown in the log and in metrics.csv")
    train: dict[str, Any] = Field(default_factory=dict, description="keys of `train` that differ in this stage")
    freeze: tuple[str, ...] = Field((), description="parts that do not learn: `backbone`, `head`, or name prefixes")
    output_stride: Literal[4, 8, 16, 32] | None = Field(None, description="changed for this stage")


class RunConfig(Section):
    """Everything that decides a run."""

    seed: int = Field(0, ge=0, lt=2**31, description="all randomness derives from (seed, epoch, sample)")
    recipe: str = Field("", description="name or file of the recipe that this came from; for the record")
    plan: bool = Field(False, description="decide from data and machine what is not said; `auto` does")
    folds: int | None = Field(
        None, ge=2, description="train so many networks, each held out another part; predict together"
    )
    init: str = Field("none", description="none, imagenet, a run, or a checkpoint file")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    stages: tuple[StageConfig, ...] = Field((), description="trainings that follow each other; empty: `train` alone")

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        stage_configs(self)
        if self.folds is not None and self.stages:
            raise ValueError("folds take one stage; leave folds or stages out")
        return self


def stage_configs(config: RunConfig) -> tuple[tuple[str, TrainConfig], ...]:
    """Resolve the stages of a run.

    Args:
        config: The run's configuration.

    Returns:
        Name and full training section of each stage, in order; one stage named ``train`` where none are given.

    Raises:
        ConfigError: A stage holds an unknown key or a value out of range.
    """
    if not config.stages:
        return (("train", config.train),)
    resolved = []
    for index, stage in enumerate(config.stages):
        base = config.train.model_dump()
        if {"epochs", "iterations"} & stage.train.keys():
            base |= {"epochs": None, "iterations": None}
        values = base | stage.train
        if isinstance(values["augment"], dict):
            values["augment"] = base["augment"] | values["augment"]
        try:
            train = TrainConfig.model_validate(values)
        except ValidationError as error:
            raise config_error(error, RunConfig, ("stages", str(index), "train")) from error
        resolved.append((stage.name, train))
    return tuple(resolved)
