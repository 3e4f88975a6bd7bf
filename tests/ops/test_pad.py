# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from denseg.errors import ShapeError
from denseg.ops import center_crop, pad_at_least, pad_to_multiple, reflect_pad

amount = st.integers(0, 17)


@given(st.integers(1, 7), st.integers(1, 7), amount, amount, amount, amount)
def test_reflect_pad_mirrors_by_any_amount(height, width, left, right, top, bottom):
    x = torch.arange(height * width).reshape(1, height, width)
    padded = reflect_pad(x, (left, right, top, bottom))
    assert np.array_equal(padded[0].numpy(), np.pad(x[0].numpy(), ((top, bottom), (left, right)), mode="reflect"))


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 4, 16]))
def test_pad_to_multiple_adds_zeros_at_bottom_and_right(height, width, multiple):
    x = torch.ones(1, 1, height, width)
    padded = pad_to_multiple(x, multiple)
    assert padded.shape[-2] % multiple == padded.shape[-1] % multiple == 0
    assert padded.shape[-2] - height < multiple
    assert padded.shape[-1] - width < multiple
    assert torch.equal(padded[..., :height, :width], x)
    assert padded.sum() == x.sum()


def test_pad_at_least():
    x = torch.ones(1, 2, 3, 9)
    padded = pad_at_least(x, 5)
    assert padded.shape == (1, 2, 5, 9)
    assert torch.equal(padded[..., :3, :], x)
    assert padded[..., 3:, :].sum() == 0
    assert pad_at_least(x, 3) is x


def test_center_crop_cuts_more_at_the_end():
    x = torch.arange(20).reshape(1, 4, 5)
    assert torch.equal(center_crop(x, (2, 2)), x[:, 1:3, 1:3])
    assert torch.equal(center_crop(x, (4, 5)), x)


def test_errors():
    with pytest.raises(ShapeError) as crop:
        center_crop(torch.zeros(1, 4, 5), (5, 5))
    assert str(crop.value) == "cannot cut 5x5 out of 4x5: the map is smaller"
    with pytest.raises(ShapeError) as pad:
        reflect_pad(torch.zeros(1, 4, 5), (0, -1, 0, 0))
    assert str(pad.value) == ("reflect_pad takes a map of at least 1x1 and padding >= 0, got 4x5 and (0, -1, 0, 0)")
