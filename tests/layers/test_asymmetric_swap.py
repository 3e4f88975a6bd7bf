# SPDX-License-Identifier: Apache-2.0
"""Asymmetric convolutions in networks that were not made for them, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

from denseg.layers import AsymmetricConv, ConvBlock, fold_batch_norms, fuse_asymmetric_convs, use_asymmetric_convs
from denseg.layers.norm_pairs import find_norm_pairs

IMAGES = torch.randn(2, 3, 40, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def plain() -> nn.Module:
    """Square kernels with norm, without norm, with bias; and forms that are none of its business."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),  # bias, no norm
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),  # bias and norm
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, (1, 3), padding=(0, 1)),
        nn.Conv2d(8, 8, 3, dilation=2),  # no padding
        nn.Conv2d(8, 8, 5, padding=1),
        nn.Conv2d(8, 8, 4, padding=2),
        nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"),
    )


def networks() -> dict[str, Callable[[], nn.Module]]:
    return {
        "plain": plain,
        "ResNet": lambda: timm.create_model("test_resnet"),
        "EfficientNet": lambda: timm.create_model("test_efficientnet"),  # norm and activation in one, depthwise
    }


NETWORKS = networks()
each = pytest.mark.parametrize("name", list(NETWORKS))


def trained(name: str) -> nn.Module:
    """A network whose norms have statistics and weights of their own."""
    torch.manual_seed(0)
    network = NETWORKS[name]().double().train()
    with torch.no_grad():
        for _ in range(3):
            network(IMAGES)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, mean=1, std=0.3)
                nn.init.normal_(module.bias, std=0.3)
    return network.eval()


@each
def test_kept_weights_compute_what_they_did(name: str) -> None:
    network = trained(name)
    with torch.no_grad():
        before = network(IMAGES)
        replaced = use_asymmetric_convs(network, IMAGES, keep=lambda _: True)
        assert replaced
        torch.testing.assert_close(network(IMAGES), before)


@each
def test_fused_the_network_computes_the_same_with_as_many_square_kernels(name: str) -> None:
    network = trained(name)
    square = [conv.weight.shape for conv in network.modules() if isinstance(conv, nn.Conv2d)]
    replaced = use_asymmetric_convs(network, IMAGES)
    with torch.no_grad():
        network.train()(IMAGES)  # running statistics of the new branches
        expected = network.eval()(IMAGES)
        fuse_asymmetric_convs(network)
        torch.testing.assert_close(network(IMAGES), expected)
    assert [conv.weight.shape for conv in network.modules() if isinstance(conv, nn.Conv2d)] == square
    assert not any(isinstance(module, AsymmetricConv) for module in network.modules())
    assert all(isinstance(network.get_submodule(place), nn.Conv2d) for place in replaced)


def test_every_square_kernel_of_a_resnet_and_its_norm_is_taken() -> None:
    network = timm.create_model("test_resnet").double()
    wide = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert use_asymmetric_convs(network, IMAGES) == tuple(wide)
    blocks = [m for m in network.modules() if isinstance(m, AsymmetricConv)]
    assert len(blocks) == len(wide)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == norms + 2 * len(wide)


def test_other_forms_stay_and_a_second_call_changes_nothing() -> None:
    network = plain().double()
    assert use_asymmetric_convs(network, IMAGES) == ("0", "3", "5", "9", "10")
    assert isinstance(network[1], nn.Identity)
    assert isinstance(network[6], nn.Identity)
    assert use_asymmetric_convs(network, IMAGES) == ()


def test_square_weights_are_taken_over_and_branches_start_with_the_norms_weight() -> None:
    network = trained("plain")
    before = copy.deepcopy(network)
    use_asymmetric_convs(network, IMAGES, branch_weight=1 / 3)
    block, norm = network[0], before[1]
    torch.testing.assert_close(block.square.conv.weight, before[0].weight)
    for branch in (block.square, block.row, block.column):
        torch.testing.assert_close(branch.norm.weight, norm.weight / 3)
        assert branch.norm.running_mean.abs().max() == 0


def test_a_module_used_at_two_places_stays() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    network = nn.Sequential(shared, nn.ReLU(), shared).double()
    assert use_asymmetric_convs(network, IMAGES) == ()


def test_the_mode_of_the_network_stays() -> None:
    for mode in (True, False):
        network = plain().double().train(mode)
        use_asymmetric_convs(network, IMAGES)
        assert all(module.training is mode for module in network.modules())


def test_folding_for_inference_fuses_too() -> None:
    network = nn.Sequential(ConvBlock(3, 8), nn.Conv2d(8, 2, 1)).double()
    use_asymmetric_convs(network, IMAGES)
    with torch.no_grad():
        network.train()(IMAGES)
        network.eval()
        folded = fold_batch_norms(network, IMAGES)
        assert not any(isinstance(module, AsymmetricConv) for module in folded.modules())
        assert any(isinstance(module, AsymmetricConv) for module in network.modules())
        torch.testing.assert_close(folded(IMAGES), network(IMAGES))


def test_a_block_alone_is_fused_into_a_convolution() -> None:
    assert isinstance(fuse_asymmetric_convs(AsymmetricConv(4)), nn.Conv2d)


def test_pairs_are_found_by_running() -> None:
    network = plain().double().eval()
    pairs = find_norm_pairs(network, IMAGES)
    assert [(type(conv), norm) for conv, norm in pairs] == [(nn.Conv2d, network[1]), (nn.Conv2d, network[6])]
    assert [conv for conv, _ in pairs] == [network[0], network[5]]
