# SPDX-License-Identifier: Apache-2.0
"""Pictures of set difficulty: what is asked for is measured in what is drawn."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from denseg.data.doctor.doctor import examine
from denseg.data.generated.controlled import (
    BRIGHT,
    DARK,
    GROUND,
    SCENE_CLASSES,
    SceneOptions,
    draw_scene,
    write_scene_dataset,
)
from denseg.errors import UsageError

ALONE = SceneOptions(gap=0, hole=0, cue_distance=20, size=160)
PAIRS = SceneOptions(gap=9, hole=10, cue_distance=24, size=192)


def scenes(options: SceneOptions, count: int = 12) -> list[Any]:
    return [draw_scene(np.random.default_rng((0, number)), options) for number in range(count)]


def test_a_seed_gives_the_same_picture_and_another_seed_another() -> None:
    first, again, other = (draw_scene(np.random.default_rng(seed), ALONE) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert (first.labels != other.labels).any()


@pytest.mark.parametrize("diameter", [10, 26, 40])
def test_objects_have_their_size_and_stand_alone(diameter: float) -> None:
    for scene in scenes(replace(ALONE, object_size=diameter, size=200)):
        parts, count = ndimage.label(scene.labels > GROUND)
        assert count == len(scene.groups) >= 1
        areas = np.bincount(parts.ravel())[1:]
        np.testing.assert_allclose(areas, math.pi * diameter**2 / 4, rtol=0.1)


@pytest.mark.parametrize("gap", [3, 9])
def test_pairs_are_parted_by_their_gap(gap: float) -> None:
    for scene in scenes(replace(PAIRS, gap=gap, hole=0)):
        parts, count = ndimage.label(scene.labels > GROUND, np.ones((3, 3)))
        assert count == 2 * len(scene.groups)
        for group in scene.groups:
            first, second = (parts[int(row), int(column)] for row, column in group.centers)
            between = ndimage.distance_transform_edt(parts != first)[parts == second].min()
            assert abs(between - 1 - gap) < 1.5  # from pixel centre to pixel centre is one more than the ground between


@pytest.mark.parametrize("hole", [6, 14])
def test_objects_have_their_hole(hole: float) -> None:
    for scene in scenes(replace(PAIRS, hole=hole)):
        objects = scene.labels > GROUND
        inside = ndimage.binary_fill_holes(objects) & ~objects
        _, count = ndimage.label(inside)
        assert count == 2 * len(scene.groups)
        assert abs(inside.sum() / count / (math.pi * hole**2 / 4) - 1) < 0.2


@pytest.mark.parametrize("options", [ALONE, PAIRS, replace(PAIRS, cue_distance=40)])
def test_the_cue_lies_at_its_distance_and_is_nearest_to_its_own_objects(options: SceneOptions) -> None:
    for scene in scenes(options):
        for group in scene.groups:
            row, column = (int(value) for value in group.cue)
            assert scene.labels[row, column] == GROUND
            spot = scene.image[row - 1 : row + 2, column - 1 : column + 2].mean()
            assert spot > 200 if group.label == BRIGHT else spot < 60
            for center in group.centers:
                assert math.dist(center, group.cue) - options.object_size / 2 == pytest.approx(options.cue_distance)
                others = [other.cue for other in scene.groups if other is not group]
                assert all(math.dist(center, cue) > math.dist(center, group.cue) + 5 for cue in others)


def test_inside_the_object_nothing_tells_its_class_unless_the_distance_is_0() -> None:
    def means(options: SceneOptions) -> dict[int, float]:
        grey: dict[int, list[float]] = {BRIGHT: [], DARK: []}
        for scene in scenes(options, 60):
            for label, values in grey.items():
                values += scene.image[scene.labels == label].astype(float).tolist()
        return {label: float(np.mean(values)) for label, values in grey.items()}

    far, near = means(ALONE), means(replace(ALONE, cue_distance=0))
    assert abs(far[BRIGHT] - far[DARK]) < 1
    assert near[BRIGHT] - near[DARK] > 80


def test_both_classes_come_equally_often() -> None:
    labels = [group.label for scene in scenes(ALONE, 100) for group in scene.groups]
    assert 0.4 < labels.count(BRIGHT) / len(labels) < 0.6


def test_a_data_set_is_an_ordinary_folder(tmp_path: Path) -> None:
    folder = write_scene_dataset(tmp_path / "x", SceneOptions(), images={"train": 3, "val": 2}, seed=5)
    examination = examine(folder)
    assert examination.ok
    assert sorted(path.name for path in (folder / "images" / "val").iterdir()) == ["scene_0003.png", "scene_0004.png"]
    stored = np.asarray(Image.open(folder / "masks" / "train" / "scene_0001.png"))
    np.testing.assert_array_equal(stored, draw_scene(np.random.default_rng((5, 1)), SceneOptions()).labels)
    assert "cue_distance 14" in (folder / "dataset.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert len(SCENE_CLASSES) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"object_size": 3.0}, "a scene needs objects of at least 4 pixels, a group, and no negative length; got "),
        ({"gap": -1.0}, "a scene needs objects of at least 4 pixels, a group, and no negative length; got "),
        ({"hole": 24.0}, "a hole of 24 pixels leaves nothing of an object of 26"),
        (
            {"cue_distance": 2.0},
            "a cue that touches neither object lies at least 4 pixels away, got 2; 0 puts it into the object",
        ),
        ({"size": 50}, "such a group needs a picture of 59 pixels, got 50"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        replace(SceneOptions(), **change)
