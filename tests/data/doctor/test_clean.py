# SPDX-License-Identifier: Apache-2.0
"""A clean copy passes the doctor, reads to the same pixels and labels, and touches nothing of the original."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from denseg.data.doctor.clean import write_clean_copy
from denseg.data.doctor.doctor import examine
from denseg.data.reading.images import read_image
from denseg.data.samples.pairs import read_pair
from denseg.errors import DataError, UsageError

RNG = np.random.default_rng(0)


def picture(number: int, size: tuple[int, int] = (32, 44)) -> Image.Image:
    coarse = np.random.default_rng(number).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)


def mask(number: int, size: tuple[int, int] = (32, 44)) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 2, (4, 4), dtype=np.uint8)
    coarse.flat[:2] = (0, 1)
    return np.asarray(Image.fromarray(coarse * 255).resize(size[::-1], Image.Resampling.NEAREST))


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Every kind of picture, masks of 0 and 255, a broken file, a picture without a mask, a copy across splits."""
    root = tmp_path / "messy"
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            (root / kind / split).mkdir(parents=True)
    exif = Image.Exif()
    exif[274] = 6
    images = root / "images" / "train"
    picture(0).save(images / "plain.jpg")
    picture(1, (44, 32)).save(images / "turned.jpg", exif=exif)
    picture(2).convert("P").save(images / "palette.png")
    rgba = picture(3).convert("RGBA")
    rgba.putalpha(Image.fromarray(mask(9)))
    rgba.save(images / "clear.png")
    picture(4).convert("CMYK").save(images / "cmyk.tif")
    picture(5).convert("L").save(images / "grey.png")
    (images / "broken.png").write_bytes(b"no picture")
    picture(6).save(images / "alone.png")
    picture(7).save(images / "copy.png")
    picture(7).save(root / "images" / "val" / "judge.png")
    for number, name in enumerate(("plain", "turned", "palette", "clear", "cmyk", "grey", "broken", "copy")):
        Image.fromarray(mask(number)).save(root / "masks" / "train" / f"{name}.png")
    Image.fromarray(mask(20)).save(root / "masks" / "val" / "judge.png")
    return root


def snapshot(root: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


def test_a_messy_folder_becomes_clean(messy: Path, tmp_path: Path) -> None:
    before = snapshot(messy)
    examination = examine(messy)
    assert not examination.ok
    seen: list[tuple[int, int]] = []
    copy = write_clean_copy(examination, tmp_path / "clean", progress=lambda done, total: seen.append((done, total)))
    assert snapshot(messy) == before
    assert (copy.written, copy.rewritten) == (7, 5)
    assert sorted(path.name for path in copy.left_out) == ["alone.png", "broken.png", "copy.png"]
    assert seen == [(done, 7) for done in range(1, 8)]

    clean = examine(copy.folder)
    assert clean.ok
    assert {finding.code for finding in clean.findings} <= {"mask-encoding"}
    assert clean.classes == examination.classes
    assert clean.encoding.kind == "index"
    assert [(pair.stem, pair.split) for pair in clean.pairs] == [
        (pair.stem, pair.split) for pair in examination.pairs if pair.stem != "copy"
    ]
    old = {pair.stem: pair for pair in examination.pairs}
    for pair in clean.pairs:
        image, labels = read_pair(pair, clean.encoding)
        old_image, old_labels = read_pair(old[pair.stem], examination.encoding, bands=3)
        np.testing.assert_array_equal(image, old_image)
        np.testing.assert_array_equal(labels, old_labels)
    assert (copy.folder / "images" / "train" / "plain.jpg").read_bytes() == (
        messy / "images" / "train" / "plain.jpg"
    ).read_bytes()


def test_masks_of_a_clean_copy_show_the_class_colours(messy: Path, tmp_path: Path) -> None:
    examination = examine(messy)
    copy = write_clean_copy(examination, tmp_path / "clean")
    with Image.open(copy.folder / "masks" / "train" / "plain.png") as image:
        shown = np.asarray(image.convert("RGB"))
    colors = np.asarray(examination.classes.colors, np.uint8)
    np.testing.assert_array_equal(shown, colors[mask(0) // 255])


def test_deep_pictures_and_pages_keep_their_values(tmp_path: Path) -> None:
    root = tmp_path / "data"
    volume = RNG.integers(0, 60000, (4, 20, 24)).astype(np.uint16)
    root.mkdir()
    tifffile.imwrite(root / "train-volume.tif", volume, photometric="minisblack")
    truth = np.stack([mask(number, (20, 24)) for number in range(4)])
    tifffile.imwrite(root / "train-labels.tif", truth, photometric="minisblack")
    copy = write_clean_copy(examine(root), tmp_path / "clean")
    assert copy.written == copy.rewritten == 4
    for page in range(4):
        np.testing.assert_array_equal(
            read_image(copy.folder / "images" / f"slice_{page:02d}.tif")[:, :, 0], volume[page]
        )
    clean = examine(copy.folder)
    assert clean.ok
    assert clean.classes.names == ("membrane", "cell")


def test_bands_keep_their_values(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    values = RNG.random((5, 20, 24, 6)).astype(np.float32)
    for number in range(5):
        bands = values[number]
        tifffile.imwrite(
            root / "images" / f"n{number}.tif",
            np.moveaxis(bands, 2, 0),
            photometric="minisblack",
            planarconfig="separate",
        )
        Image.fromarray(mask(number, (20, 24))).save(root / "masks" / f"n{number}.png")
    copy = write_clean_copy(examine(root), tmp_path / "clean")
    for number in range(5):
        np.testing.assert_array_equal(read_image(copy.folder / "images" / f"n{number}.tif"), values[number])


def test_refusals(messy: Path, tmp_path: Path) -> None:
    examination = examine(messy)
    with pytest.raises(UsageError) as error:
        write_clean_copy(examination, messy / "clean")
    assert str(error.value) == f"{messy}/clean lies in the data folder {messy}; a clean copy is never written in place"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(UsageError) as error:
        write_clean_copy(examination, tmp_path / "full")
    assert str(error.value) == (
        f"{tmp_path}/full is not an empty folder; a clean copy overwrites nothing, choose another folder"
    )
    (messy / "dataset.yaml").write_text("classes: [a, b]\nignore_index: 255")
    with pytest.raises(DataError) as data_error:
        write_clean_copy(examine(messy), tmp_path / "clean")
    assert str(data_error.value) == (
        f"{messy}: cannot be copied before its masks are understood: masks hold 0 and 255, and ignore_index is 255:"
        " only 0 would be left to learn"
    )
    assert not (tmp_path / "clean").exists()


def test_nothing_to_copy(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        (tmp_path / "data" / kind / "a.png").write_bytes(b"x")
    with pytest.raises(DataError) as error:
        write_clean_copy(examine(tmp_path / "data"), tmp_path / "clean")
    assert str(error.value) == f"{tmp_path}/data: no pair can be used, so there is nothing to copy"
