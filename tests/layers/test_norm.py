# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from denseg.layers import BatchNorm2d, is_single_value, train_on_single_values
from denseg.layers.norm import set_norm_momentum


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


def test_a_slow_average_begins_with_the_plain_mean():
    """DeepLab's momentum of 0.0003: after a few batches the statistics are theirs, not those of the start."""
    torch.manual_seed(0)
    norm = nn.Sequential(BatchNorm2d(3))
    set_norm_momentum(norm, 3e-4)
    batches = [5 + 2 * torch.randn(4, 3, 8, 8) for _ in range(6)]
    for batch in batches:
        assert torch.allclose(norm(batch).mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    means = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches])
    variances = torch.stack([batch.var(dim=(0, 2, 3)) for batch in batches])
    torch.testing.assert_close(norm[0].running_mean, means.mean(dim=0))
    torch.testing.assert_close(norm[0].running_var, variances.mean(dim=0))
    assert int(norm[0].num_batches_tracked) == 6


def test_a_trained_network_forgets_nothing_at_once():
    norm = nn.Sequential(BatchNorm2d(3))
    set_norm_momentum(norm, 3e-4, settled=True)
    norm(5 + torch.randn(4, 3, 8, 8))
    torch.testing.assert_close(norm[0].running_mean, torch.full((3,), 5 * 3e-4), rtol=0.05, atol=0)
