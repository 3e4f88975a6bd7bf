# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from denseg.layers import BatchNorm2d, is_single_value, train_on_single_values


def test_equals_torch_where_torch_works():
    ours, theirs = BatchNorm2d(4), nn.BatchNorm2d(4)
    for _ in range(2):
        x = torch.randn(2, 4, 3, 5)
        assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(a, b) for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_a_single_value_uses_and_keeps_the_running_statistics():
    norm = BatchNorm2d(3)
    norm(torch.randn(4, 3, 5, 5) * 2 + 1)
    before = [buffer.clone() for buffer in norm.buffers()]
    x = torch.randn(1, 3, 1, 1, requires_grad=True)
    out = norm(x)
    torch.testing.assert_close(out, norm.eval()(x))
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))
    out.sum().backward()
    assert x.grad.abs().min() > 0


def test_a_network_learns_to_train_on_single_values():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.BatchNorm1d(4))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.randn(1, 3, 1, 1))
    train_on_single_values(network)
    assert network(torch.randn(1, 3, 1, 1)).shape == (1, 4)
    assert network.state_dict().keys() == state.keys()
    assert isinstance(network[1], nn.BatchNorm2d)  # what converts to SyncBatchNorm looks for


def test_is_single_value():
    assert is_single_value(torch.zeros(1, 8, 1, 1))
    assert is_single_value(torch.zeros(1, 8))
    assert not is_single_value(torch.zeros(2, 8, 1, 1))
    assert not is_single_value(torch.zeros(1, 8, 1, 2))
