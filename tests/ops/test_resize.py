# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from denseg.errors import ShapeError, UsageError
from denseg.ops import resize
from denseg.ops.resize import _resize_by_matrices


def bilinear(x, size):
    """Half-pixel bilinear interpolation, written out for one map."""
    out = np.empty(size)
    for row in range(size[0]):
        for column in range(size[1]):
            at = []
            for index, after, before in ((row, size[0], x.shape[0]), (column, size[1], x.shape[1])):
                place = max((index + 0.5) * before / after - 0.5, 0.0)
                low = min(int(place), before - 1)
                at.append((low, min(low + 1, before - 1), place - low))
            (r0, r1, fr), (c0, c1, fc) = at
            top = x[r0, c0] * (1 - fc) + x[r0, c1] * fc
            bottom = x[r1, c0] * (1 - fc) + x[r1, c1] * fc
            out[row, column] = top * (1 - fr) + bottom * fr
    return out


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (12, 20), (5, 33)])
def test_bilinear_places_pixel_centres(size):
    x = torch.randn(1, 1, 5, 6, dtype=torch.float64)
    assert np.allclose(resize(x, size)[0, 0].numpy(), bilinear(x[0, 0].numpy(), size))


def test_aligned_corners_keep_the_corners():
    x = torch.randn(1, 2, 4, 5)
    grown = resize(x, (13, 9), align_corners=True)
    torch.testing.assert_close(grown[..., [0, 0, -1, -1], [0, -1, 0, -1]], x[..., [0, 0, -1, -1], [0, -1, 0, -1]])


def test_nearest_repeats():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert torch.equal(resize(x, (4, 6), mode="nearest"), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_a_constant_stays():
    x = torch.full((1, 1, 3, 3), 2.5)
    for mode in ("bilinear", "bicubic", "nearest"):
        torch.testing.assert_close(resize(x, (7, 10), mode=mode), torch.full((1, 1, 7, 10), 2.5))


def test_the_same_size_is_the_same_tensor():
    x = torch.randn(2, 3, 4, 5)
    assert resize(x, (4, 5)) is x


def test_errors():
    with pytest.raises(ShapeError) as shape:
        resize(torch.zeros(3, 4, 5), (2, 2))
    assert str(shape.value) == "resize takes maps of shape (B, C, h, w), got (3, 4, 5); add the missing axes"
    with pytest.raises(UsageError) as mode:
        resize(torch.zeros(1, 3, 4, 5), (2, 2), mode="area")
    assert str(mode.value) == "resize knows the modes bilinear, bicubic, nearest, got 'area'"


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize(("here", "wanted"), [((2, 3), (7, 9)), ((6, 6), (3, 13)), ((1, 1), (4, 5)), ((3, 3), (1, 1))])
def test_by_matrices_as_it_is_exported(
    here: tuple[int, int], wanted: tuple[int, int], mode: str, align_corners: bool
) -> None:
    x = torch.randn(2, 3, *here, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = _resize_by_matrices(x, wanted, mode, align_corners)
    torch.testing.assert_close(ours, resize(x, wanted, mode=mode, align_corners=align_corners))
