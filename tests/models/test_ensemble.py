# SPDX-License-Identifier: Apache-2.0
"""Networks that vote."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from denseg.errors import UsageError
from denseg.models import create_model, load_checkpoint, save_checkpoint, split_parameters
from denseg.models.ensemble import Ensemble


def build(**options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("unet", num_classes=3, width=0.0625, members=3, **options).eval()


def test_it_gives_the_mean_of_the_probabilities() -> None:
    model = build()
    images = torch.randn(2, 3, 33, 40)
    out = model(images)
    wanted = torch.stack([member(images).logits.softmax(dim=1) for member in model.members]).mean(dim=0)
    assert torch.allclose(out.logits.softmax(dim=1), wanted, atol=1e-6)
    assert torch.allclose(out.logits.exp(), wanted, atol=1e-6), "the scores are the logarithms themselves"
    assert out.features.shape[1] == 3 * model.members[0](images).features.shape[1]


def test_members_differ_from_the_start() -> None:
    one, two, three = build().members
    assert not torch.equal(one.classifier.weight, two.classifier.weight)
    assert not torch.equal(two.classifier.weight, three.classifier.weight)


def test_sure_members_that_disagree_stay_finite() -> None:
    model = build()
    with torch.no_grad():
        for place, member in enumerate(model.members):
            member.classifier.weight.zero_()
            member.classifier.bias.copy_(torch.nn.functional.one_hot(torch.tensor(place), 3) * 1e4)
    logits = model(torch.randn(1, 3, 16, 16)).logits
    assert torch.allclose(logits, torch.full_like(logits, 1 / 3).log(), atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"reduction": 2}])
def test_a_checkpoint_builds_it_again(tmp_path: Path, options: dict[str, int]) -> None:
    model = build(**options)
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path)
    loaded = load_checkpoint(path)
    assert loaded.metadata["model"]["arguments"]["members"] == 3
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded.model(images).logits, model(images).logits)


def test_backbones_of_all_members_are_found() -> None:
    model = create_model("unet", num_classes=2, backbone="test_resnet", members=2, reduction=2)
    parts = split_parameters(model)
    assert any(name.startswith("members.1.network.backbone.") for name in parts["backbone"])
    assert not any("backbone" in name for name in parts["head"])


@pytest.mark.parametrize("members", [1, 0, "3", True])
def test_other_numbers_are_refused(members: object) -> None:
    with pytest.raises(UsageError) as caught:
        create_model("unet", num_classes=2, width=0.0625, members=members)
    assert str(caught.value) == f"members is a number of networks, at least 2; got {members!r}"


def test_members_must_be_alike() -> None:
    one, two = (create_model("unet", num_classes=count, width=0.0625) for count in (2, 3))
    with pytest.raises(UsageError) as caught:
        Ensemble([one, two])
    assert str(caught.value) == "the members of an ensemble must be alike in classes, bands and geometry"
    with pytest.raises(UsageError) as caught:
        Ensemble([one])
    assert str(caught.value) == "an ensemble has at least 2 members, got 1"
