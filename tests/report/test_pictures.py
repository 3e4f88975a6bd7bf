# SPDX-License-Identifier: Apache-2.0
"""Which images are shown, and what of them is left when files are gone."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from denseg.report import pictures
from denseg.report.facts import read_facts
from denseg.report.pictures import choose, take_shots
from denseg.report.sources import Sources, find_file
from denseg.runs import RunFolder

COLORS = ((128, 64, 128), (128, 0, 0), (128, 128, 128), (128, 128, 0), (64, 0, 128), (192, 192, 128))


def entries(scores: list[float | None]) -> list[dict[str, Any]]:
    return [{"stem": f"s{index:02d}", "miou": value} for index, value in enumerate(scores)]


def test_worst_typical_and_best() -> None:
    groups = {
        key: [entry["miou"] for entry in chosen]
        for key, _, chosen in choose(entries([i / 100 for i in range(40, 0, -1)]))
    }
    assert groups == {
        "worst": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06],
        "typical": [0.2, 0.21, 0.22],
        "best": [0.4, 0.39, 0.38],
    }


@pytest.mark.parametrize("amount", range(13, 20))
def test_no_image_is_shown_twice(amount: int) -> None:
    stems = [entry["stem"] for _, _, chosen in choose(entries([0.5] * amount)) for entry in chosen]
    assert len(stems) == len(set(stems)) == 12


def test_few_images_are_all_shown_and_those_without_score_are_not() -> None:
    (key, title, chosen), *rest = choose(entries([0.9, None, 0.1]))
    assert (key, title, rest) == ("all", "All images, worst first", [])
    assert [entry["stem"] for entry in chosen] == ["s02", "s00"]
    assert choose(entries([None])) == ()
    assert choose([]) == ()


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA"))


def test_a_shot_shows_what_the_files_hold(street_run: RunFolder) -> None:
    facts = read_facts(street_run)
    shot = take_shots(facts, COLORS)[0].shots[0]
    table = np.zeros((256, 4), np.uint8)
    table[:6] = [(*color, 255) for color in COLORS]
    data = Path(facts.config.data.path or "")
    truth = np.asarray(Image.open(data / f"masks/val/{shot.stem}.png"))
    prediction = np.asarray(Image.open(street_run.prediction_path("val", shot.stem)))
    known = truth < 6
    np.testing.assert_array_equal(pixels(shot.truth)[known], table[truth][known])
    assert not pixels(shot.truth)[~known][:, 3].any()
    np.testing.assert_array_equal(pixels(shot.prediction), table[prediction])
    np.testing.assert_array_equal(pixels(shot.errors)[..., 3] > 0, known & (truth != prediction))
    assert (shot.width, shot.height) == (128, 96)
    wrong = (known & (truth != prediction)).sum() / known.sum()
    assert shot.words.startswith(f"{100 * wrong:.{1 if wrong < 0.1 else 0}f}% of its pixels are wrong, most often ")


def test_files_that_are_gone_leave_the_prediction(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path, images=4, epochs=1)
    facts = read_facts(run)
    data = Path(facts.config.data.path or "")
    first, second, third, fourth = (f"val_00{index}" for index in range(4))
    (data / f"images/val/{first}.png").unlink()
    (data / f"masks/val/{second}.png").write_bytes(b"torn")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(data / f"masks/val/{third}.png")
    run.prediction_path("val", fourth).unlink()
    shots = {shot.stem: shot for group in take_shots(facts, COLORS) for shot in group.shots}
    assert set(shots) == {first, second, third}
    assert shots[first].photo == ""
    assert shots[first].words.startswith("The image cannot be read any more. ")
    assert shots[second].truth == shots[second].errors == ""
    assert shots[second].words == "The mask cannot be read any more."
    assert shots[second].photo
    assert shots[third].truth == ""
    assert all(shot.prediction for shot in shots.values())


def test_no_data_folder_at_all(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path, images=2, epochs=1)
    (tmp_path / "street").rename(tmp_path / "elsewhere")
    shots = take_shots(read_facts(run), COLORS)[0].shots
    assert [shot.words for shot in shots] == ["The image and the mask cannot be read any more."] * 2


def test_pictures_shrink_until_they_fit(street_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = read_facts(street_run)
    monkeypatch.setattr(pictures, "_BUDGET", 60_000)
    shots = [shot for group in take_shots(facts, COLORS) for shot in group.shots]
    assert 64 <= max(max(shot.width, shot.height) for shot in shots) < 128
    assert sum(len(shot.photo + shot.truth + shot.prediction + shot.errors) for shot in shots) <= 60_000


def test_a_file_is_found_from_where_the_run_began(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path, images=2, epochs=1, config={"data": {"path": "street"}})
    facts = read_facts(run)
    assert find_file(facts, "images/val/val_000.png") is None
    began = facts.__class__(**(facts.__dict__ | {"environment": {"folder": str(tmp_path)}}))
    assert find_file(began, "images/val/val_000.png") == tmp_path / "street/images/val/val_000.png"
    assert find_file(facts, str(tmp_path / "street/images/val/val_000.png")) is not None


def test_pictures_never_shrink_to_nothing(street_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_BUDGET", 1)
    shots = take_shots(read_facts(street_run), COLORS)[0].shots
    assert {max(shot.width, shot.height) for shot in shots} == {64}


def test_pages_and_windows_of_an_entry_are_read(make_run: Callable[..., RunFolder], tmp_path: Path) -> None:
    facts = read_facts(make_run(tmp_path))
    stack = np.stack([np.full((12, 16), page, np.uint8) for page in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    tifffile.imwrite(tmp_path / "large.tif", ramp, tile=(32, 32))
    sources = Sources(facts, "val")
    where = {"stem": "s", "image": str(tmp_path / "stack.tif"), "mask": str(tmp_path / "stack.tif")}
    for page in range(3):
        entry = where | {"image_page": page, "mask_page": page, "window": None}
        image, truth = sources.image(entry), sources.truth(entry)
        assert image is not None
        assert truth is not None
        assert (image == page).all()
        assert (truth == page).all()
    part = sources.image(where | {"image": str(tmp_path / "large.tif"), "window": [8, 40, 20, 16]})
    assert part is not None
    np.testing.assert_array_equal(part[..., 0], ramp[8:28, 40:56])
    assert sources.image(where) is not None  # an evaluation of an older run names neither
