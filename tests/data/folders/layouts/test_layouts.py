# SPDX-License-Identifier: Apache-2.0
"""Each public layout is built small with its true folders and encodings, and read back: splits, names, labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from scipy import io

from denseg.data.doctor.doctor import Examination, examine
from denseg.data.folders.folder import discover
from denseg.data.folders.inventory import Pair
from denseg.data.folders.layouts.catalog import LAYOUTS
from denseg.data.folders.layouts.cityscapes import to_label_ids
from denseg.data.folders.layouts.common import load_classes
from denseg.data.reading.annotations import _unpack_runs
from denseg.data.reading.masks import read_mask
from denseg.data.samples.pairs import read_pair
from denseg.errors import DataError, ImageError, UnknownNameError
from denseg.types import distinct_colors

SIZE = (24, 30)


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng([seed, *path.as_posix().encode()]).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(SIZE[::-1], Image.Resampling.BICUBIC).save(path)
    return path


def blocks(values: Sequence[int], dtype: type = np.uint8) -> np.ndarray:
    """A mask that holds the values in vertical stripes, each of them."""
    return np.asarray(values, dtype)[np.arange(SIZE[1]) * len(values) // SIZE[1]][None].repeat(SIZE[0], 0)


def save_mask(path: Path, mask: np.ndarray, *, palette: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        tifffile.imwrite(path, mask)
        return path
    if not palette:
        Image.fromarray(mask).save(path)
        return path
    image = Image.frombytes("P", mask.shape[::-1], mask.astype(np.uint8).tobytes())
    image.putpalette([part for color in distinct_colors(256) for part in color])
    image.save(path)
    return path


def save_mat(path: Path, **variables: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    io.savemat(path, variables, do_compression=True)
    return path


def listing(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def look(root: Path, layout: str) -> Examination:
    examination = examine(root, workers=1)
    assert examination.inventory.layout == layout
    errors = [finding for finding in examination.findings if finding.severity == "error"]
    assert errors == []
    return examination


def labels(examination: Examination, stem: str) -> np.ndarray:
    pair = next(pair for pair in examination.pairs if pair.stem == stem)
    _, decoded = read_pair(pair, examination.encoding)
    return decoded


def named(examination: Examination, stem: str) -> list[str]:
    """The names under the stripes of a mask, left to right; - where there is no label."""
    row = labels(examination, stem)[0]
    starts = np.flatnonzero(np.diff(row.astype(int), prepend=-1))
    names = examination.classes.names
    return [names[value] if value < len(names) else "-" for value in row[starts]]


def splits(examination: Examination) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in examination.pairs:
        found.setdefault(str(pair.split), []).append(pair.stem)
    return found


def make_voc(root: Path) -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    for name in ("a", "b", "c", "d", "e"):
        picture(base / "JPEGImages" / f"{name}.jpg")
    for name in ("a", "b", "c"):
        save_mask(base / "SegmentationClass" / f"{name}.png", blocks([0, 1, 15, 20, 255]), palette=True)
    lists = base / "ImageSets" / "Segmentation"
    listing(lists / "train.txt", "a", "b")
    listing(lists / "val.txt", "c")
    listing(lists / "test.txt", "x")
    return base


def test_pascal_voc(tmp_path: Path) -> None:
    make_voc(tmp_path)
    examination = look(tmp_path, "pascal_voc")
    assert splits(examination) == {"train": ["a", "b"], "val": ["c"]}
    assert len(examination.classes) == 21
    assert examination.classes.ignore_index == 255
    assert named(examination, "a") == ["background", "aeroplane", "person", "tvmonitor", "-"]
    assert examination.classes.colors == distinct_colors(21)


def make_sbd(root: Path) -> None:
    release = root / "benchmark_RELEASE" / "dataset"
    for name in ("b", "c", "d", "e"):
        segmentation = np.zeros(
            (1, 1), [("Boundaries", object), ("Segmentation", object), ("CategoriesPresent", object)]
        )
        segmentation["Segmentation"][0, 0] = blocks([0, 7])
        save_mat(release / "cls" / f"{name}.mat", GTcls=segmentation)
    listing(release / "train.txt", "b", "d")
    listing(release / "val.txt", "c", "e")  # c is VOC's val too: it must stay out of train


def test_sbd_makes_trainaug(tmp_path: Path) -> None:
    make_voc(tmp_path)
    make_sbd(tmp_path)
    examination = look(tmp_path, "pascal_voc")
    assert splits(examination) == {"train": ["a", "b", "d", "e"], "val": ["c"]}
    assert named(examination, "d") == ["background", "car"]
    assert named(examination, "b")[-1] == "-"  # VOC's own mask, with its border, goes before SBD's


def test_converted_sbd(tmp_path: Path) -> None:
    base = make_voc(tmp_path)
    for name in ("a", "b", "d", "e"):
        save_mask(base / "SegmentationClassAug" / f"{name}.png", blocks([0, 7]))
    listing(base / "ImageSets" / "Segmentation" / "trainaug.txt", "a", "b", "d")
    examination = look(base, "pascal_voc")
    assert splits(examination) == {"train": ["a", "b", "d"], "val": ["c"]}


CONTEXT = [row.name for row in load_classes("pascal_context")]


def make_context(root: Path, mask: Callable[[Path, str], object]) -> Path:
    base = root / "VOCdevkit" / "VOC2010"
    for name in ("a", "b"):
        picture(base / "JPEGImages" / f"{name}.jpg")
        mask(base, name)
    listing(base / "ImageSets" / "SegmentationContext" / "train.txt", "a")
    listing(base / "ImageSets" / "SegmentationContext" / "val.txt", "b")
    return base


def context_png(values: Sequence[int]) -> Callable[[Path, str], object]:
    return lambda base, name: save_mask(base / "SegmentationClassContext" / f"{name}.png", blocks(values))


VOC_FIRST_PERSON, VOC_FIRST_SKY, VOC_FIRST_GRASS = 15, 50, 36
BY_ID_PERSON, BY_ID_SKY, BY_ID_GRASS = 37, 47, 29


@pytest.mark.parametrize(
    "values", [(0, BY_ID_PERSON, BY_ID_SKY, BY_ID_GRASS), (0, VOC_FIRST_PERSON, VOC_FIRST_SKY, VOC_FIRST_GRASS)]
)
def test_pascal_context_png_in_both_orders(tmp_path: Path, values: tuple[int, ...]) -> None:
    make_context(tmp_path, context_png(values))
    examination = look(tmp_path, "pascal_context")
    assert len(examination.classes) == 59
    assert splits(examination) == {"train": ["a"], "val": ["b"]}
    assert named(examination, "a") == ["-", "person", "sky", "grass"]


@pytest.mark.parametrize(("value", "name"), [(15, "person"), (37, "ground")])
def test_vocs_own_masks_decide_the_order(tmp_path: Path, value: int, name: str) -> None:
    """15 is `person` VOC first, `cat` by id; VOC's mask says that there is a person, or a cat."""
    base = make_context(tmp_path, context_png((0, 15, 37)))
    inside = np.where(blocks((0, 15, 37)) == 15, 15 if value == 15 else 8, 0)
    save_mask(base / "SegmentationClass" / "a.png", inside.astype(np.uint8), palette=True)
    expected = ["-", "person", "ground"] if value == 15 else ["-", CONTEXT[14], "person"]
    assert named(look(tmp_path, "pascal_context"), "a") == expected
    assert name in {"person", "ground"}


def test_pascal_context_60(tmp_path: Path) -> None:
    base = make_context(tmp_path, context_png((0, BY_ID_PERSON, BY_ID_SKY, BY_ID_GRASS)))
    (base / "dataset.yaml").write_text("layout: pascal_context_60")
    examination = look(base, "pascal_context_60")
    assert len(examination.classes) == 60
    assert named(examination, "a") == ["background", "person", "sky", "grass"]


def test_pascal_context_label_maps(tmp_path: Path) -> None:
    """The original files: 459 ids of which 59 are classes."""

    def mask(base: Path, name: str) -> Path:
        return save_mat(base / "trainval" / f"{name}.mat", LabelMap=blocks((2, 284, 360, 7, 458, 459), np.uint16))

    base = make_context(tmp_path, mask)
    examination = look(tmp_path, "pascal_context")
    assert named(examination, "a") == ["aeroplane", "person", "sky", "-", "wood", "-"]
    (base / "dataset.yaml").write_text("layout: pascal_context_60")
    sixty = ["aeroplane", "person", "sky", "background", "wood", "background"]
    assert named(look(base, "pascal_context_60"), "a") == sixty


def test_ade20k(tmp_path: Path) -> None:
    base = tmp_path / "ADEChallengeData2016"
    for folder, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        picture(base / "images" / folder / f"{name}.jpg")
        save_mask(base / "annotations" / folder / f"{name}.png", blocks([0, 1, 2, 150]))
    examination = look(tmp_path, "ade20k")
    assert splits(examination) == {"train": ["ADE_train_00000001"], "val": ["ADE_val_00000001"]}
    assert len(examination.classes) == 150
    assert named(examination, "ADE_val_00000001") == ["-", "wall", "building", "flag"]
    assert examination.classes.colors[0] == (120, 120, 120)


STUFF = {
    "1.1": ([0, 1, 13, 91, 92, 182], ["-", "person", "stop sign", "-", "banner", "wood"]),
    "1.0": ([1, 2, 13, 81, 82, 172], ["-", "person", "stop sign", "toothbrush", "banner", "wood"]),
}


@pytest.mark.parametrize("version", STUFF)
def test_coco_stuff(tmp_path: Path, version: str) -> None:
    values, names = STUFF[version]
    if version == "1.1":
        values, names = [0, 1, 13, 90, 92, 182], ["-", "person", "stop sign", "toothbrush", "banner", "wood"]
    for name in ("COCO_train2014_000000000077", "COCO_train2014_000000000078"):
        picture(tmp_path / "images" / f"{name}.jpg")
        save_mat(tmp_path / "annotations" / f"{name}.mat", S=blocks(values), names=np.asarray(["x"], object))
        if version == "1.0":  # 12 is "stop sign" in 1.0 and unused in 1.1
            save_mat(tmp_path / "annotations" / f"{name}.mat", S=blocks([*values[:2], 12, *values[2:]]))
    listing(tmp_path / "imageLists" / "train.txt", "COCO_train2014_000000000077")
    listing(tmp_path / "imageLists" / "test.txt", "COCO_train2014_000000000078")
    examination = look(tmp_path, "coco_stuff")
    assert splits(examination) == {
        "train": ["COCO_train2014_000000000077"],
        "test": ["COCO_train2014_000000000078"],
    }
    assert len(examination.classes) == 171
    if version == "1.0":
        names = ["-", "person", "fire hydrant", "stop sign", "toothbrush", "banner", "wood"]
    assert named(examination, "COCO_train2014_000000000077") == names


def test_coco_stuff_of_both_versions_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    save_mat(tmp_path / "annotations" / "a.mat", S=blocks([0, 12]))
    listing(tmp_path / "imageLists" / "train.txt", "a")
    with pytest.raises(DataError) as error:
        discover(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/annotations: masks hold values of COCO-Stuff 1.0 and of 1.1; keep one version"
    )


def make_cityscapes(root: Path, kind: str, values: Sequence[int]) -> None:
    for split, city in (("train", "aachen"), ("val", "munster"), ("test", "berlin")):
        name = f"{city}_000000_000019"
        picture(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        save_mask(root / "gtFine" / split / city / f"{name}_gtFine_{kind}.png", blocks(values))
        save_mask(root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png", blocks([0, 26000], np.uint16))


@pytest.mark.parametrize(
    ("kind", "values"), [("labelIds", [0, 7, 8, 9, 26, 33, 255]), ("labelTrainIds", [255, 0, 1, 255, 13, 18, 255])]
)
def test_cityscapes(tmp_path: Path, kind: str, values: list[int]) -> None:
    make_cityscapes(tmp_path, kind, values)
    examination = look(tmp_path, "cityscapes")
    assert splits(examination) == {"train": ["aachen_000000_000019"], "val": ["munster_000000_000019"]}
    assert [pair.group for pair in examination.pairs] == ["aachen", "munster"]
    assert len(examination.classes) == 19
    assert named(examination, "aachen_000000_000019") == ["-", "road", "sidewalk", "-", "car", "bicycle", "-"]


def test_cityscapes_predictions_go_back_to_label_ids() -> None:
    np.testing.assert_array_equal(to_label_ids(np.asarray([0, 1, 13, 18, 255])), [7, 8, 26, 33, 0])


def test_cityscapes_of_both_kinds_is_refused(tmp_path: Path) -> None:
    make_cityscapes(tmp_path, "labelIds", [0, 7])
    name = "bonn_000000_000019"
    picture(tmp_path / "leftImg8bit" / "train" / "bonn" / f"{name}_leftImg8bit.png")
    save_mask(tmp_path / "gtFine" / "train" / "bonn" / f"{name}_gtFine_labelTrainIds.png", blocks([0, 1]))
    with pytest.raises(DataError) as error:
        discover(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: some pictures have _gtFine_labelIds.png, others only _gtFine_labelTrainIds.png; keep one kind"
    )


def test_camvid_as_segnet_has_it(tmp_path: Path) -> None:
    base = tmp_path / "CamVid"
    for split, name in (("train", "0001TP_006690"), ("val", "0016E5_07959"), ("test", "Seq05VD_f00000")):
        picture(base / split / f"{name}.png")
        save_mask(base / f"{split}annot" / f"{name}.png", blocks([0, 1, 10, 11]))
    examination = look(tmp_path, "camvid")
    assert splits(examination) == {"train": ["0001TP_006690"], "val": ["0016E5_07959"], "test": ["Seq05VD_f00000"]}
    assert examination.classes.ignore_index == 11
    assert named(examination, "0016E5_07959") == ["sky", "building", "bicyclist", "-"]
    assert [pair.group for pair in examination.pairs] == ["0001TP", "0016E5", "Seq05VD"]


@pytest.mark.parametrize("with_table", [False, True])
def test_camvid_in_32_colours(tmp_path: Path, with_table: bool) -> None:
    colors = np.asarray([(64, 128, 64), (0, 0, 0), (128, 64, 128)], np.uint8)
    for name in ("0001TP_006690", "0006R0_f00930"):
        picture(tmp_path / "701_StillsRaw_full" / f"{name}.png")
        save_mask(tmp_path / "LabeledApproved_full" / f"{name}_L.png", colors[blocks([0, 1, 2])])
    if with_table:
        (tmp_path / "label_colors.txt").write_text("64 128 64\tAnimal\n0 0 0\t\tVoid\n128 64 128\tRoad\n")
    examination = look(tmp_path, "camvid")
    assert len(examination.classes) == (2 if with_table else 31)
    assert named(examination, "0001TP_006690") == ["Animal", "-", "Road"]


def test_isbi2012(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tifffile.imwrite(
        tmp_path / "train-volume.tif", rng.integers(0, 255, (5, *SIZE), dtype=np.uint8), photometric="minisblack"
    )
    mask = np.stack([np.roll(blocks([0, 255]), page, 1) for page in range(5)])
    tifffile.imwrite(tmp_path / "train-labels.tif", mask, photometric="minisblack")
    tifffile.imwrite(tmp_path / "test-volume.tif", mask, photometric="minisblack")
    examination = look(tmp_path, "isbi2012")
    assert [pair.stem for pair in examination.pairs] == [f"slice_{page:02d}" for page in range(5)]
    assert examination.classes.names == ("membrane", "cell")
    for page in range(5):
        np.testing.assert_array_equal(labels(examination, f"slice_{page:02d}"), mask[page] // 255)


def test_isbi2012_of_unequal_stacks(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "train-volume.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "train-labels.tif", np.zeros((2, 8, 8), np.uint8), photometric="minisblack")
    with pytest.raises(DataError) as error:
        discover(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: train-volume.tif has 3 slices, train-labels.tif has 2; download them again"
    )


def test_cell_tracking(tmp_path: Path) -> None:
    base = tmp_path / "PhC-C2DH-U373"
    for sequence in ("01", "02"):
        for number in range(4):
            save_mask(
                base / sequence / f"t{number:03d}.tif", np.random.default_rng(number).integers(0, 255, SIZE, np.uint8)
            )
        save_mask(base / f"{sequence}_GT" / "SEG" / "man_seg001.tif", blocks([0, 1, 0, 300], np.uint16))
        save_mask(base / f"{sequence}_GT" / "TRA" / "man_track000.tif", blocks([0, 1], np.uint16))
        save_mask(base / f"{sequence}_ST" / "SEG" / "man_seg002.tif", blocks([0, 5], np.uint16))
        save_mask(base / f"{sequence}_ST" / "SEG" / "man_seg001.tif", blocks([0, 0], np.uint16))
    examination = look(tmp_path, "cell_tracking")
    assert [pair.stem for pair in examination.pairs] == ["01_t001", "01_t002", "02_t001", "02_t002"]
    assert [pair.group for pair in examination.pairs] == ["01", "01", "02", "02"]
    assert named(examination, "01_t001") == ["background", "cell", "background", "cell"]  # gold before silver


def coco(images: list[dict[str, object]], annotations: list[dict[str, object]]) -> str:
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    return json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": categories})


def image_row(image_id: int, name: str) -> dict[str, object]:
    return {"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]}


def box(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def test_coco_json(tmp_path: Path) -> None:
    picture(tmp_path / "train2017" / "a.jpg")
    picture(tmp_path / "val2017" / "b.jpg")
    picture(tmp_path / "val2017" / "empty.jpg")
    runs = np.zeros(SIZE, np.uint8)
    runs[2:5, 3:7] = 1
    flat = runs.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges.tolist(), flat.size]).tolist()
    annotations: list[dict[str, object]] = [
        {"id": 1, "image_id": 5, "category_id": 7, "area": 200, "segmentation": [box(2, 3, 20, 10)]},
        {"id": 2, "image_id": 5, "category_id": 3, "area": 12, "segmentation": [box(4, 5, 4, 3)]},
        {"id": 3, "image_id": 5, "category_id": 3, "area": 9, "iscrowd": 1,
         "segmentation": {"size": list(SIZE), "counts": [20 * 1, 2, SIZE[0] * SIZE[1] - 22]}},
    ]  # fmt: skip
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train2017.json").write_text(coco([image_row(5, "a.jpg")], annotations))
    packed = [
        {"id": 4, "image_id": 6, "category_id": 7, "area": 12, "segmentation": {"size": list(SIZE), "counts": counts}}
    ]
    rows = [image_row(6, "b.jpg"), image_row(8, "empty.jpg")]
    (tmp_path / "annotations" / "instances_val2017.json").write_text(coco(rows, packed))
    (tmp_path / "annotations" / "captions_train2017.json").write_text(coco([image_row(5, "a.jpg")], []))
    examination = examine(tmp_path, workers=1)
    assert examination.inventory.layout == "coco_json"
    assert splits(examination) == {"train": ["a"], "val": ["b"]}
    assert [path.name for path in examination.inventory.unpaired_images] == ["empty.jpg"]
    assert examination.classes.names == ("background", "cat", "dog")
    expected = np.zeros(SIZE, np.uint8)
    expected[20:22, 0] = 255
    expected[3:13, 2:22] = 2
    expected[5:8, 4:8] = 1
    np.testing.assert_array_equal(labels(examination, "a"), expected)
    np.testing.assert_array_equal(labels(examination, "b"), runs * 2)


def test_coco_json_beside_the_pictures(tmp_path: Path) -> None:
    for split, name in (("train", "a"), ("valid", "b")):
        picture(tmp_path / split / f"{name}.jpg")
        row = {"id": 1, "image_id": 0, "category_id": 3, "area": 9, "segmentation": [box(0, 0, 30, 24)]}
        (tmp_path / split / "_annotations.coco.json").write_text(coco([image_row(0, f"{name}.jpg")], [row]))
    examination = examine(tmp_path, workers=1)
    assert splits(examination) == {"train": ["a"], "val": ["b"]}
    assert (labels(examination, "a") == 1).all()


def test_layout_asked_for_by_name(tmp_path: Path) -> None:
    make_voc(tmp_path)
    (tmp_path / "dataset.yaml").write_text("layout: folder")
    assert discover(tmp_path).layout == "folder"
    (tmp_path / "dataset.yaml").write_text("layout: cityscapes")
    with pytest.raises(DataError) as error:
        discover(tmp_path)
    assert str(error.value) == f"{tmp_path}/dataset.yaml: says layout cityscapes, and its files are not in {tmp_path}"
    (tmp_path / "dataset.yaml").write_text("layout: citiscapes")
    with pytest.raises(UnknownNameError, match=r"no layout named 'citiscapes'\. Did you mean 'cityscapes'"):
        discover(tmp_path)


def test_the_users_yaml_goes_before_the_layouts(tmp_path: Path) -> None:
    make_voc(tmp_path)
    (tmp_path / "dataset.yaml").write_text("name: Mine\nlabel_map: {0: ignore, 1: 14, 15: 15, 20: 0, 255: ignore}")
    examination = look(tmp_path, "pascal_voc")
    assert examination.inventory.description.name == "Mine"
    assert named(examination, "a") == ["-", "motorbike", "person", "background", "-"]


def test_plain_folders_are_no_public_layout(tmp_path: Path) -> None:
    for name in ("images", "masks", "annotations", "train", "trainannot", "01"):
        picture(tmp_path / name / "a.png")
    assert all(layout.find(tmp_path) is None for layout in LAYOUTS.values())


TABLES = {"ade20k": 150, "camvid": 11, "camvid_32": 32, "cityscapes": 19, "coco_stuff": 171, "pascal_context": 59,
          "pascal_voc": 21}  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_class_tables(table: str) -> None:
    rows = load_classes(table)
    assert len(rows) == TABLES[table]
    assert len({row.name for row in rows}) == len(rows)
    assert [row.value for row in rows] == sorted({row.value for row in rows})
    assert all(0 <= part <= 255 for row in rows for part in row.color)


def test_pages_of_one_file_are_pairs_of_their_own() -> None:
    first = Pair("a", Path("v.tif"), Path("l.tif"), image_page=0, mask_page=0)
    assert first != Pair("b", Path("v.tif"), Path("l.tif"), image_page=1, mask_page=1)


def test_polygons_fill_the_pixels_whose_centre_they_enclose(tmp_path: Path) -> None:
    triangle = [3.2, 1.1, 27.9, 6.4, 9.7, 22.3]
    row: dict[str, object] = {"id": 1, "image_id": 1, "category_id": 3, "area": 9, "segmentation": [triangle]}
    path = tmp_path / "a.json"
    path.write_text(coco([image_row(1, "a.jpg")], [row]))
    (x0, y0), (x1, y1), (x2, y2) = zip(triangle[::2], triangle[1::2], strict=True)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    sides = [
        (bx - ax) * (rows - ay) - (by - ay) * (columns - ax)
        for ax, ay, bx, by in ((x0, y0, x1, y1), (x1, y1, x2, y2), (x2, y2, x0, y0))
    ]
    inside = np.logical_and.reduce([side > 0 for side in sides])
    np.testing.assert_array_equal(read_mask(path, page=1).values, inside)


@pytest.mark.parametrize("text", ["0", "14", "PPYo0N1", "52203"])
def test_packed_runs(text: str) -> None:
    """The text form is the runs' differences in 5-bit groups; unpacking and packing again gives the text."""
    assert pack(_unpack_runs(text)) == text


def pack(runs: list[int]) -> str:
    text = ""
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        while True:
            bits, value = value & 0x1F, value >> 5
            more = value != (-1 if bits & 0x10 else 0)
            text += chr((bits | 0x20 if more else bits) + 48)
            if not more:
                break
    return text


BROKEN = {
    "{": "cannot be read as COCO annotations: Expecting property name enclosed in double quotes: line 1 column 2 (char"
    " 1); export it again",
    '{"images": []}': "cannot be read as COCO annotations: no 'annotations'; export it again",
}


@pytest.mark.parametrize("text", BROKEN)
def test_broken_annotation_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ImageError) as error:
        read_mask(path, page=1)
    assert str(error.value) == f"{path}: {BROKEN[text]}"


def test_outlines_that_cannot_be_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for number, outline in enumerate(
        ({"size": [1, 1], "counts": [1]}, {"size": list(SIZE), "counts": "\x01"}, [["x"]])
    ):
        row: dict[str, object] = {"id": 9, "image_id": 1, "category_id": 3, "segmentation": outline}
        path.write_text(coco([image_row(1, "a.jpg" + " " * number)], [row]))
        with pytest.raises(ImageError) as error:
            read_mask(path, page=1)
        assert str(error.value) == f"{path}: annotation 9 has no outline that can be drawn"
    with pytest.raises(ImageError, match="has no picture of id 2"):
        read_mask(path, page=2)


def test_matlab_files_that_hold_no_mask(tmp_path: Path) -> None:
    path = save_mat(tmp_path / "a.mat", other=np.zeros((2, 2)))
    with pytest.raises(ImageError) as error:
        read_mask(path)
    assert str(error.value) == (f"{path}: holds other, none of S, LabelMap, GTcls, labels, mask, label; save it as PNG")
    path.write_bytes(b"MATLAB 7.3 MAT-file")
    with pytest.raises(ImageError) as error:
        read_mask(path)
    assert str(error.value) == f"{path}: MATLAB 7.3 files are not read; save it with -v7 or as PNG"
    save_mat(path, S=np.zeros((2, 2, 2)))
    with pytest.raises(ImageError) as error:
        read_mask(path)
    assert str(error.value) == f"{path}: S is no picture of numbers but float64 of (2, 2, 2)"
    save_mat(path, S=np.zeros((9, 9)))
    with pytest.raises(ImageError, match="9 x 9 pixels = 81, more than the limit of 80"):
        read_mask(path, max_pixels=80)
    path.write_bytes(b"MATLAB 5.0 MAT-file" + b"\0" * 200)
    with pytest.raises(ImageError, match="cannot be read as a picture: "):
        read_mask(path)
