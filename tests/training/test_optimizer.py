# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denseg.config import TrainConfig
from denseg.errors import ConfigError
from denseg.training.optimizer import (
    create_optimizer,
    freeze_parts,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    set_training_mode,
)

PARTS = {
    "backbone": ["stem.0.weight", "stem.1.weight", "stem.1.bias"],
    "head": ["classify.weight", "classify.bias", "gamma"],
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.classify = nn.Conv2d(4, 2, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.stem(x)) * (1 + self.gamma)  # type: ignore[no-any-return]


def config(**values: Any) -> TrainConfig:
    return TrainConfig.model_validate(values)


def table(optimizer: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    return {
        name: (round(group["lr"], 9), round(group["weight_decay"], 9))
        for group in optimizer.param_groups
        for name in group["names"]
    }


def test_vectors_do_not_decay_and_matrices_do() -> None:
    optimizer = create_optimizer(Net(), config(learning_rate=0.1, weight_decay=0.01))
    assert table(optimizer) == {
        "stem.0.weight": (0.1, 0.01),
        "stem.1.weight": (0.1, 0.0),
        "stem.1.bias": (0.1, 0.0),
        "classify.weight": (0.1, 0.01),
        "classify.bias": (0.1, 0.0),
        "gamma": (0.1, 0.0),
    }


def test_everything_decays_where_asked() -> None:
    optimizer = create_optimizer(Net(), config(weight_decay=0.01, decay_norm_and_bias=True))
    assert {decay for _, decay in table(optimizer).values()} == {0.01}


def test_multipliers_of_all_parts_multiply() -> None:
    parts = {
        "head": {"learning_rate": 10},
        "bias": {"learning_rate": 2, "weight_decay": 0},
        "stem.0": {"weight_decay": 5},
    }
    values = config(learning_rate=0.1, weight_decay=0.01, decay_norm_and_bias=True, parts=parts)
    assert table(create_optimizer(Net(), values, PARTS)) == {
        "stem.0.weight": (0.1, 0.05),
        "stem.1.weight": (0.1, 0.01),
        "stem.1.bias": (0.2, 0.0),
        "classify.weight": (1.0, 0.01),
        "classify.bias": (2.0, 0.0),
        "gamma": (1.0, 0.01),
    }


def test_an_unknown_part_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        create_optimizer(Net(), config(parts={"clasify": {"learning_rate": 2}}), PARTS)
    assert str(caught.value) == (
        "train.parts: this network has no part 'clasify'. Did you mean 'classify'? "
        "Known: backbone, bias, classify, gamma, head, norm, stem"
    )
    assert caught.value.exit_code == 2


def test_a_network_without_backbone_has_no_such_part() -> None:
    with pytest.raises(ConfigError) as caught:
        create_optimizer(Net(), config(parts={"backbone": {"learning_rate": 0.1}}), {"backbone": [], "head": []})
    assert str(caught.value) == (
        "train.parts: this network has no part 'backbone'. Known: bias, classify, gamma, norm, stem"
    )


def test_frozen_parts_stay_out_and_keep_their_statistics() -> None:
    model = Net()
    frozen = freeze_parts(model, config(parts={"backbone": {"learning_rate": 0}}), (), PARTS)
    assert frozen == set(PARTS["backbone"])
    assert set(table(create_optimizer(model, config(), PARTS))) == set(PARTS["head"])
    set_training_mode(model, freeze_norm=False, frozen=frozen)
    assert model.training
    assert not model.stem[1].training
    set_training_mode(model, freeze_norm=False)
    assert model.stem[1].training
    set_training_mode(model, freeze_norm=True)
    assert not model.stem[1].training


def test_freeze_takes_prefixes_and_keeps_what_was_built_frozen() -> None:
    model = Net()
    model.gamma.requires_grad_(False)
    assert freeze_parts(model, config(), ("stem.0",)) == {"stem.0.weight", "gamma"}
    with pytest.raises(ConfigError) as caught:
        freeze_parts(model, config(), ("stems",))
    assert str(caught.value).startswith("stages.freeze: this network has no part 'stems'. Did you mean 'stem'?")


def test_nothing_left_to_learn_is_an_error() -> None:
    model = Net()
    freeze_parts(model, config(), ("stem", "classify", "gamma"))
    with pytest.raises(ConfigError) as caught:
        create_optimizer(model, config())
    assert str(caught.value) == "no parameter is left to learn: every part is frozen"


def test_learning_rate_follows_the_factor() -> None:
    optimizer = create_optimizer(Net(), config(learning_rate=0.1, parts={"head": {"learning_rate": 10}}), PARTS)
    assert set_learning_rate(optimizer, 0.5) == 0.5
    assert table(optimizer)["stem.0.weight"][0] == 0.05


def train_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(2, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("values", [{"optimizer": "sgd", "nesterov": True}, {"optimizer": "adamw"}, {"momentum": 0}])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_state_put_back_goes_on_bit_for_bit(values: dict[str, Any], memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    whole = Net().to(memory_format=memory_format)  # type: ignore[call-overload]
    optimizer = create_optimizer(whole, config(**values))
    train_steps(whole, optimizer, range(3))
    weights = {name: value.clone() for name, value in whole.state_dict().items()}
    stored = {name: value.clone().contiguous() for name, value in optimizer_tensors(optimizer).items()}
    train_steps(whole, optimizer, range(3, 6))

    again = Net().to(memory_format=memory_format)  # type: ignore[call-overload]
    again.load_state_dict(weights)
    resumed = create_optimizer(again, config(**values))
    load_optimizer_tensors(resumed, stored)
    train_steps(again, resumed, range(3, 6))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    for name, value in optimizer_tensors(optimizer).items():
        assert torch.equal(value, optimizer_tensors(resumed)[name])
        assert value.stride() == optimizer_tensors(resumed)[name].stride()


def test_depthwise_kernels_are_a_part() -> None:
    """DeepLab's released code spares them weight decay."""
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=2))
    optimizer = create_optimizer(net, config(weight_decay=0.5, parts={"depthwise": {"weight_decay": 0}}))
    decays = {name: group["weight_decay"] for group in optimizer.param_groups for name in group["names"]}
    assert {name: decay for name, decay in decays.items() if name.endswith("weight")} == {
        "0.weight": 0,
        "1.weight": 0.5,
        "2.weight": 0.5,
    }
