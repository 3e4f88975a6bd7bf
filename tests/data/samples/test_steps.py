# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.interpolate import CubicSpline
from torchvision.transforms.functional import _get_perspective_coeffs

from denseg.config import AugmentConfig, ElasticConfig
from denseg.data.samples.augment import Augmentation, sample_generator
from denseg.data.samples.steps import Crop, Elastic, Flip, Grid, Mirror, Perspective, Scale, Shear, Turn
from denseg.data.samples.warp import Warp, sample_image, sample_labels
from denseg.errors import ShapeError

EVERYTHING = AugmentConfig(
    rotation=40,
    quarter_turns=0.5,
    shear=15,
    perspective=0.1,
    elastic=ElasticConfig(sigma=4, grid=4, probability=0.7),
)


def picture(height: int, width: int, bands: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 9), (9, 6), (1, 7), (7, 1), (5, 5)])
def test_quarter_turns_copy_pixels(quarters: int, size: tuple[int, int]) -> None:
    image, labels = picture(*size), picture(*size, 1, seed=1)[..., 0]
    turned = size[::-1] if quarters % 2 else size
    grid = Warp(turned, (Turn(90 * quarters, (size[0] / 2, size[1] / 2), (turned[0] / 2, turned[1] / 2)),)).grid()
    np.testing.assert_array_equal(sample_image(image, grid), np.rot90(image, quarters))
    np.testing.assert_array_equal(sample_image(labels, grid), np.rot90(labels, quarters))
    np.testing.assert_array_equal(sample_labels(labels, grid, fill=255), np.rot90(labels, quarters))
    assert sample_image(image, grid).dtype == np.uint8
    assert grid.outside(*size) is None


def test_four_quarter_turns_and_two_flips_are_the_picture() -> None:
    image = picture(8, 5)
    turns = (Turn(90, (2.5, 4.0), (4.0, 2.5)), Turn(90, (4.0, 2.5), (2.5, 4.0))) * 2
    grid = Warp((8, 5), (Flip((8, 5)), *turns, Flip((8, 5)))).grid()
    np.testing.assert_array_equal(sample_image(image, grid), image)


@pytest.mark.parametrize("degrees", [17.0, -33.0, 160.0])
def test_turning_is_scipys(degrees: float) -> None:
    """SciPy turns from the first axis to the second, about the middle of the array."""
    image = picture(31, 40, 1)[..., 0].astype(np.float64)
    grid = Warp((31, 40), (Turn(degrees, (15.5, 20.0)),)).grid()
    expected = ndimage.rotate(image, degrees, reshape=False, order=1, mode="nearest")
    outside = grid.outside(31, 40)
    assert outside is not None
    inner = ~ndimage.binary_dilation(outside, iterations=2)
    np.testing.assert_allclose(sample_image(image, grid)[inner], expected[inner], atol=5e-3)
    nearest = ndimage.rotate(image, degrees, reshape=False, order=0, mode="nearest")
    labels = sample_labels(image.astype(np.uint8), grid, fill=255)
    assert (labels[inner] == nearest[inner]).mean() > 0.999


def test_shearing_is_an_affine_transform() -> None:
    image = picture(30, 36, 1)[..., 0].astype(np.float64)
    for across, down in ((20.0, 0.0), (0.0, -15.0)):
        grid = Warp((30, 36), (Shear(across, down, (15.0, 18.0)),)).grid()
        matrix = np.array([[1, np.tan(np.radians(down))], [np.tan(np.radians(across)), 1]])
        middle = np.array([14.5, 17.5])  # in SciPy's coordinates, of pixel centres
        expected = ndimage.affine_transform(image, matrix, middle - matrix @ middle, order=1, mode="nearest")
        np.testing.assert_allclose(sample_image(image, grid), expected, atol=5e-3)


def test_perspective_moves_the_corners_and_keeps_lines_straight() -> None:
    shifts = ((2.0, -3.0), (-4.0, 1.0), (3.0, 5.0), (-6.0, -2.0))
    step = Perspective((40, 60), shifts)
    corners = [(0, 0), (0, 60), (40, 0), (40, 60)]
    for (row, column), (down, right) in zip(corners, shifts, strict=True):
        moved = step(Grid(np.array([[float(row)]]), np.array([[float(column)]])))
        np.testing.assert_allclose((moved.rows.item(), moved.columns.item()), (row + down, column + right))
    # torchvision's points are (x, y); its coefficients map positions of the output to those of the input.
    ends = [[column + right, row + down] for (row, column), (down, right) in zip(corners, shifts, strict=True)]
    a, b, c, d, e, f, g, h = _get_perspective_coeffs(ends, [[column, row] for row, column in corners])
    grid = Warp((40, 60), (step,)).grid()
    y, x = np.mgrid[0:40, 0:60] + 0.5
    np.testing.assert_allclose(grid.columns, (a * x + b * y + c) / (g * x + h * y + 1), atol=1e-3)
    np.testing.assert_allclose(grid.rows, (d * x + e * y + f) / (g * x + h * y + 1), atol=1e-3)


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_elastic_displacements_are_natural_cubic_splines(nodes: int) -> None:
    shifts = np.random.default_rng(nodes).normal(0, 10, (2, nodes, nodes))
    grid = Warp((50, 70), (Elastic((50, 70), shifts),)).grid()
    rows, columns = np.arange(50) + 0.5, np.arange(70) + 0.5
    for axis, positions in enumerate((grid.rows - rows[:, None], grid.columns - columns[None])):
        down = CubicSpline(np.linspace(0, 50, nodes), shifts[axis], axis=0, bc_type="natural")(rows)
        expected = CubicSpline(np.linspace(0, 70, nodes), down, axis=1, bc_type="natural")(columns)
        np.testing.assert_allclose(positions, expected, atol=1e-9)


def test_elastic_samples_are_scipys() -> None:
    """The whole of U-Net's deformation, written with SciPy alone: splines, linear for images, nearest for masks."""
    image, labels = picture(64, 48), (picture(64, 48, 1, seed=3)[..., 0] // 64).astype(np.uint8)
    shifts = np.random.default_rng(0).normal(0, 10, (2, 3, 3))
    grid = Warp((64, 48), (Elastic((64, 48), shifts),)).grid()
    lattice = np.stack(np.meshgrid(np.arange(64.0), np.arange(48.0), indexing="ij"))
    for axis in range(2):
        down = CubicSpline([-0.5, 31.5, 63.5], shifts[axis], bc_type="natural")(np.arange(64))
        lattice[axis] += CubicSpline([-0.5, 23.5, 47.5], down, axis=1, bc_type="natural")(np.arange(48))
    bands = [
        ndimage.map_coordinates(image[..., band].astype(float), lattice, order=1, mode="nearest") for band in (0, 1, 2)
    ]
    np.testing.assert_allclose(sample_image(image, grid), np.stack(bands, axis=2), atol=5e-3)
    inside = (lattice[0] >= -0.5) & (lattice[0] < 63.5) & (lattice[1] >= -0.5) & (lattice[1] < 47.5)
    nearest = ndimage.map_coordinates(labels, lattice, order=0, mode="nearest")
    np.testing.assert_array_equal(sample_labels(labels, grid, fill=255), np.where(inside, nearest, 255))


def test_elastic_bends_positions_of_any_grid_alike() -> None:
    step = Elastic((20, 30), np.random.default_rng(1).normal(0, 3, (2, 3, 4)))
    apart = Warp((20, 30)).grid()
    full = Grid(*(np.ascontiguousarray(part) for part in np.broadcast_arrays(*apart)))
    for ours, theirs in zip(step(apart), step(full), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    still = Elastic((20, 30), np.zeros((2, 3, 3)))(apart)
    np.testing.assert_array_equal(still.rows, np.broadcast_to(apart.rows, (20, 30)))


def test_displacements_of_another_shape_are_refused() -> None:
    message = "displacements must be (2, g, g) with at least 2 nodes along a side, got (2, 1, 3)"
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        Elastic((8, 8), np.zeros((2, 1, 3)))


def test_mirroring_is_symmetric_padding() -> None:
    image = picture(5, 4)
    labels = image[..., 0]
    grid = Warp((25, 24), (Crop(-11, -9), Mirror((5, 4)))).grid()
    padded = np.pad(image, ((11, 9), (9, 11), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(sample_image(image, grid), padded)
    np.testing.assert_array_equal(sample_labels(labels, grid, fill=255), padded[..., 0])
    assert grid.outside(5, 4) is None


@given(
    height=st.integers(20, 60),
    width=st.integers(20, 60),
    crop=st.tuples(st.integers(8, 50), st.integers(8, 50)),
    index=st.integers(0, 10_000),
    border=st.sampled_from(["ignore", "mirror"]),
)
def test_image_and_mask_agree_within_half_a_pixel(
    height: int, width: int, crop: tuple[int, int], index: int, border: str
) -> None:
    """A picture of its own coordinates, and a mask of its own rows, say where each output pixel came from."""
    augmentation = Augmentation(flip_vertical=0.5, further=EVERYTHING.model_copy(update={"border": border}))
    grid = augmentation.draw(sample_generator(0, 0, index), (height, width), crop).grid()
    place = np.stack(np.broadcast_arrays(np.arange(height)[:, None], np.arange(width)), axis=2)
    seen = sample_image(place.astype(np.float32), grid)
    # What lies beyond the outermost centres repeats them, for half a pixel at most.
    for axis in (0, 1):
        labels = sample_labels(place[..., axis].astype(np.uint16), grid, fill=65535)
        known = labels != 65535
        assert np.abs(seen[..., axis] - labels)[known].max(initial=0) <= 0.5 + 1e-3
        assert (~known).any() == (grid.outside(height, width) is not None)


def test_bicubic_is_cubic_convolution() -> None:
    image = picture(12, 11, 2)
    grid = Warp((20, 17), (Crop(-1, 2), Scale((12, 11), (19, 23)))).grid()

    def weights(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
        d = np.abs(distance)
        near = (a + 2) * d**3 - (a + 3) * d**2 + 1
        far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))

    def taps(positions: np.ndarray, size: int) -> np.ndarray:
        centres = positions - 0.5
        matrix = np.zeros((len(centres), size))
        for row, centre in enumerate(centres):
            for pixel in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
                matrix[row, min(max(pixel, 0), size - 1)] += weights(np.asarray(centre - pixel))
        return matrix

    rows, columns = taps(grid.rows[:, 0], 12), taps(grid.columns[0], 11)
    inside = ~(grid.outside(12, 11) if grid.outside(12, 11) is not None else np.zeros((20, 17), bool))
    expected = np.einsum("ri,ijc,kj->rkc", rows, image.astype(np.float64), columns)
    result = sample_image(image, grid, interpolation="bicubic")
    np.testing.assert_allclose(result[inside], expected[inside], atol=5e-3)
