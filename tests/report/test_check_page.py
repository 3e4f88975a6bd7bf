# SPDX-License-Identifier: Apache-2.0
"""The page of a check: every finding with its files, and how the masks are read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseg.data.doctor.doctor import Examination, examine
from denseg.errors import OutputError
from denseg.report import write_check_page
from denseg.report.page import prose
from denseg.report.suspects import depth_words, example_shots, show_suspects

COLORS = ((1, 2, 3), (200, 0, 0), (0, 200, 0))


@pytest.fixture(scope="module")
def bad_data(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each: torn mask, text as image, other size, value beyond, no mask, no image."""
    data = tmp_path_factory.mktemp("bad") / "da<b>ta"
    shutil.copytree(tiny_data, data)
    (data / "dataset.yaml").write_text("classes: [road, 'sk<i>y', car]\n", encoding="utf-8")
    masks, images = sorted((data / "masks/train").iterdir()), sorted((data / "images/train").iterdir())
    for index in range(4, 6):
        shutil.copy(images[0], data / f"images/train/train_00{index}.png")
        shutil.copy(masks[0], data / f"masks/train/train_00{index}.png")
    masks[0].write_bytes(masks[0].read_bytes()[:60])
    images[1].write_text("no picture")
    Image.open(masks[2]).resize((20, 15)).save(masks[2])
    values = np.array(Image.open(masks[3]))
    values[0, :4] = 77
    Image.fromarray(values).save(masks[3])
    (data / "masks/train/train_004.png").unlink()
    (data / "images/train/train_005.png").unlink()
    return data


@pytest.fixture(scope="module")
def bad_examination(bad_data: Path) -> Examination:
    return examine(bad_data, workers=1)


def test_every_finding_is_on_the_page(bad_examination: Examination, tmp_path: Path) -> None:
    page = write_check_page(bad_examination, tmp_path / "check.html").read_text(encoding="utf-8")
    assert {finding.code for finding in bad_examination.findings} >= {
        "image-unreadable",
        "mask-unreadable",
        "size-mismatch",
        "image-without-mask",
        "mask-without-image",
    }
    for finding in bad_examination.findings:
        assert f"{finding.code}," in page or f"{finding.code}<" in page
    assert "not ready" in page
    assert re.search(r"\d errors: training would not start", page)
    assert "<b>ta" not in page, "names are escaped"
    assert "sk<i>y" not in page
    assert len(page) < 1_000_000


def test_files_are_shown_beside_their_partners(bad_examination: Examination) -> None:
    shown = show_suspects(bad_examination)
    by_code = {bad_examination.findings[place].code: suspects for place, suspects in shown.items()}
    image, mask = by_code["image-unreadable"][0].panels
    assert (image.picture, mask.title) == ("", "mask")
    assert image.words.startswith("Cannot be read as a picture")
    assert mask.picture.startswith("data:image/png;base64,")
    image, mask = by_code["size-mismatch"][0].panels
    assert image.words == "64 x 48 pixels, 8 bit"
    assert mask.words == "20 x 15 pixels, numbers"
    assert [panel.title for panel in by_code["image-without-mask"][0].panels] == ["image"]
    assert [panel.title for panel in by_code["mask-without-image"][0].panels] == ["mask"]
    assert by_code["mask-unreadable"][0].name == "masks/train/train_000.png"


def test_a_value_that_is_no_class_is_named_first(bad_examination: Examination) -> None:
    shown = show_suspects(bad_examination)
    place = next(at for at, finding in enumerate(bad_examination.findings) if finding.code == "values-beyond-classes")
    values = shown[place][0].panels[1].values
    assert values[0][1:] == ("77 (no class)", "0.1%")
    assert {value for _, value, _ in values[1:]} == {"0", "1", "2"}


@pytest.mark.parametrize("kind", ["color", "palette", "float", "many"])
def test_masks_of_every_kind_are_shown(tmp_path: Path, make_pairs: Callable[..., Path], kind: str) -> None:
    data = make_pairs(tmp_path / "data", {"": 3})
    for path in (data / "masks").iterdir():
        labels = np.asarray(Image.open(path))
        if kind == "color":
            Image.fromarray(np.array([(9, 9, 9), (250, 0, 0), (0, 0, 250)], np.uint8)[labels]).save(path)
        elif kind == "palette":
            picture = Image.fromarray(labels)
            picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
            picture.save(path)
        elif kind == "float":
            path.unlink()
            Image.fromarray(labels.astype(np.float32) * 0.37).save(path.with_suffix(".tif"))
        else:
            Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)).save(path)
    examination = examine(data, workers=1)
    (tmp_path / "data/images" / "lone.png").write_bytes((data / "images/image_000.png").read_bytes())
    page = write_check_page(examination, tmp_path / "check.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    suspects = show_suspects(examination)
    assert all(panel.picture for group in suspects.values() for one in group for panel in one.panels)


def test_good_data_is_ready(tiny_data: Path, tmp_path: Path) -> None:
    examination = examine(tiny_data, workers=1)
    page = write_check_page(examination, tmp_path / "check.html").read_text(encoding="utf-8")
    assert "ready to train</span>" in page
    shots = example_shots(examination, COLORS)
    assert len(shots) == 6
    assert all(shot.truth and shot.photo and not shot.prediction for shot in shots)
    assert re.fullmatch(r"class_\d \d+%, class_\d \d+%, class_\d \d+%", shots[0].words) or "%" in shots[0].words


def test_many_files_give_few_pictures(tmp_path: Path, make_pairs: Callable[..., Path]) -> None:
    data = make_pairs(tmp_path / "data", {"": 24})
    for path in sorted((data / "masks").iterdir())[:20]:
        path.unlink()
    examination = examine(data, workers=1)
    assert all(len(group) <= 4 for group in show_suspects(examination).values())
    page = write_check_page(examination, tmp_path / "check.html").read_text(encoding="utf-8")
    assert page.count("image_0") >= 20, "all names are listed"


def test_a_folder_that_cannot_be_written(bad_examination: Examination, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*check\.html"):
        write_check_page(bad_examination, tmp_path / "absent" / "check.html")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("add `group` to it", "Add <code>group</code> to it"),
        ("/data/x/masks/a.png is torn", "Masks/a.png is torn"),
        ("a <b> & `<i>`", "A &lt;b&gt; &amp; <code>&lt;i&gt;</code>"),
        ("one ` alone <", "One ` alone &lt;"),
        ("read 0 -> sky, 1 -> road", "Read 0 → sky, 1 → road"),
        ("", ""),
    ],
)
def test_prose(text: str, html: str) -> None:
    assert str(prose(text, "/data/x/")) == html


def test_depth_words() -> None:
    assert [depth_words(name) for name in ("uint8", "uint16", "float32", "int8")] == [
        "8 bit",
        "16 bit",
        "floating point",
        "int8",
    ]
