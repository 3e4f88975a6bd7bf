# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from denseg.config import AugmentConfig, ElasticConfig
from denseg.data.encoding import MaskEncoding
from denseg.data.folders.folder import discover
from denseg.data.reading.images import read_image
from denseg.data.samples.augment import Augmentation, sample_generator
from denseg.data.samples.dataset import SegmentationDataset, collate
from denseg.data.samples.normalization import Normalization
from denseg.data.samples.warp import sample_image
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


def test_everything_at_once_depends_on_seed_epoch_and_index_only(make: Make) -> None:
    further = AugmentConfig(
        rotation=45, shear=10, perspective=0.1, elastic=ElasticConfig(sigma=4), rare_crop=0.5, copy_paste=1.0, gain=0.3,
        gamma=0.3, hue=20, noise=0.1, blur=1.0, interpolation="bicubic", border="mirror",
    )  # fmt: skip
    options = {"augmentation": Augmentation(further=further), "crop": (40, 32), "rare": (1, 2), "seed": 4}
    first, again = make(**options)[(2, 1)], make(**options)[(2, 1)]
    assert first["images"].shape == (3, 40, 32)
    assert bool(torch.isfinite(first["images"]).all())
    assert set(first["target"].unique().tolist()) <= {0, 1, 2}  # mirrored: nothing is outside
    for name in ("images", "target"):
        torch.testing.assert_close(again[name], first[name], rtol=0, atol=0)
        assert not torch.equal(make(**options)[(3, 1)][name], first[name])


def test_light_is_drawn_after_the_geometry(make: Make) -> None:
    """Changes of values leave the geometry as it was, and of one number in each sample."""
    plain = make(augmentation=Augmentation(), crop=(40, 40))
    lit = make(augmentation=Augmentation(further=AugmentConfig(brightness=0.2)), crop=(40, 40))
    std = torch.tensor(Normalization.imagenet().std)
    for index in range(4):
        one, other = plain[(0, index)], lit[(0, index)]
        torch.testing.assert_close(one["target"], other["target"])
        inside = one["target"] != 255
        added = (other["images"] - one["images"])[:, inside] * std[:, None]
        assert 0 < added.abs().max() <= 0.2 + 1e-5
        torch.testing.assert_close(added, added[0, 0].expand_as(added), rtol=0, atol=1e-5)


def write(root: Path, masks: dict[str, NDArray[np.uint8]], shade: dict[str, int]) -> tuple[Any, ...]:
    """Write pictures of one shade each, with masks."""
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for name, labels in masks.items():
        Image.fromarray(np.full((*labels.shape, 3), shade.get(name, 0), np.uint8)).save(root / f"images/{name}.png")
        Image.fromarray(labels).save(root / f"masks/{name}.png")
    return discover(root).pairs


def test_rare_crops_hold_every_class_equally_often(tmp_path: Path) -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[5:7, 50:52] = 1
    labels[40:42, 8:9] = 2
    pairs = write(tmp_path, {"a": labels}, {})
    options: dict[str, Any] = {"encoding": ENCODING, "normalization": Normalization.imagenet(), "ignore_index": 255}
    options |= {"crop": (16, 16)}
    still = Augmentation(scale=(1, 1), flip=0.5)
    seldom = SegmentationDataset(pairs, augmentation=still, **options)
    often = SegmentationDataset(
        pairs, augmentation=replace(still, further=AugmentConfig(rare_crop=1.0, quarter_turns=0.5)), **options
    )

    def share(dataset: SegmentationDataset, label: int) -> float:
        return float(np.mean([bool((dataset[(epoch, 0)]["target"] == label).any()) for epoch in range(200)]))

    for label in (1, 2):
        assert share(seldom, label) < 0.12
        assert share(often, label) == pytest.approx(1 / 3, abs=0.1)


def test_rare_classes_are_pasted_with_their_pixels(tmp_path: Path) -> None:
    donor = np.zeros((32, 32), np.uint8)
    donor[10:20, 12:22] = 2
    pairs = write(tmp_path, {"a": np.ones((32, 32), np.uint8), "b": donor}, {"a": 10, "b": 200})

    def make(share: float) -> SegmentationDataset:
        return SegmentationDataset(
            pairs,
            encoding=ENCODING,
            normalization=Normalization((0.0,) * 3, (1.0,) * 3),
            ignore_index=255,
            augmentation=Augmentation(scale=(1, 1), further=AugmentConfig(copy_paste=share)),
            crop=(32, 32),
            rare=(2,),
            maps={"value": lambda labels: labels.astype(np.float32)},
        )

    taken = 0
    for epoch in range(30):
        sample = make(0.8)[(epoch, 0)]
        pasted = sample["target"] == 2
        taken += bool(pasted.any())
        torch.testing.assert_close(sample["images"][0] * 255, torch.where(pasted, 200.0, 10.0))
        torch.testing.assert_close(sample["value"], sample["target"].float())
        assert not bool((make(0.0)[(epoch, 0)]["target"] == 2).any())
    assert 10 < taken < 28  # 0.8 times the probability that one of three donors is the one with the class


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
