# SPDX-License-Identifier: Apache-2.0
"""ACNet, and asymmetric convolutions in the other models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from denseg.errors import UsageError
from denseg.layers import AsymmetricConv
from denseg.models import create_model, load_checkpoint, save_checkpoint

IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def squares(model: nn.Module) -> int:
    return sum(m.kernel_size[0] == m.kernel_size[1] >= 3 for m in model.modules() if isinstance(m, nn.Conv2d))


def test_every_square_kernel_of_backbone_and_head_has_its_row_and_column() -> None:
    model = create_model("acnet", num_classes=3, backbone="test_resnet")
    blocks = sum(isinstance(module, AsymmetricConv) for module in model.modules())
    assert blocks == squares(model) > 4
    assert isinstance(model.head.conv, AsymmetricConv)
    assert isinstance(model.auxiliary.block.conv, AsymmetricConv)


def test_fused_it_scores_the_same_and_is_saved_as_such(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("acnet", num_classes=3, backbone="test_resnet", branch_weight=1 / 3)
    with torch.no_grad():
        model.train()(IMAGES)
        expected = model.eval()(IMAGES)
        fused = model.fuse()
        save_checkpoint(fused, tmp_path / "fused.safetensors")
        loaded = load_checkpoint(tmp_path / "fused.safetensors").model.eval()
        for network in (fused, loaded):
            torch.testing.assert_close(network(IMAGES).logits, expected.logits, rtol=1e-4, atol=1e-4)
    plain = create_model("acnet", num_classes=3, backbone="test_resnet", fused=True)
    assert loaded.spec.arguments["fused"] is True
    assert sum(p.numel() for p in fused.parameters()) == sum(p.numel() for p in plain.parameters())
    assert not any(isinstance(module, AsymmetricConv) for module in fused.modules())
    assert any(isinstance(module, AsymmetricConv) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "options"),
    [("unet", {"width": 0.125}), ("unet", {"form": "paper", "width": 0.125}), ("hdnet", {"backbone": "test_resnet"})],
)
def test_any_model_takes_them(name: str, options: dict[str, object], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=2, asymmetric=True, **options).eval()
    assert any(isinstance(module, AsymmetricConv) for module in model.modules())
    assert model.spec.arguments["asymmetric"] is True
    side = max(model.geometry.min_size, 48)
    if model.geometry.size_step > 1:
        side = model.geometry.min_size
    images = torch.randn(1, 3, side, side)
    save_checkpoint(model, tmp_path / "x.safetensors")
    loaded = load_checkpoint(tmp_path / "x.safetensors").model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).logits, model(images).logits)


def test_off_is_as_if_it_were_not_there() -> None:
    model = create_model("unet", num_classes=2, width=0.125, asymmetric=False)
    assert "asymmetric" not in model.spec.arguments
    assert not any(isinstance(module, AsymmetricConv) for module in model.modules())


def test_trained_backbones_start_from_what_they_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    from denseg.backbones import timm_backbone

    built = timm_backbone._create_network

    def with_weights(
        *arguments: object, **more: object
    ) -> object:  # no download: whatever weights there are count as trained
        torch.manual_seed(1)
        name, bands, _, options = arguments
        return built(name, bands, False, options, **more)

    monkeypatch.setattr(timm_backbone, "_create_network", with_weights)
    options = {"num_classes": 2, "backbone": "test_resnet", "pretrained": True}
    plain, model, hdnet, other = (
        create_model(name, **options, **more).eval()
        for name, more in (("fcn", {}), ("acnet", {}), ("hdnet", {}), ("hdnet", {"asymmetric": True}))
    )
    with torch.no_grad():
        for before, after in ((plain, model), (hdnet, other)):
            assert any(isinstance(module, AsymmetricConv) for module in after.backbone.modules())
            for level, expected in zip(after.backbone(IMAGES), before.backbone(IMAGES), strict=True):
                torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4)
    assert model.head.conv.row.norm.weight.min() == 1  # the head starts as in the paper


def test_it_is_on_or_off() -> None:
    message = "asymmetric is true or false, got 'yes'"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        create_model("unet", num_classes=2, asymmetric="yes")
