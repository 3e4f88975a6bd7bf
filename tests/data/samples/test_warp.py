# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from denseg.data.samples.steps import Crop, Flip, Grid, Scale
from denseg.data.samples.warp import Warp, sample_image, sample_labels
from denseg.errors import ShapeError


@dataclass(frozen=True)
class Turn:
    """A rotation about a point, which mixes rows and columns."""

    degrees: float
    middle: tuple[float, float]

    def __call__(self, grid: Grid) -> Grid:
        cos, sin = np.cos(np.radians(self.degrees)), np.sin(np.radians(self.degrees))
        down, right = grid.rows - self.middle[0], grid.columns - self.middle[1]
        return Grid(self.middle[0] + cos * down - sin * right, self.middle[1] + sin * down + cos * right)


def picture(height: int, width: int, bands: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)


def reference_image(image: np.ndarray, grid: Grid) -> np.ndarray:
    """SciPy's own bilinear interpolation; its coordinates are those of pixel centres."""
    rows, columns = np.broadcast_arrays(grid.rows - 0.5, grid.columns - 0.5)
    rows, columns = np.clip(rows, 0, image.shape[0] - 1), np.clip(columns, 0, image.shape[1] - 1)
    bands = [
        ndimage.map_coordinates(image[..., band].astype(np.float64), [rows, columns], order=1, mode="nearest")
        for band in range(image.shape[2])
    ]
    return np.stack(bands, axis=2)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_empty_warp_gives_the_picture_itself(dtype: type) -> None:
    image = picture(7, 9).astype(dtype) / np.asarray(3, dtype)
    grid = Warp((7, 9)).grid()
    np.testing.assert_array_equal(sample_image(image, grid), image)
    np.testing.assert_array_equal(sample_labels(picture(7, 9)[..., 0], grid, fill=255), picture(7, 9)[..., 0])
    assert grid.outside(7, 9) is None


def test_crops_and_flips_copy_pixels() -> None:
    image, labels = picture(40, 30), picture(40, 30, 1, seed=1)[..., 0]
    for vertical in (False, True):
        for horizontal in (False, True):
            grid = Warp((11, 13), (Crop(5, 7), Flip((40, 30), horizontal=horizontal, vertical=vertical))).grid()
            turned = (slice(None, None, -1 if vertical else 1), slice(None, None, -1 if horizontal else 1))
            np.testing.assert_array_equal(sample_image(image, grid), image[turned][5:16, 7:20])
            np.testing.assert_array_equal(sample_labels(labels, grid, fill=255), labels[turned][5:16, 7:20])


def test_twice_flipped_is_the_picture() -> None:
    flip = Flip((6, 5), horizontal=True, vertical=True)
    image = picture(6, 5)
    np.testing.assert_array_equal(sample_image(image, Warp((6, 5), (flip, flip)).grid()), image)


def test_a_window_beyond_the_picture_is_outside_and_ignored() -> None:
    image, labels = picture(4, 5), np.zeros((4, 5), np.uint8)
    grid = Warp((8, 9), (Crop(-2, -3),)).grid()
    outside = grid.outside(4, 5)
    assert outside is not None
    expected = np.ones((8, 9), bool)
    expected[2:6, 3:8] = False
    np.testing.assert_array_equal(outside, expected)
    np.testing.assert_array_equal(sample_labels(labels, grid, fill=255), np.where(expected, 255, 0))
    np.testing.assert_array_equal(sample_image(image, grid)[2:6, 3:8], image)


@given(
    source=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    target=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    seed=st.integers(0, 99),
)
def test_scaling_is_resize_without_align_corners(source: tuple[int, int], target: tuple[int, int], seed: int) -> None:
    image = picture(*source, seed=seed)
    grid = Warp(target, (Scale(source, target),)).grid()
    planes = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
    expected = F.interpolate(planes, size=target, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    np.testing.assert_allclose(sample_image(image, grid), expected.numpy(), atol=2e-3)
    nearest = F.interpolate(planes[:, :1], size=target, mode="nearest-exact")[0, 0].numpy().astype(np.uint8)
    # between two pixels either is nearest
    ties = np.isclose(grid.rows, np.rint(grid.rows)) | np.isclose(grid.columns, np.rint(grid.columns))
    labels = sample_labels(image[..., 0], grid, fill=255)
    np.testing.assert_array_equal(labels[~ties], nearest[~ties])
    assert grid.outside(*source) is None


@pytest.mark.parametrize("turn", [None, Turn(30.0, (20.0, 12.0)), Turn(-101.5, (3.0, 30.0))])
def test_any_grid_agrees_with_scipy(turn: Turn | None) -> None:
    image = picture(37, 29)
    steps = (Crop(-4, 6), Flip((50, 41)), Scale((37, 29), (50, 41)))
    grid = Warp((33, 40), steps if turn is None else (*steps, turn)).grid()
    assert grid.separable is (turn is None)
    np.testing.assert_allclose(sample_image(image, grid), reference_image(image, grid), atol=5e-3)
    labels = image[..., 0]
    rows, columns = np.broadcast_arrays(np.floor(grid.rows).astype(int), np.floor(grid.columns).astype(int))
    inside = (rows >= 0) & (rows < 37) & (columns >= 0) & (columns < 29)
    expected = np.where(inside, labels[np.clip(rows, 0, 36), np.clip(columns, 0, 28)], 254)
    np.testing.assert_array_equal(sample_labels(labels, grid, fill=254), expected)
    outside = grid.outside(37, 29)
    assert outside is not None
    np.testing.assert_array_equal(outside, ~inside)


def test_a_separable_grid_and_its_full_form_give_the_same() -> None:
    image = picture(20, 24)
    grid = Warp((15, 17), (Crop(3, 2), Scale((20, 24), (27, 22)))).grid()
    full = Grid(*(np.ascontiguousarray(part) for part in np.broadcast_arrays(*grid)))
    np.testing.assert_array_equal(sample_image(image, grid), sample_image(image, full))
    np.testing.assert_array_equal(
        sample_labels(image[..., 0], grid, fill=255), sample_labels(image[..., 0], full, fill=255)
    )


def test_image_and_mask_share_the_grid() -> None:
    """A picture painted with its own labels is labelled like its mask wherever it is not a mixture."""
    labels = np.kron(np.random.default_rng(0).integers(0, 3, (8, 8)), np.ones((6, 6))).astype(np.uint8)
    steps = (Crop(5, -3), Flip((61, 70)), Scale((48, 48), (61, 70)), Turn(12.0, (24.0, 24.0)))
    grid = Warp((50, 50), steps).grid()
    painted, warped = sample_image(labels[:, :, None] * 50, grid)[..., 0], sample_labels(labels, grid, fill=255)
    pure = np.isclose(painted / 50, np.rint(painted / 50), atol=1e-5) & (warped != 255)
    assert pure.mean() > 0.3
    # A mixture of 0 and 2 can look like 1: half a pixel around every border is left out.
    near = ndimage.maximum_filter(warped, 3) != ndimage.minimum_filter(warped, 3)
    assert (pure & ~near).sum() > 200
    np.testing.assert_array_equal(np.rint(painted / 50)[pure & ~near], warped[pure & ~near])


def test_only_the_part_that_is_needed_is_read() -> None:
    """Positions in a corner of a huge picture cost nothing: the picture here is a view of one pixel."""
    huge = np.broadcast_to(np.uint8(7), (2_000_000, 2_000_000, 3))
    grid = Warp((4, 4), (Crop(1_500_000, 900_000), Scale((2_000_000, 2_000_000), (2_100_000, 1_900_000)))).grid()
    np.testing.assert_allclose(sample_image(huge, grid), 7.0, atol=1e-5)


def test_a_plane_is_sampled_like_a_band() -> None:
    image = picture(12, 10, 1)
    for steps in ((Crop(1, 2),), (Scale((12, 10), (14, 9)),)):
        grid = Warp((6, 5), steps).grid()
        np.testing.assert_array_equal(sample_image(image[..., 0], grid), sample_image(image, grid)[..., 0])


def test_sources_are_not_changed_and_labels_are_a_copy() -> None:
    labels = np.zeros((5, 5), np.uint8)
    sampled = sample_labels(labels, Warp((5, 5)).grid(), fill=255)
    sampled[:] = 9
    assert not labels.any()
    sample_labels(labels, Warp((9, 9), (Crop(-2, -2),)).grid(), fill=255)
    assert not labels.any()


def test_wrong_labels_are_refused() -> None:
    grid = Warp((2, 2)).grid()
    with pytest.raises(ShapeError, match=r"^labels must be \(H, W\), got \(2, 2, 3\)$"):
        sample_labels(np.zeros((2, 2, 3), np.uint8), grid, fill=255)
    message = r"^labels of uint8 cannot hold the fill value 65535; give a wider integer type$"
    with pytest.raises(ShapeError, match=message):
        sample_labels(np.zeros((2, 2), np.uint8), grid, fill=65535)
