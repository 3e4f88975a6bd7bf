# SPDX-License-Identifier: Apache-2.0
"""Every usual way to store masks is read right, or refused with the file, the value and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from denseg.data.doctor.proposal import Proposal, propose_encoding
from denseg.data.doctor.survey import Look, look_at
from denseg.data.folders.description import read_description
from denseg.data.folders.folder import Pair
from denseg.data.reading.masks import read_mask
from denseg.data.samples.pairs import read_pair_labels

SIZE = (24, 32)


def labels(num_classes: int, seed: int = 0) -> np.ndarray:
    """Blocks of 8x8 pixels, every class present."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, num_classes, (3, 4))
    coarse.flat[: min(num_classes, 12)] = range(min(num_classes, 12))
    return np.kron(coarse, np.ones((8, 8), int))


def propose(folder: Path, masks: Sequence[np.ndarray | Image.Image], yaml: str = "", suffix: str = ".png") -> Proposal:
    for number, mask in enumerate(masks):
        path = folder / f"{number}{suffix}"
        if isinstance(mask, np.ndarray) and suffix == ".tif":
            tifffile.imwrite(path, mask)
        else:
            image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
            image.save(path, **({"quality": 75} if suffix == ".jpg" else {}))
    if yaml:
        (folder / "dataset.yaml").write_text(yaml)
    paths = sorted(folder.glob(f"*{suffix}"))
    facts = [look_at(Look(Pair(path.stem, path, path), shapes=True)).mask for path in paths]
    return propose_encoding(
        [(p, f) for p, f in zip(paths, facts, strict=True) if f is not None], read_description(folder)
    )


def decoded(folder: Path, proposal: Proposal, number: int = 0, suffix: str = ".png") -> np.ndarray:
    path = folder / f"{number}{suffix}"
    result = proposal.encoding.decode(read_mask(path), path)
    assert (read_pair_labels(Pair("a", path, path), proposal.encoding) == result).all()
    return result


def errors(proposal: Proposal) -> list[tuple[str, str, str]]:
    return [(f.code, f.message, f.action) for f in proposal.findings if f.severity == "error"]


def told(proposal: Proposal) -> tuple[str, str]:
    finding = next(finding for finding in proposal.findings if finding.code == "mask-encoding")
    return finding.message, finding.action


def test_0_and_255(tmp_path: Path) -> None:
    truth = labels(2)
    proposal = propose(tmp_path, [(truth * 255).astype(np.uint8)])
    assert told(proposal) == (
        "masks hold 0 and 255: read as 2 classes; 255 is a class here, not ignore",
        "read 0 -> value_0, 255 -> value_255",
    )
    assert errors(proposal) == []
    np.testing.assert_array_equal(decoded(tmp_path, proposal), truth)


def test_0_and_255_with_two_names(tmp_path: Path) -> None:
    """The folder that trains to a perfect score elsewhere, since 255 is dropped there."""
    truth = labels(2)
    proposal = propose(tmp_path, [(truth * 255).astype(np.uint8)], "classes: [background, thing]")
    assert told(proposal) == (
        "masks hold 0 and 255: read as 2 classes; the stored numbers in ascending order are the classes; 255 is a class"
        " here, not ignore",
        "read 0 -> background, 255 -> thing",
    )
    np.testing.assert_array_equal(decoded(tmp_path, proposal), truth)


def test_0_and_255_with_one_name(tmp_path: Path) -> None:
    truth = labels(2)
    proposal = propose(tmp_path, [(truth * 255).astype(np.uint8)], "classes: [thing]")
    assert told(proposal) == (
        "masks hold 0 and 255: read as 2 classes; dataset.yaml names one class: 0 is taken for background, 255 for"
        " 'thing'",
        "read 0 -> background, 255 -> thing",
    )
    assert proposal.classes.names == ("background", "thing")
    np.testing.assert_array_equal(decoded(tmp_path, proposal), truth)


def test_0_and_255_with_ignore_255_would_lose_the_class(tmp_path: Path) -> None:
    yaml = "classes: [background, thing]\nignore_index: 255"
    proposal = propose(tmp_path, [(labels(2) * 255).astype(np.uint8)], yaml)
    assert errors(proposal) == [
        (
            "labels-lost",
            "masks hold 0 and 255, and ignore_index is 255: only 0 would be left to learn",
            "remove ignore_index if 255 is a class",
        )
    ]


def test_class_indices(tmp_path: Path) -> None:
    truth = labels(5)
    proposal = propose(tmp_path, [truth.astype(np.uint8)])
    assert told(proposal) == (
        "masks hold 0 to 4: read as 5 classes; stored numbers are class indices",
        "read 0 -> class_0, 1 -> class_1, 2 -> class_2, 3 -> class_3, 4 -> class_4",
    )
    np.testing.assert_array_equal(decoded(tmp_path, proposal), truth)
    assert decoded(tmp_path, proposal).dtype == np.uint8


def test_border_255_beside_class_indices(tmp_path: Path) -> None:
    truth = labels(4).astype(np.uint8)
    truth[:, 0] = 255
    proposal = propose(tmp_path, [truth])
    assert told(proposal) == (
        "masks hold 0 to 3 and 255: read as 4 classes; stored numbers are class indices; 255 is a border without label",
        "read 0 -> class_0, 1 -> class_1, 2 -> class_2, 3 -> class_3, 255 -> ignore",
    )
    assert proposal.classes.ignore_index == 255
    np.testing.assert_array_equal(decoded(tmp_path, proposal), truth)


def test_a_border_that_is_too_large_is_an_error(tmp_path: Path) -> None:
    truth = labels(3).astype(np.uint8)
    truth[:, 16:] = 255
    proposal = propose(tmp_path, [truth])
    assert errors(proposal) == [
        (
            "labels-lost",
            "255 covers 50 % of all pixels, too much for a border: labelled pixels would be ignored",
            "put `ignore_index: 255` into dataset.yaml if 255 means no label, or name it under `label_map`",
        )
    ]
    assert errors(propose(tmp_path, [truth], "ignore_index: 255")) == []


def test_first_class_stored_as_1(tmp_path: Path) -> None:
    truth = labels(3)
    for yaml, names in (("", ("class_0", "class_1", "class_2")), ("classes: [a, b, c]", ("a", "b", "c"))):
        proposal = propose(tmp_path, [(truth + 1).astype(np.uint8)], yaml)
        assert told(proposal) == (
            "masks hold 1 to 3: read as 3 classes; the first class is stored as 1",
            f"read 1 -> {names[0]}, 2 -> {names[1]}, 3 -> {names[2]}",
        )
        np.testing.assert_array_equal(decoded(tmp_path, proposal), truth)


def test_zero_is_no_label_where_it_is_said(tmp_path: Path) -> None:
    stored = labels(4).astype(np.uint8)  # 0 no label, 1 to 3 classes, as in ADE20K
    proposal = propose(tmp_path, [stored], "classes: [a, b, c]\nignore_index: 0")
    assert told(proposal) == (
        "masks hold 0 to 3: read as 3 classes; the first class is stored as 1; 0 means no label",
        "read 0 -> ignore, 1 -> a, 2 -> b, 3 -> c",
    )
    np.testing.assert_array_equal(decoded(tmp_path, proposal), np.where(stored == 0, 255, stored - 1))


def test_one_value_more_than_names_is_an_error(tmp_path: Path) -> None:
    proposal = propose(tmp_path, [labels(4).astype(np.uint8)], "classes: [a, b, c]")
    assert errors(proposal) == [
        (
            "values-beyond-classes",
            "masks hold 0 to 3, 4 values, and dataset.yaml names 3 classes",
            "name the class that 0 is, or say `ignore_index: 0` if 0 means no label",
        )
    ]


def test_values_beyond_the_classes_name_the_file(tmp_path: Path) -> None:
    good, bad = labels(3).astype(np.uint8), labels(3).astype(np.uint8)
    bad[0, :2] = (7, 200)
    proposal = propose(tmp_path, [good, bad], "classes: [a, b, c]")
    assert errors(proposal) == [
        (
            "values-beyond-classes",
            "masks hold 7 and 200, which is no class: dataset.yaml names 3, 0 to 2",
            "name each value under `label_map` in dataset.yaml, as a class or as `ignore`",
        )
    ]
    assert proposal.findings[0].files == (tmp_path / "1.png",)


def test_label_map(tmp_path: Path) -> None:
    stored = np.asarray([7, 8, 11, 0], np.uint8)[labels(4)]
    yaml = "classes: [road, sidewalk]\nlabel_map: {7: road, 8: 1, 11: sidewalk, 0: ignore}"
    proposal = propose(tmp_path, [stored], yaml)
    assert told(proposal) == (
        "masks hold 0, 7, 8 and 11: read as 2 classes; as dataset.yaml says; 0 means no label",
        "read 0 -> ignore, 7 -> road, 8 -> sidewalk, 11 -> sidewalk",
    )
    np.testing.assert_array_equal(decoded(tmp_path, proposal), np.asarray([0, 1, 1, 255])[labels(4)])


def test_values_by_class(tmp_path: Path) -> None:
    stored = np.asarray([10, 20], np.uint8)[labels(2)]
    proposal = propose(tmp_path, [stored], "classes: {20: cell, 10: background}")
    assert proposal.classes.names == ("background", "cell")
    np.testing.assert_array_equal(decoded(tmp_path, proposal), labels(2))


def test_ignored_class_in_the_list_is_dropped(tmp_path: Path) -> None:
    proposal = propose(tmp_path, [labels(3).astype(np.uint8)], "classes: [void, road, car]\nignore_index: 0")
    assert proposal.classes.names == ("road", "car")
    assert told(proposal)[0] == (
        "masks hold 0 to 2: read as 2 classes; 0 (void) is ignored, as ignore_index says; 0 means no label"
    )
    np.testing.assert_array_equal(decoded(tmp_path, proposal), np.asarray([255, 0, 1])[labels(3)])


def test_spread_grey_levels(tmp_path: Path) -> None:
    stored = np.asarray([0, 127, 255], np.uint8)[labels(3)]
    proposal = propose(tmp_path, [stored])
    assert told(proposal) == (
        "masks hold 0, 127 and 255: read as 3 classes; 255 is a class here, not ignore",
        "read 0 -> value_0, 127 -> value_127, 255 -> value_255",
    )
    np.testing.assert_array_equal(decoded(tmp_path, proposal), labels(3))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_masks(tmp_path: Path, dtype: type) -> None:
    proposal = propose(tmp_path, [(labels(2) * 65535).astype(dtype)], suffix=".tif")
    np.testing.assert_array_equal(decoded(tmp_path, proposal, suffix=".tif"), labels(2))


def test_more_than_255_classes_need_16_bits(tmp_path: Path) -> None:
    stored = (np.arange(24 * 32).reshape(24, 32) % 300).astype(np.uint16)
    names = ", ".join(f"c{index}" for index in range(300))
    proposal = propose(tmp_path, [stored], f"classes: [{names}]", suffix=".tif")
    assert errors(proposal) == []
    assert proposal.classes.ignore_index == 65535
    assert decoded(tmp_path, proposal, suffix=".tif").dtype == np.uint16
    np.testing.assert_array_equal(decoded(tmp_path, proposal, suffix=".tif"), stored)


def test_float_masks_are_refused(tmp_path: Path) -> None:
    proposal = propose(tmp_path, [(labels(3) / 4).astype(np.float32)], suffix=".tif")
    assert errors(proposal) == [
        (
            "float-mask",
            "1 mask holds numbers that are not whole: probabilities or a resized picture",
            "save class indices as PNG, or divide grades by `threshold` in dataset.yaml",
        )
    ]


def test_a_single_value_is_refused(tmp_path: Path) -> None:
    proposal = propose(tmp_path, [np.full(SIZE, 255, np.uint8)])
    assert errors(proposal) == [
        (
            "one-value",
            "all masks together hold a single value, 255: there is nothing to learn",
            "check the export of the masks",
        )
    ]


def test_0_1_and_0_255_in_one_folder(tmp_path: Path) -> None:
    truth = labels(2).astype(np.uint8)
    proposal = propose(tmp_path, [truth, truth * 255, truth * 255])
    assert errors(proposal) == [
        (
            "mixed-masks",
            "1 masks hold 0 and 1, 2 hold 0 and 255",
            "say `label_map: {0: 0, 1: 1, 255: 1}` in dataset.yaml if 1 and 255 are one class",
        )
    ]
    assert errors(propose(tmp_path, [truth], "label_map: {0: 0, 1: 1, 255: 1}")) == []


def palette(values: np.ndarray, colors: Sequence[Sequence[int]]) -> Image.Image:
    image = Image.frombytes("P", (values.shape[1], values.shape[0]), values.astype(np.uint8).tobytes())
    image.putpalette([part for color in colors for part in color])
    return image


COLORS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]


def test_palette_masks_are_indices_with_colours(tmp_path: Path) -> None:
    truth = labels(4)
    proposal = propose(tmp_path, [palette(truth, COLORS)])
    assert proposal.encoding.kind == "index"
    assert proposal.classes.colors == tuple(COLORS)
    np.testing.assert_array_equal(decoded(tmp_path, proposal), truth)


def test_palettes_that_differ_are_read_by_colour(tmp_path: Path) -> None:
    truth = labels(3)
    order = [2, 0, 1]
    turned = palette(np.asarray(order)[truth], [COLORS[order.index(index)] for index in range(3)])
    proposal = propose(tmp_path, [palette(truth, COLORS), turned])
    assert proposal.encoding.kind == "color"
    np.testing.assert_array_equal(decoded(tmp_path, proposal, 0), truth)
    np.testing.assert_array_equal(decoded(tmp_path, proposal, 1), truth)


def test_colours_in_voc_order(tmp_path: Path) -> None:
    truth = labels(4)
    proposal = propose(tmp_path, [np.asarray(COLORS, np.uint8)[truth]])
    assert told(proposal) == (
        "masks hold the colours (0, 0, 0), (0, 128, 0), (128, 0, 0) and (128, 128, 0): read as 4 classes; the colours"
        " are PASCAL VOC's, in its order",
        "read (0, 0, 0) -> class_0, (0, 128, 0) -> class_2, (128, 0, 0) -> class_1, (128, 128, 0) -> class_3; name them"
        " in dataset.yaml",
    )
    np.testing.assert_array_equal(decoded(tmp_path, proposal), truth)


def test_other_colours_dark_to_light(tmp_path: Path) -> None:
    colors = np.asarray([(0, 0, 0), (10, 20, 30), (255, 0, 255)], np.uint8)
    proposal = propose(tmp_path, [colors[labels(3)]])
    assert proposal.classes.names == ("color_0_0_0", "color_10_20_30", "color_255_0_255")
    assert proposal.classes.colors == tuple(map(tuple, colors.tolist()))
    np.testing.assert_array_equal(decoded(tmp_path, proposal), labels(3))


def test_colours_by_name(tmp_path: Path) -> None:
    yaml = "classes:\n- {name: sky, color: '#0000ff'}\n- {name: land, color: [0, 255, 0]}\nlabel_map: {'0,0,0': ignore}"
    colors = np.asarray([(0, 0, 255), (0, 255, 0), (0, 0, 0)], np.uint8)
    proposal = propose(tmp_path, [colors[labels(3)]], yaml)
    assert told(proposal) == (
        "masks hold colours: read as 2 classes, as dataset.yaml says",
        "read (0, 0, 0) -> ignore, (0, 0, 255) -> sky, (0, 255, 0) -> land",
    )
    np.testing.assert_array_equal(decoded(tmp_path, proposal), np.asarray([0, 1, 255])[labels(3)])


def test_unknown_colours_are_refused(tmp_path: Path) -> None:
    yaml = "classes:\n- {name: sky, color: '#0000ff'}\n- {name: land, color: [0, 255, 0]}"
    colors = np.asarray([(0, 0, 255), (0, 255, 0), (9, 9, 9)], np.uint8)
    proposal = propose(tmp_path, [colors[labels(3)]], yaml)
    assert errors(proposal) == [
        (
            "values-beyond-classes",
            "masks hold (9, 9, 9), which dataset.yaml does not name",
            "give the class its `color`, or name the colour under `label_map`, as a class or as `ignore`",
        )
    ]


def test_colours_without_colours_in_the_yaml(tmp_path: Path) -> None:
    proposal = propose(tmp_path, [np.asarray(COLORS, np.uint8)[labels(2)]], "classes: [a, b]")
    assert errors(proposal) == [
        (
            "values-beyond-classes",
            "masks hold the colours (0, 0, 0) and (128, 0, 0), and dataset.yaml gives its classes no colours",
            "give each class its `color` in dataset.yaml",
        )
    ]


def test_transparent_background_is_black(tmp_path: Path) -> None:
    truth = labels(2)
    rgba = np.dstack([np.where(truth[..., None] > 0, (255, 0, 0), (17, 34, 51)), truth * 255]).astype(np.uint8)
    proposal = propose(tmp_path, [rgba])
    assert proposal.classes.names == ("color_0_0_0", "color_255_0_0")
    np.testing.assert_array_equal(decoded(tmp_path, proposal), truth)


def test_grey_saved_as_rgb(tmp_path: Path) -> None:
    truth = labels(3)
    proposal = propose(tmp_path, [np.repeat(truth[..., None], 3, 2).astype(np.uint8)])
    assert proposal.encoding.kind == "index"
    np.testing.assert_array_equal(decoded(tmp_path, proposal), truth)


def test_a_black_mask_among_colours(tmp_path: Path) -> None:
    truth = labels(3)
    proposal = propose(tmp_path, [np.asarray(COLORS, np.uint8)[truth], np.zeros((24, 32, 3), np.uint8)])
    assert errors(proposal) == []
    assert not decoded(tmp_path, proposal, 1).any()


def test_numbers_among_colours_are_refused(tmp_path: Path) -> None:
    proposal = propose(tmp_path, [np.asarray(COLORS, np.uint8)[labels(4)], labels(4).astype(np.uint8)])
    assert errors(proposal) == [
        (
            "mixed-masks",
            "1 of 2 masks hold colours, the others numbers",
            "save all masks in one way, best as index PNG",
        )
    ]


def test_object_numbers(tmp_path: Path) -> None:
    masks = []
    for top in (30, 55, 41, 80):
        mask = np.zeros((30, 30), np.uint16)
        for number in range(top):
            row, column = divmod(number * 3, 30)
            mask[3 * row : 3 * row + 2, column : column + 2] = number + 1
        masks.append(mask)
    proposal = propose(tmp_path, masks, suffix=".tif")
    assert errors(proposal) == [
        (
            "object-numbers",
            "masks hold 81 different values up to 80: numbers of objects, not of classes",
            "say `instances: true` in dataset.yaml to read 0 as background and every object as one class",
        )
    ]
    proposal = propose(tmp_path, masks, "instances: true", suffix=".tif")
    assert told(proposal) == (
        "masks hold numbers of objects: 0 is read as 'background', every other number as 'object'",
        "as dataset.yaml says",
    )
    np.testing.assert_array_equal(decoded(tmp_path, proposal, suffix=".tif"), masks[0] > 0)


def big(num_classes: int) -> np.ndarray:
    """Larger blocks whose edges do not fall on JPEG's 8x8 grid."""
    return np.roll(np.kron(labels(num_classes), np.ones((8, 8), int)), (3, 5), (0, 1))


@pytest.mark.parametrize("levels", [(0, 255), (0, 128, 255), (0, 60, 120, 180, 240)])
def test_jpeg_masks_of_spread_values_are_repaired(tmp_path: Path, levels: tuple[int, ...]) -> None:
    truth = big(len(levels))
    names = ", ".join(f"{{name: c{level}, value: {level}}}" for level in levels)
    yaml = "" if len(levels) == 2 else f"classes: [{names}]"
    proposal = propose(tmp_path, [np.asarray(levels, np.uint8)[truth]], yaml, suffix=".jpg")
    assert errors(proposal) == []
    finding = next(finding for finding in proposal.findings if finding.code == "blurred-masks")
    assert finding.message.startswith("1 masks went through JPEG: ")
    assert finding.message.endswith(f"lie between the clean values {', '.join(map(str, levels[:-1]))} and {levels[-1]}")
    assert finding.action == "take each such pixel for the nearest clean value"
    assert (decoded(tmp_path, proposal, suffix=".jpg") == truth).mean() > 0.99


def test_jpeg_masks_of_colours_are_repaired(tmp_path: Path) -> None:
    truth = big(4)
    proposal = propose(
        tmp_path, [np.asarray([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)[truth]], suffix=".jpg"
    )
    assert [(f.code, f.message, f.action) for f in proposal.findings if f.code == "classes-guessed"] == [
        (
            "classes-guessed",
            "4 clean values were found in blurred masks; thin classes may have none",
            "every pixel takes the nearest one; name the classes in dataset.yaml if one is missing",
        )
    ]
    assert len(proposal.classes) == 4
    order = [sum(color) for color in proposal.classes.colors]
    assert order == sorted(order)
    result = decoded(tmp_path, proposal, suffix=".jpg")
    nearest = {color: int(np.argmax([*color, 1])) for color in proposal.classes.colors}  # red 0, green 1, blue 2
    turned = np.asarray([(nearest[color] + 1) % 4 for color in proposal.classes.colors])[result]
    assert (turned == truth).mean() > 0.97


def test_jpeg_masks_of_class_indices_are_lost(tmp_path: Path) -> None:
    proposal = propose(tmp_path, [big(11).astype(np.uint8)], suffix=".jpg")
    assert errors(proposal) == [
        (
            "blurred-beyond-repair",
            "1 masks went through JPEG, and their classes lie too near to each other to be told apart again",
            "export the masks again as PNG, without resizing",
        )
    ]


def test_soft_edges_are_repaired(tmp_path: Path) -> None:
    truth = Image.fromarray((big(2) * 255).astype(np.uint8))
    soft = truth.resize((300, 220), Image.Resampling.BICUBIC)
    proposal = propose(tmp_path, [np.asarray(soft)])
    assert errors(proposal) == []
    codes = [finding.code for finding in proposal.findings]
    assert codes == ["mask-encoding", "blurred-masks"]
    assert set(np.unique(decoded(tmp_path, proposal))) == {0, 1}


@pytest.mark.parametrize(
    "make", [lambda n: n.astype(np.uint8), lambda n: np.random.default_rng(0).permutation(200)[n].astype(np.uint8)]
)
def test_many_classes_are_not_taken_for_blur(tmp_path: Path, make: Callable[[np.ndarray], np.ndarray]) -> None:
    """150 class indices, rare ones too, as in ADE20K: every one of them counts."""
    rng = np.random.default_rng(0)
    masks = [make(np.minimum(rng.geometric(0.05, (64, 64)) - 1, 149)) for _ in range(3)]
    proposal = propose(tmp_path, masks, "classes: [" + ", ".join(f"c{index}" for index in range(200)) + "]")
    assert errors(proposal) == []
    assert [finding.code for finding in proposal.findings] == ["mask-encoding"]
    np.testing.assert_array_equal(decoded(tmp_path, proposal), masks[0])


def test_photographs_are_no_masks(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    proposal = propose(tmp_path, [noise])
    count = len(np.unique(noise.reshape(-1, 3), axis=0))
    assert errors(proposal) == [
        (
            "too-many-colors",
            f"masks hold {count} different colours: they look like photographs, not like masks",
            "check that pictures and masks are not swapped; else name the classes and colours in dataset.yaml",
        )
    ]


def test_class_indices_after_a_smooth_resize_are_lost(tmp_path: Path) -> None:
    soft = Image.fromarray(big(11).astype(np.uint8)).resize((300, 220), Image.Resampling.BILINEAR)
    assert errors(propose(tmp_path, [soft])) == [
        (
            "blurred-beyond-repair",
            "1 masks have soft edges, as after a smooth resize or drawing, and their classes lie too near to each other"
            " to be told apart again",
            "export the masks again as PNG, without resizing",
        )
    ]
    sharp = Image.fromarray(big(11).astype(np.uint8)).resize((300, 220), Image.Resampling.NEAREST)
    assert errors(propose(tmp_path, [sharp])) == []


@pytest.mark.parametrize("step", [2, 4, 10, 20])
def test_jpeg_masks_of_near_values_are_never_merged_in_silence(tmp_path: Path, step: int) -> None:
    proposal = propose(tmp_path, [(big(11) * step).astype(np.uint8)], suffix=".jpg")
    (code,) = {f.code for f in proposal.findings if f.code in {"classes-guessed", "blurred-beyond-repair"}}
    assert code == ("classes-guessed" if step >= 10 else "blurred-beyond-repair")
    if step >= 10:
        assert len(proposal.classes) == 11


@pytest.mark.parametrize("contours", [(1,), (1, 2)])
def test_contour_classes_are_no_blur(tmp_path: Path, contours: tuple[int, ...]) -> None:
    """Background 0, thin contours between, inside the highest: as in nuclei data sets."""
    top = max(contours) + 1
    row, column = np.mgrid[:96, :96]
    distance = 20 - np.hypot(row % 48 - 24, column % 48 - 24)
    stored = np.clip(np.ceil(distance), 0, top).astype(np.uint8)
    proposal = propose(tmp_path, [stored])
    assert [finding.code for finding in proposal.findings] == ["mask-encoding"]
    np.testing.assert_array_equal(decoded(tmp_path, proposal), stored)


@pytest.mark.parametrize(("values", "stray"), [((0, 1, 7), 7), ((0, 1, 2, 200), 200)])
def test_indices_with_one_out_of_range_are_not_taken_for_grey_levels(
    tmp_path: Path, values: tuple[int, ...], stray: int
) -> None:
    names = ", ".join(f"class {index}" for index in range(len(values)))
    proposal = propose(tmp_path, [np.asarray(values, np.uint8)[labels(len(values))]], f"classes: [{names}]")
    ((code, message, _),) = errors(proposal)
    assert code == "values-beyond-classes"
    assert message.startswith(f"masks hold {stray}, which is no class")


@pytest.mark.parametrize(("size", "quality"), [(48, 90), (64, 75), (128, 90)])
def test_small_jpeg_masks_of_0_and_255_are_repaired(tmp_path: Path, size: int, quality: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        rows, columns = np.mgrid[:size, :size]
        centre, radius = rng.uniform(0.3 * size, 0.7 * size, 2), 0.3 * size
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
        Image.fromarray(np.where(disc, 255, 0).astype(np.uint8)).save(tmp_path / f"{number}.jpg", quality=quality)
    paths = sorted(tmp_path.glob("*.jpg"))
    looked = [(path, look_at(Look(Pair(path.stem, path, path), shapes=True)).mask) for path in paths]
    proposal = propose_encoding([(p, f) for p, f in looked if f is not None], read_description(tmp_path))
    assert errors(proposal) == []
    assert len(proposal.classes) == 2
