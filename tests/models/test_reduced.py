# SPDX-License-Identifier: Apache-2.0
"""A network on a smaller picture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from denseg.errors import UnsupportedError, UsageError
from denseg.models import create_model, load_checkpoint, save_checkpoint, split_parameters


def build(reduction: int = 2, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("unet", num_classes=3, width=0.0625, reduction=reduction, **options).eval()


@pytest.mark.parametrize("reduction", [2, 3, 4])
def test_it_is_the_network_on_block_means_enlarged(reduction: int) -> None:
    model, inner = build(reduction), build(1)
    model.network.load_state_dict(inner.state_dict())
    images = torch.randn(2, 3, 32 * reduction, 48 * reduction)
    small = images.unflatten(2, (32, reduction)).unflatten(4, (48, reduction)).mean(dim=(3, 5))
    wanted = inner(small)
    out = model(images)
    assert torch.allclose(out.heatmap, wanted.logits, atol=1e-5)
    enlarged = F.interpolate(wanted.logits, scale_factor=reduction, mode="bilinear", align_corners=False)
    assert torch.allclose(out.logits, enlarged, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 33), (31, 64)])
def test_any_size_in_the_same_out(size: tuple[int, int]) -> None:
    assert build()(torch.randn(1, 3, *size)).logits.shape[2:] == size


def test_a_border_block_is_the_mean_of_its_own_pixels() -> None:
    """A picture whose last column repeats gives the scores of the even one there."""
    model = build()
    images = torch.randn(1, 3, 32, 31)
    even = torch.cat([images, images[..., -1:]], dim=3)
    assert torch.allclose(model(images).logits, model(even).logits[..., :31], atol=1e-5)


def test_shifting_by_the_stride_shifts_the_scores() -> None:
    model = build()
    step = model.geometry.total_stride
    assert step == 2 * build(1).geometry.total_stride
    images = torch.zeros(1, 3, 8 * step, 8 * step)
    images[..., 3 * step : 4 * step, 3 * step : 4 * step] = torch.randn(1, 3, step, step)
    moved = torch.roll(images, step, dims=3)
    one, two = model(images).logits, model(moved).logits
    middle = slice(3 * step, 4 * step)
    assert torch.allclose(one[..., middle, middle], two[..., middle, 4 * step : 5 * step], atol=1e-4)


def test_a_checkpoint_builds_it_again(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "model.safetensors"
    model = build(backbone=None)
    save_checkpoint(model, path)
    again = load_checkpoint(path).model
    images = torch.randn(1, 3, 40, 40)
    assert torch.equal(again.eval()(images).logits, model(images).logits)
    assert load_checkpoint(path).metadata["model"]["arguments"]["reduction"] == 2


def test_its_backbone_is_found() -> None:
    model = create_model("unet", num_classes=2, backbone="test_resnet", reduction=2)
    parts = split_parameters(model)
    assert parts["backbone"]
    assert all(name.startswith("network.backbone.") for name in parts["backbone"])
    assert sorted(parts["backbone"] + parts["head"]) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("reduction", [5, 0, "2"])
def test_other_reductions_are_refused(reduction: object) -> None:
    with pytest.raises(UsageError) as caught:
        create_model("unet", num_classes=2, width=0.0625, reduction=reduction)
    assert str(caught.value) == f"reduction is 2, 3 or 4, got {reduction!r}"


def test_valid_forms_have_none() -> None:
    with pytest.raises(UnsupportedError) as caught:
        create_model("unet", num_classes=2, form="paper", width=0.0625, in_channels=1, reduction=2)
    assert str(caught.value) == "a form that takes only some image sizes has no reduction; leave reduction out"
