# SPDX-License-Identifier: Apache-2.0
"""The page of a check in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from denseg.data.doctor.doctor import examine
from denseg.report import write_check_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def check_page(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    data = tmp_path_factory.mktemp("checked") / "data"
    shutil.copytree(tiny_data, data)
    masks = sorted((data / "masks/train").iterdir())
    masks[0].write_bytes(masks[0].read_bytes()[:50])
    masks[1].unlink()
    return write_check_page(examine(data, workers=1), data.parent / "check.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 360])
def test_everyone_can_read_the_check(visit: Callable[..., Any], check_page: Path, scheme: str, width: int) -> None:
    found, texts = visit(check_page, color_scheme=scheme, viewport={"width": width, "height": 800}).audit()
    assert found == []
    assert texts > 50


def test_labels_are_read_under_the_pointer(visit: Callable[..., Any], check_page: Path) -> None:
    shown = visit(check_page)
    viewer = shown.page.locator(".viewer").last
    viewer.scroll_into_view_if_needed()
    name = shown.page.locator(".shot h3").last.inner_text()
    labels = np.asarray(Image.open(next(check_page.parent.glob(f"data/masks/*/{name}.png"))))
    box = viewer.bounding_box()
    for row, column in ((3, 5), (20, 40), (47, 63)):
        x, y = (column + 0.5) / labels.shape[1], (row + 0.5) / labels.shape[0]
        shown.page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        assert viewer.locator(".under").inner_text() == f"class_{labels[row, column]}"
    shown.page.get_by_role("radio", name="nothing").check()
    assert shown.css(".viewer .truth", "display") == "none"


def test_an_example_is_enlarged(visit: Callable[..., Any], check_page: Path) -> None:
    page = visit(check_page).page
    page.locator("[data-enlarge]").first.click()
    assert page.locator("dialog h2").inner_text() == page.locator(".shot h3").first.inner_text()
    page.get_by_role("button", name="Close").click()
    assert not page.locator("dialog").is_visible()


def test_classes_sort(visit: Callable[..., Any], check_page: Path) -> None:
    page = visit(check_page).page
    page.get_by_role("button", name="Pixels").click()
    cells = page.locator("#classes tbody td:last-child")
    keys = [int(key) for key in cells.evaluate_all("cells => cells.map((cell) => cell.dataset.sort)")]
    assert keys == sorted(keys, reverse=True)
