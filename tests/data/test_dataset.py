# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from denseg.data.augment import Augmentation, sample_generator
from denseg.data.dataset import SegmentationDataset, collate
from denseg.data.encoding import MaskEncoding
from denseg.data.folder import discover
from denseg.data.images import read_image
from denseg.data.normalization import Normalization
from denseg.data.warp import sample_image
from denseg.errors import DataError, UsageError

ENCODING = MaskEncoding.identity(3)
Make = Callable[..., SegmentationDataset]


@pytest.fixture(scope="module")
def make(tiny_data: Path) -> Make:
    def build(**options: Any) -> SegmentationDataset:
        known = {"encoding": ENCODING, "normalization": Normalization.imagenet(), "ignore_index": 255}
        return SegmentationDataset(discover(tiny_data).of("train"), **(known | options))

    return build


def column_map(labels: NDArray[Any]) -> NDArray[np.float32]:
    return np.broadcast_to(np.arange(labels.shape[1], dtype=np.float32), labels.shape)


def test_evaluation_samples_are_whole_pictures(make: Make) -> None:
    dataset = make()
    assert len(dataset) == 4
    for index, pair in enumerate(dataset.pairs):
        sample = dataset[index]
        expected = Normalization.imagenet().apply(read_image(pair.image))
        np.testing.assert_array_equal(sample["images"].numpy(), expected)
        np.testing.assert_array_equal(sample["target"].numpy(), np.asarray(Image.open(pair.mask)))
        assert sample["images"].dtype == torch.float32
        assert sample["target"].dtype == torch.int64
        assert sample["index"] == index


def test_an_augmentation_that_does_nothing_gives_the_whole_picture(make: Make) -> None:
    plain, still = make()[(5, 2)], make(augmentation=Augmentation(scale=(1, 1), flip=0))[(5, 2)]
    torch.testing.assert_close(still["images"], plain["images"], rtol=0, atol=0)
    torch.testing.assert_close(still["target"], plain["target"], rtol=0, atol=0)


def test_a_sample_is_what_its_warp_says(make: Make) -> None:
    augmentation = Augmentation()
    dataset = make(augmentation=augmentation, crop=(40, 50), seed=7)
    image, _ = dataset.read(3)
    grid = augmentation.draw(sample_generator(7, 2, 3), (48, 64), (40, 50)).grid()
    expected = dataset.normalization.apply(sample_image(image, grid), outside=grid.outside(48, 64))
    np.testing.assert_array_equal(dataset[(2, 3)]["images"].numpy(), expected)


def test_a_sample_depends_on_seed_epoch_and_index_only(make: Make) -> None:
    options = {"augmentation": Augmentation(), "crop": (32, 32)}
    dataset = make(seed=1, **options)
    first = dataset[(3, 1)]
    np.random.default_rng().random(3)
    torch.rand(3)
    dataset[(0, 0)]
    for again in (dataset[(3, 1)], make(seed=1, **options)[(3, 1)]):
        torch.testing.assert_close(again["images"], first["images"], rtol=0, atol=0)
        torch.testing.assert_close(again["target"], first["target"], rtol=0, atol=0)
    for other in (dataset[(4, 1)], make(seed=2, **options)[(3, 1)]):
        assert not torch.equal(other["images"], first["images"])


def test_outside_is_the_mean_pixel_ignored_and_without_weight(make: Make) -> None:
    dataset = make(
        augmentation=Augmentation(scale=(0.5, 0.5), flip=0),
        crop=(60, 60),
        maps={"weight": lambda labels: labels * 0 + 1.0},
    )
    sample = dataset[(0, 0)]
    outside = sample["target"] == 255
    assert int((~outside).sum()) == 24 * 32
    assert not sample["images"][:, outside].any()
    assert not sample["weight"][outside].any()
    assert bool((sample["weight"][~outside] == 1).all())


def test_maps_are_warped_with_the_mask(make: Make) -> None:
    dataset = make(augmentation=Augmentation(flip=0.5), crop=(30, 30), maps={"column": column_map})
    pictured = make(augmentation=Augmentation(flip=0.5), crop=(30, 30))
    for index in range(4):
        sample = dataset[(1, index)]
        assert sample["column"].shape == (30, 30)
        assert sample["column"].dtype == torch.float32
        grid = dataset.augmentation.draw(sample_generator(0, 1, index), (48, 64), (30, 30)).grid()  # type: ignore[union-attr]
        inside = sample["target"] != 255
        expected = np.broadcast_to(np.clip(grid.columns - 0.5, 0, 63), (30, 30))
        np.testing.assert_allclose(sample["column"][inside], expected[inside.numpy()], atol=1e-3)
        torch.testing.assert_close(sample["target"], pictured[(1, index)]["target"])
    assert make(maps={"column": column_map})[0]["column"].shape == (48, 64)


def test_grey_pictures_join_a_colour_data_set(make: Make, make_pairs: Callable[..., Path], tmp_path: Path) -> None:
    root = make_pairs(tmp_path, {"": 1})
    path = root / "images" / "image_000.png"
    Image.open(path).convert("L").save(path)
    dataset = SegmentationDataset(
        discover(root).pairs, encoding=ENCODING, normalization=Normalization.imagenet(), ignore_index=255
    )
    assert dataset[0]["images"].shape == (3, 48, 64)


@pytest.mark.parametrize("augmentation", [None, Augmentation(flip=0)])
def test_holes_are_ignored_and_stay_where_they_are(tmp_path: Path, augmentation: Augmentation | None) -> None:
    """A pixel without data is the mean pixel and ignored; interpolation does not carry the hole to its neighbours."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    values = np.full((20, 24), 100.0, np.float32)
    values[5:9, 6:9] = np.nan
    tifffile.imwrite(tmp_path / "images" / "a.tif", values)
    Image.fromarray(np.ones((20, 24), np.uint8)).save(tmp_path / "masks" / "a.png")
    dataset = SegmentationDataset(
        discover(tmp_path).pairs,
        encoding=ENCODING,
        normalization=Normalization((60.0,), (20.0,), 1.0),
        ignore_index=255,
        augmentation=augmentation,
    )
    for index in range(4):
        sample = dataset[(index, 0)]
        images, target = sample["images"][0], sample["target"]
        assert bool(torch.isfinite(images).all())
        assert images[target == 255].min().item() == pytest.approx(0, abs=1e-5)
        far = torch.nn.functional.max_pool2d((target == 255)[None].float(), 5, 1, 2)[0] == 0
        torch.testing.assert_close(images[far], torch.full_like(images[far], 2.0))
        if augmentation is None:
            assert int((target == 255).sum()) == 12


def test_faults_name_the_file(make: Make, make_pairs: Callable[..., Path], tmp_path: Path) -> None:
    root = make_pairs(tmp_path, {"": 3})
    masks = sorted((root / "masks").iterdir())
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(masks[0])
    Image.fromarray(np.full((48, 64), 9, np.uint8)).save(masks[1])
    dataset = SegmentationDataset(
        discover(root).pairs, encoding=ENCODING, normalization=Normalization.imagenet(), ignore_index=255
    )
    for index in range(2):
        with pytest.raises(DataError, match=re.escape(str(masks[index]))) as caught:
            dataset[index]
        assert caught.value.path == masks[index]
    small = SegmentationDataset(
        discover(root).pairs,
        encoding=ENCODING,
        normalization=Normalization.imagenet(),
        ignore_index=255,
        max_pixels=100,
    )
    with pytest.raises(DataError, match=r"image_002\.png"):
        small[2]


def test_a_wrong_call_is_refused(make: Make) -> None:
    message = "a crop needs an augmentation to place it; give Augmentation(scale=(1, 1), flip=0)"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make(crop=(8, 8))
    with pytest.raises(UsageError, match=r"^a map must not be named 'target'; samples hold that already$"):
        make(maps={"target": column_map})
    with pytest.raises(UsageError, match=r"^the masks' encoding gives 255 to ignored pixels, got 11$"):
        make(ignore_index=11)


def test_collate_stacks_samples_of_one_size(make: Make) -> None:
    dataset = make(maps={"column": column_map})
    batch = collate([dataset[2], dataset[0]])
    assert batch["images"].shape == (2, 3, 48, 64)
    assert batch["target"].shape == batch["column"].shape == (2, 48, 64)
    assert batch["index"].tolist() == [2, 0]
    torch.testing.assert_close(batch["images"][1], dataset[0]["images"])
    cropped = make(augmentation=Augmentation(flip=0), crop=(8, 9), maps={"column": column_map})
    message = "samples of one batch must have one size, got 8x9, 48x64; set train.crop, or use batches of 1"
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        collate([dataset[0], cropped[0]])
