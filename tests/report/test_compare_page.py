# SPDX-License-Identifier: Apache-2.0
"""The page of a comparison: its words, its tests, its pictures, and the browser that shows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from denseg.report import write_compare_page
from denseg.report.compare_page import render_compare_page
from denseg.report.scatter import pareto_front, scatter

NAMES = ("unet", "deeplab_v3_plus@resnet50", "fcn<b>")


def row(name: str, miou: float, cost: int) -> dict[str, Any]:
    value = {"mean": miou, "low": miou - 0.03, "high": miou + 0.02, "seeds": [miou]}
    return {
        "name": name,
        "miou": value,
        "boundary": value | {"mean": miou - 0.1, "low": miou - 0.15, "high": miou - 0.05},
        "continuity": None if name == "unet" else value,
        "parameters": cost * 1_000_000,
        "macs": cost * 10**9,
        "latency": cost / 100,
        "memory": cost * 2**27,
        "images_per_second": 30.5 / cost,
        "training_memory": None,
    }


def paired(first: str, second: str, difference: float, p: float) -> dict[str, Any]:
    return {
        "first": first,
        "second": second,
        "score": "miou",
        "difference": difference,
        "low": difference - 0.02,
        "high": difference + 0.02,
        "p_value": p,
        "smallest_difference": 0.028,
        "adjusted": p,
    }


def document(**values: Any) -> dict[str, Any]:
    rows = [row(NAMES[1], 0.71, 26), row(NAMES[0], 0.70, 7), row(NAMES[2], 0.55, 30)]
    tests = [
        paired(NAMES[0], NAMES[1], 0.01, 0.4),
        paired(NAMES[0], NAMES[2], -0.15, 0.0002),
        paired(NAMES[1], NAMES[2], -0.16, 0.0002),
    ]
    return {"split": "test", "images": 101, "rows": rows, "tests": tests} | values


def test_the_front_is_what_nothing_beats_in_both() -> None:
    assert pareto_front([(1, 0.5), (2, 0.7), (3, 0.6), (2, 0.6), (1, 0.5)]) == (True, True, False, False, True)
    picture = scatter(
        "k", "t", [("a", 10.0, 0.5, 0.4, 0.6), ("b", None, 0.9, 0.8, 1.0), ("c", 1000.0, 0.7, 0.6, 0.8)],
        write=str, unit="u",
    )  # fmt: skip
    assert picture is not None
    assert [dot.name for dot in picture.dots] == ["a", "c"]
    a, c = picture.dots
    assert (c.x - a.x) == pytest.approx(100 * 2 / __import__("math").log10(picture.x.high / picture.x.low), abs=0.01)
    assert a.low < a.y < a.high
    assert scatter("k", "t", [("a", 10.0, 0.5, 0.4, 0.6)], write=str, unit="u") is None


def test_it_says_what_is_clear_and_what_is_not() -> None:
    page = render_compare_page(document(), name="road")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "Of 3 candidates, deeplab_v3_plus@resnet50 scores best: mIoU 0.710 (95% interval 0.680 to 0.730)" in text
    assert "It is clearly better than fcn&lt;b&gt;." in text
    assert "Against unet the difference is not clear: these images show differences from about 0.028 on." in text
    assert "These networks, not these ways to train" in text
    assert "The scores lean high" not in text
    assert "The scores lean high" in render_compare_page(document(split="val"), name="road")
    assert "Few images" in render_compare_page(document(images=5), name="road")
    assert page.count('class="card chart scatter"') == 4
    assert "<b>fcn" not in page


def test_each_pair_is_seen_from_both_sides() -> None:
    page = render_compare_page(document(), name="road")
    table = page[page.index('<table class="pairs">') :]
    cells = re.findall(r"<td class=\"number\"[^>]*>(.*?)</td>", table[: table.index("</table>")])
    shown = [re.sub(r"<br>.*", "", cell).replace("<b>", "").replace("</b>", "") for cell in cells]
    assert shown[1::3][:1] == ["+0.010"]
    assert shown[3] == "-0.010"
    assert shown[2] == "+0.160"
    assert shown[6] == "-0.160"
    assert "p &lt; 0.001" in cells[2]
    assert "<b>" in cells[2]
    assert "<b>" not in cells[1]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 360])
def test_everyone_can_read_it(visit: Callable[..., Any], tmp_path: Path, scheme: str, width: int) -> None:
    page = write_compare_page(document(), tmp_path / "report.html")
    shown = visit(page, color_scheme=scheme, viewport={"width": width, "height": 800})
    found, texts = shown.audit()
    assert found == []
    assert texts > 60
    shown.page.locator("#scores .sorter").nth(4).click()
    first = shown.page.locator("#scores tbody tr th").first.inner_text()
    assert first == NAMES[2], "most parameters first"
