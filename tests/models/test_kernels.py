# SPDX-License-Identifier: Apache-2.0
"""Mean kernels of a network."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from denseg.layers import AsymmetricConv, fuse_asymmetric_convs
from denseg.models.kernels import kernel_means


def conv(taps: list[list[float]], *, channels: int = 2) -> nn.Conv2d:
    layer = nn.Conv2d(channels, channels, len(taps))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(taps).expand_as(layer.weight))
    return layer


def test_layers_count_alike_whatever_their_scale_and_sign() -> None:
    cross = [[0.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 0.0]]
    flat = [[-30.0] * 3] * 3
    (mean,) = kernel_means(nn.Sequential(conv(cross), conv(flat, channels=8)))
    assert (mean.size, mean.layers) == (3, 2)
    np.testing.assert_allclose(mean.weights, (np.array(cross) / 2 + 1) / 2)
    assert mean.skeleton == np.mean([0.75, 0.75, 1, 0.75, 0.75])
    assert mean.corners == mean.rest == 0.5


def test_sizes_apart_and_other_forms_left_out() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 1, 5), nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, (1, 3)), nn.Conv2d(1, 1, 4)
    )
    means = kernel_means(network)
    assert [(mean.size, mean.layers) for mean in means] == [(3, 1), (5, 1)]
    assert all(mean.weights.max() == 1 for mean in means)
    assert means[1].rest != means[1].corners


def test_a_fused_block_has_a_stronger_skeleton() -> None:
    torch.manual_seed(0)
    block = AsymmetricConv(32).eval()
    (square,), (fused,) = kernel_means(block), kernel_means(fuse_asymmetric_convs(block))
    assert abs(square.skeleton / square.rest - 1) < 0.1
    assert fused.skeleton / fused.rest > 1.3


def test_nothing_to_average() -> None:
    assert kernel_means(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(2, 2))) == ()
    assert kernel_means(conv([[0.0] * 3] * 3)) == ()
