# SPDX-License-Identifier: Apache-2.0
"""Forty folders with one fault each: found, counted, named, with what to do; and the sound ones pass."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from denseg.config import DataConfig
from denseg.data.doctor.doctor import Examination, examine
from denseg.data.doctor.findings import CODES
from denseg.errors import DataError

Make = Callable[[Path], object]


def picture(seed: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    """A scene of large blobs: seeds differ clearly."""
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def labels(seed: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 3, (5, 7), dtype=np.uint8)
    coarse.flat[:3] = (0, 1, 2)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST))


NAMES = ("anna", "bert", "carl", "dora", "emil", "frida")


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Six pairs in one flat folder."""
    root = tmp_path / "data"
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        Image.fromarray(picture(seed)).save(root / "images" / f"{name}.png")
        Image.fromarray(labels(seed)).save(root / "masks" / f"{name}.png")
    return root


def into_splits(root: Path, val: int = 2) -> None:
    for kind in ("images", "masks"):
        for number, name in enumerate(NAMES):
            folder = root / kind / ("val" if number < val else "train")
            folder.mkdir(exist_ok=True)
            shutil.move(root / kind / f"{name}.png", folder / f"{name}.png")


def found(root: Path, **config: object) -> tuple[Examination, list[tuple[str, str, int, str, str]]]:
    examination = examine(root, config=DataConfig.model_validate(config))
    told = [f for f in examination.findings if f.code != "mask-encoding"]
    for finding in examination.findings:
        assert finding.code in CODES
        assert all(Path(file).exists() for file in finding.files)
    return examination, [(f.severity, f.code, f.count, f.message, f.action) for f in told]


def test_a_sound_folder_passes(sound: Path) -> None:
    examination, told = found(sound)
    assert examination.ok
    assert told == []
    assert [pair.stem for pair in examination.pairs] == list(NAMES)
    assert (examination.bands, examination.dtype) == (3, "uint8")
    assert examination.counts.shape == (6, 3)
    np.testing.assert_array_equal(
        examination.class_counts(), np.bincount(np.concatenate([labels(seed).ravel() for seed in range(6)]))
    )
    np.testing.assert_array_equal(examination.ignored, 0)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_truncated_picture(sound: Path) -> None:
    path = sound / "images" / "bert.png"
    cut(path)
    examination, told = found(sound)
    assert not examination.ok
    assert told == [
        (
            "error",
            "image-unreadable",
            1,
            f"1 picture cannot be read: {path}: cannot be read as a picture: the file ends early or is damaged (image"
            " file is truncated); replace it",
            "replace or remove them; or accept losing them with --set data.accept=[image-unreadable]",
        )
    ]
    assert examination.findings[0].files == (path,)
    assert len(examination.pairs) == 5


def test_truncated_mask_and_acceptance(sound: Path) -> None:
    cut(sound / "masks" / "bert.png")
    assert [row[:3] for row in found(sound)[1]] == [("error", "mask-unreadable", 1)]
    examination, told = found(sound, accept=["mask-unreadable"])
    assert examination.ok
    assert told[0][0] == "warning"
    assert told[0][4] == "go on, as accepted by name"
    assert "bert" not in [pair.stem for pair in examination.pairs]


def test_too_large(sound: Path) -> None:
    examination, told = found(sound, max_pixels=2000)
    assert not examination.ok
    assert [(row[1], row[2]) for row in told] == [("image-unreadable", 6), ("mask-unreadable", 6)]
    assert "more than the limit of 2000" in told[0][3]


def resize_mask(root: Path, size: tuple[int, int]) -> None:
    path = root / "masks" / "bert.png"
    Image.fromarray(labels(1)).resize(size, Image.Resampling.NEAREST).save(path)


SIZES = {
    (57, 40): (
        "1 mask differs in size from the picture, by one or two pixels: 57 x 40 and 56 x 40 in bert.png",
        "crop or pad the masks without resizing them",
    ),
    (40, 56): (
        "1 mask differs in size from the picture, turned by 90 degrees: 40 x 56 and 56 x 40 in bert.png",
        "turn the masks",
    ),
    (28, 20): (
        "1 mask differs in size from the picture, with the same shape: 28 x 20 and 56 x 40 in bert.png",
        "resize the masks with nearest neighbour",
    ),
    (10, 30): (
        "1 mask differs in size from the picture: 10 x 30 and 56 x 40 in bert.png",
        "check that these masks belong to these pictures",
    ),
}


@pytest.mark.parametrize("size", SIZES)
def test_size_mismatch(sound: Path, size: tuple[int, int]) -> None:
    resize_mask(sound, size)
    examination, told = found(sound)
    assert not examination.ok
    assert told == [("error", "size-mismatch", 1, *SIZES[size])]


def test_size_mismatch_by_exif(sound: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = sound / "images" / "bert.jpg"
    (sound / "images" / "bert.png").unlink()
    Image.fromarray(picture(1)).save(path, exif=exif)
    _, told = found(sound)
    assert told == [
        (
            "error",
            "size-mismatch",
            1,
            "1 mask differs in size from the picture, which its EXIF tag turns and the mask does not follow: 56 x 40"
            " and 40 x 56 in bert.png",
            "turn the masks too, or save the pictures without the EXIF tag",
        )
    ]


def test_image_without_mask(sound: Path) -> None:
    (sound / "masks" / "bert.png").unlink()
    examination, told = found(sound)
    assert not examination.ok
    assert told == [
        (
            "error",
            "image-without-mask",
            1,
            "1 picture has no mask",
            "add the masks, remove the pictures, or leave them out with --set data.unpaired=skip",
        )
    ]
    examination, told = found(sound, unpaired="skip")
    assert examination.ok
    assert told == [("info", "images-skipped", 1, "1 picture has no mask", "leave them out, as `unpaired: skip` says")]


def test_mask_without_image(sound: Path) -> None:
    (sound / "images" / "bert.png").unlink()
    examination, told = found(sound)
    assert examination.ok
    assert told == [("warning", "mask-without-image", 1, "1 mask has no picture", "leave them out")]


def test_twice_paired(sound: Path) -> None:
    Image.fromarray(picture(9)).save(sound / "images" / "bert.jpg")
    examination, told = found(sound)
    assert not examination.ok
    assert told == [
        (
            "error",
            "twice-paired",
            1,
            "1 name is claimed by several files, first 'bert': bert.jpg, bert.png, bert.png",
            "keep one picture and one mask of each name",
        )
    ]


def test_no_pairs(sound: Path) -> None:
    for path in (sound / "masks").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    examination, told = found(sound)
    assert not examination.ok
    assert told == [
        (
            "error",
            "no-pairs",
            12,
            "6 pictures and 6 masks, and none share a name: 'anna' and 'xanna'",
            "give a picture and its mask the same name",
        )
    ]


def test_folder_faults(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        examine(tmp_path / "nowhere")
    assert str(error.value) == f"there is no folder {tmp_path}/nowhere"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as error:
        examine(tmp_path / "file")
    assert str(error.value) == f"{tmp_path}/file is a file; give the folder that holds images/ and masks/"
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        examine(tmp_path / "empty")
    assert str(error.value) == (
        f"{tmp_path}/empty holds no pictures; expected images/ and masks/ with files of equal names"
    )


def test_swapped_folders(sound: Path) -> None:
    (sound / "images").rename(sound / "x")
    (sound / "masks").rename(sound / "images")
    (sound / "x").rename(sound / "masks")
    examination, told = found(sound)
    assert not examination.ok
    assert (
        "error",
        "swapped",
        6,
        "6 of 6 masks look like photographs and their pictures like masks",
        "exchange the two folders",
    ) in told


def test_grey_among_colour(sound: Path) -> None:
    Image.fromarray(picture(1)[:, :, 0]).save(sound / "images" / "bert.png")
    examination, told = found(sound)
    assert examination.ok
    assert examination.bands == 3
    assert told == [
        (
            "info",
            "grey-among-color",
            1,
            "grey pictures among colour: 1 with 1, 5 with 3 bands",
            "repeat the grey band in red, green and blue",
        )
    ]


def test_bands_that_differ(sound: Path) -> None:
    (sound / "images" / "bert.png").unlink()
    values = np.dstack([picture(1), picture(2)])
    tifffile.imwrite(sound / "images" / "bert.tif", values, photometric="minisblack", planarconfig="contig")
    examination, told = found(sound)
    assert not examination.ok
    assert told == [
        (
            "error",
            "bands-differ",
            1,
            "pictures differ in their number of bands: 5 with 3, 1 with 6",
            "give all pictures the same bands",
        )
    ]


def to_tiff(root: Path, change: Callable[[np.ndarray], np.ndarray], names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        path = root / "images" / f"{name}.png"
        values = change(picture(NAMES.index(name)))
        path.unlink()
        tifffile.imwrite(path.with_suffix(".tif"), values, photometric="rgb" if values.shape[-1] == 3 else "minisblack")


def test_16_bit_pictures(sound: Path) -> None:
    to_tiff(sound, lambda image: image.astype(np.uint16) * 16 + 100)
    examination, told = found(sound)
    assert examination.ok
    assert examination.dtype == "uint16"
    (row,) = told
    assert row[:3] == ("info", "deep-images", 6)
    assert row[3].startswith("pictures hold uint16 values from ")
    assert row[4] == "keep their full depth; normalise by what train holds"


def test_depths_that_differ(sound: Path) -> None:
    to_tiff(sound, lambda image: image.astype(np.uint16) * 16, ("bert",))
    _, told = found(sound)
    assert told == [
        (
            "warning",
            "depth-differs",
            1,
            "pictures differ in the type of their values: 1 uint16, 5 uint8",
            "save all pictures in one type",
        )
    ]


def test_nan_pixels(sound: Path) -> None:
    def with_hole(image: np.ndarray) -> np.ndarray:
        values = image[:, :, 0].astype(np.float32)
        values[:4, :4] = np.nan
        return values

    to_tiff(sound, with_hole)
    examination, told = found(sound)
    assert examination.dtype == "float32"
    assert [row[1] for row in told] == ["nan-pixels", "deep-images"]
    assert told[0] == (
        "warning",
        "nan-pixels",
        6,
        "6 pictures hold NaN, infinity or no data",
        "give those pixels no label",
    )


SINGLE = {
    "alpha": (
        lambda path: Image.fromarray(np.dstack([picture(1), labels(1) * 100])).save(path),
        ("warning", "alpha", 1, "1 picture has transparency", "show transparent pixels as black"),
    ),
    "constant-image": (
        lambda path: Image.fromarray(np.full((40, 56, 3), 9, np.uint8)).save(path),
        ("warning", "constant-image", 1, "1 picture holds a single value", "check them; they teach nothing"),
    ),
}


@pytest.mark.parametrize("code", SINGLE)
def test_single_pictures(sound: Path, code: str) -> None:
    make, expected = SINGLE[code]
    make(sound / "images" / "bert.png")
    examination, told = found(sound)
    assert examination.ok
    assert told == [expected]


def test_cmyk(sound: Path) -> None:
    (sound / "images" / "bert.png").unlink()
    Image.fromarray(picture(1)).convert("CMYK").save(sound / "images" / "bert.jpg")
    _, told = found(sound)
    assert told == [("warning", "cmyk", 1, "1 picture is in CMYK", "convert them to RGB")]


def test_extreme_size(sound: Path) -> None:
    Image.fromarray(picture(1, (8, 400))).save(sound / "images" / "bert.png")
    Image.fromarray(labels(1, (8, 400))).save(sound / "masks" / "bert.png")
    _, told = found(sound)
    assert told == [
        (
            "warning",
            "extreme-size",
            1,
            "1 picture is of extreme size",
            "check them; large ones are cropped for training",
        )
    ]


def test_several_pages(sound: Path) -> None:
    (sound / "images" / "bert.png").unlink()
    tifffile.imwrite(sound / "images" / "bert.tif", np.stack([picture(1)] * 2), photometric="rgb")
    _, told = found(sound)
    assert told == [("warning", "several-frames", 1, "1 picture holds several pages or frames", "read the first one")]


def test_masks_without_label(sound: Path) -> None:
    Image.fromarray(np.full((40, 56), 255, np.uint8)).save(sound / "masks" / "bert.png")
    (sound / "dataset.yaml").write_text("ignore_index: 255")
    _, told = found(sound)
    assert told == [
        (
            "warning",
            "mask-ignored",
            1,
            "1 mask has no labelled pixel",
            "leave them out of the loss; they teach nothing",
        )
    ]


def test_masks_of_one_class(sound: Path) -> None:
    Image.fromarray(np.zeros((40, 56), np.uint8)).save(sound / "masks" / "bert.png")
    _, told = found(sound)
    assert told == [("info", "one-class-masks", 1, "1 of 6 masks hold a single class", "train on them as they are")]


def test_sparse_labels_are_legal(sound: Path) -> None:
    for seed, name in enumerate(NAMES):
        sparse = np.where(np.random.default_rng(seed).random((40, 56)) < 0.9, 255, labels(seed)).astype(np.uint8)
        Image.fromarray(sparse).save(sound / "masks" / f"{name}.png")
    examination, told = found(sound, ignore_index=255)
    assert examination.ok
    assert told == [("info", "mostly-ignored", 6, "90 % of the pixels carry no label", "learn from the others")]


def test_class_absent(sound: Path) -> None:
    into_splits(sound)
    for name in NAMES[:2]:
        path = sound / "masks" / "val" / f"{name}.png"
        values = np.array(Image.open(path))
        values[values == 2] = 1
        Image.fromarray(values).save(path)
    (sound / "dataset.yaml").write_text("classes: [sky, road, car, unicorn]")
    examination, told = found(sound)
    assert examination.ok
    assert told == [
        (
            "warning",
            "class-absent",
            1,
            "no pixel anywhere of unicorn",
            "keep the class; it gets no score and pulls no mean down",
        ),
        ("warning", "class-absent", 1, "no pixel in val of car", "give it no score there"),
    ]


def test_small_data(sound: Path) -> None:
    for name in NAMES[3:]:
        (sound / "images" / f"{name}.png").unlink()
        (sound / "masks" / f"{name}.png").unlink()
    _, told = found(sound)
    assert told == [("warning", "small-data", 3, "only 3 pictures to learn and to judge from", "go on; expect little")]


def test_copies_across_splits(sound: Path) -> None:
    into_splits(sound)
    shutil.copy(sound / "images" / "val" / "anna.png", sound / "images" / "train" / "dora.png")
    examination, told = found(sound)
    assert not examination.ok
    assert told == [
        (
            "error",
            "duplicates-across-splits",
            1,
            "1 picture lies in several splits with identical content, first train/dora.png and val/anna.png",
            "remove them from one split, or accept it with --set data.accept=[duplicates-across-splits]",
        )
    ]
    assert found(sound, accept=["duplicates-across-splits"])[0].ok


def test_copies_in_one_split_stay_together(sound: Path) -> None:
    shutil.copy(sound / "images" / "anna.png", sound / "images" / "dora.png")
    examination, told = found(sound)
    assert examination.ok
    assert told == [
        (
            "warning",
            "duplicates",
            1,
            "1 picture comes several times in one split, first anna.png and dora.png",
            "count each copy; remove them if that is not meant",
        )
    ]
    groups = {pair.stem: pair.group for pair in examination.pairs}
    assert groups["anna"] == groups["dora"] == "copies of anna"
    assert groups["bert"] == ""


def test_near_copies_across_splits(sound: Path) -> None:
    into_splits(sound)
    small = Image.fromarray(picture(0)).resize((112, 80), Image.Resampling.BILINEAR)
    small.save(sound / "images" / "train" / "dora.jpg", quality=60)
    (sound / "images" / "train" / "dora.png").unlink()
    Image.fromarray(labels(3, (80, 112))).save(sound / "masks" / "train" / "dora.png")
    examination, told = found(sound)
    assert examination.ok
    assert told == [
        (
            "warning",
            "near-duplicates-across-splits",
            1,
            "1 pair of nearly equal pictures lie in different splits, first train/dora.jpg and val/anna.png",
            "look at them; scores on such pictures say little",
        )
    ]


def write_video(root: Path, frames: int, step: int, start: int = 0, split: str = "") -> None:
    """A camera that pans over one long scene."""
    scene = picture(77, (40, 56 + step * 60))
    for kind in ("images", "masks"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    for number in range(start, start + frames):
        view = scene[:, number * step : number * step + 56]
        Image.fromarray(view).save(root / "images" / split / f"cam_{number:04d}.png")
        Image.fromarray(labels(number)).save(root / "masks" / split / f"cam_{number:04d}.png")


def test_video_without_split_is_grouped_in_runs(tmp_path: Path) -> None:
    write_video(tmp_path, 24, 9)
    examination, told = found(tmp_path)
    assert examination.ok
    assert told == [
        (
            "warning",
            "video-neighbours",
            24,
            "24 pictures follow each other like frames of a video or slices of a volume (cam_0000 to cam_0023)",
            "hold out runs of neighbours instead of single pictures; `group` in dataset.yaml decides otherwise",
        )
    ]
    groups = [pair.group for pair in examination.pairs]
    assert groups == [f"cam_* run {1 + number // 4}" for number in range(24)]


def test_video_across_splits_is_told(tmp_path: Path) -> None:
    write_video(tmp_path, 16, 9, split="train")
    write_video(tmp_path, 6, 9, start=16, split="val")
    examination, told = found(tmp_path)
    assert examination.ok
    assert told == [
        (
            "warning",
            "video-neighbours",
            6,
            "6 pictures of val come from a video or volume that train shows too (cam_0000 to cam_0021; nearest number 1"
            " away): scores on them say little about other scenes",
            "use the split as given; to part by series, move the folders together and put `group` into dataset.yaml",
        )
    ]
    assert {pair.group for pair in examination.pairs} == {""}


def test_numbered_but_unrelated_pictures_are_no_video(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(40):
        Image.fromarray(picture(number)).save(tmp_path / "images" / f"{number:03d}.png")
        Image.fromarray(labels(number)).save(tmp_path / "masks" / f"{number:03d}.png")
    examination, told = found(tmp_path)
    assert told == []
    assert {pair.group for pair in examination.pairs} == {""}


def test_groups_of_the_yaml_win(tmp_path: Path) -> None:
    write_video(tmp_path, 24, 9)
    (tmp_path / "dataset.yaml").write_text("group: '^cam_00(.)'")
    examination, _ = found(tmp_path)
    assert [pair.group for pair in examination.pairs] == [str(number // 10) for number in range(24)]


def test_fingerprint(sound: Path) -> None:
    print_ = examine(sound).fingerprint
    assert print_["images"] == {
        "count": 6,
        "height": {"min": 40, "median": 40, "max": 40},
        "width": {"min": 56, "median": 56, "max": 56},
        "bands": {"3": 6},
        "dtype": {"uint8": 6},
        "format": {"PNG": 6},
    }
    stack = np.concatenate([picture(seed).reshape(-1, 3) for seed in range(6)]).astype(float)
    for band, row in enumerate(print_["intensity"]):
        assert row["mean"] == pytest.approx(stack[:, band].mean())
        assert row["std"] == pytest.approx(stack[:, band].std())
        assert (row["low"], row["high"]) == (stack[:, band].min(), stack[:, band].max())
    assert sum(row["share"] for row in print_["classes"]) == pytest.approx(1)
    assert [row["images"] for row in print_["classes"]] == [6, 6, 6]
    edges = [np.zeros((40, 56), bool) for _ in range(6)]
    for seed, edge in enumerate(edges):
        edge[:, :-1] |= labels(seed)[:, :-1] != labels(seed)[:, 1:]
        edge[:-1] |= labels(seed)[:-1] != labels(seed)[1:]
    assert print_["boundary_share"] == pytest.approx(np.mean(edges))


def test_result_does_not_depend_on_workers(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("denseg.data.doctor.crew.INLINE_SECONDS", -1.0)
    alone, together = examine(sound, workers=1), examine(sound, workers=2)
    assert alone.findings == together.findings
    assert alone.pairs == together.pairs
    assert alone.fingerprint == together.fingerprint
    np.testing.assert_array_equal(alone.counts, together.counts)


def test_progress_counts_every_pair(sound: Path) -> None:
    seen: list[tuple[int, int]] = []
    examine(sound, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]


def test_unlistable_folder(sound: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may list every folder")
    (sound / "masks").chmod(0)
    with pytest.raises(DataError) as error:
        examine(sound)
    (sound / "masks").chmod(0o755)
    assert str(error.value) == f"cannot list the folder {sound}/masks: Permission denied"


@pytest.mark.shared_data
def test_isbi_is_read_right_without_a_word(shared_data: Path) -> None:
    examination = examine(shared_data / "isbi2012")
    assert examination.ok
    encoding = next(finding for finding in examination.findings if finding.code == "mask-encoding")
    assert encoding.message == "masks hold 0 and 255: read as 2 classes; 255 is a class here, not ignore"
    assert examination.ignored.sum() == 0
    assert "video-neighbours" in {finding.code for finding in examination.findings}  # slices of one volume


@pytest.mark.shared_data
def test_camvid_val_is_seen_to_come_from_trains_video(shared_data: Path) -> None:
    examination = examine(shared_data / "camvid")
    assert examination.ok
    assert examination.classes.names[:3] == ("sky", "building", "pole")
    assert examination.classes.ignore_index == 11
    video = next(finding for finding in examination.findings if finding.code == "video-neighbours")
    assert video.count == 101
    assert video.message == (
        "101 pictures of val come from a video or volume that train shows too (0016E5_00390 to 0016E5_08640; nearest"
        " number 31 away): scores on them say little about other scenes"
    )


def test_nan_in_masks_is_counted_as_ignored(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    rng = np.random.default_rng(0)
    for index in range(5):
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(tmp_path / f"images/{index}x.png")
        labels = rng.integers(0, 3, (20, 30)).astype(np.float32)
        labels[:4] = np.nan
        tifffile.imwrite(tmp_path / f"masks/{index}x.tif", labels)
    examination = examine(tmp_path)
    assert examination.ok
    assert examination.ignored.tolist() == [120] * 5
    assert int(examination.counts.sum()) == 5 * 480
