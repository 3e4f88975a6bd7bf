# SPDX-License-Identifier: Apache-2.0
"""The page in a browser: no error, no request, usable by keyboard, readable in both themes and on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from denseg.report import write_report
from denseg.runs import RunFolder

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def street_page(street_run: RunFolder) -> Path:
    return write_report(street_run)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 768, 360])
def test_everyone_can_read_it(visit: Callable[..., Any], street_page: Path, scheme: str, width: int) -> None:
    shown = visit(street_page, color_scheme=scheme, viewport={"width": width, "height": 800})
    found, texts = shown.audit()
    assert found == []
    assert texts > 200


def test_the_theme_is_the_systems_until_chosen(visit: Callable[..., Any], street_page: Path) -> None:
    shown = visit(street_page, color_scheme="dark")
    dark = shown.css("body", "backgroundColor")
    assert shown.text("[data-theme-toggle]") == "Light"
    shown.page.click("[data-theme-toggle]")
    light = shown.css("body", "backgroundColor")
    assert (dark, light) == ("rgb(13, 16, 21)", "rgb(245, 246, 248)")
    assert shown.page.get_attribute("[data-theme-toggle]", "aria-label") == "Switch to dark colours"


def test_the_table_sorts_by_each_column_both_ways(visit: Callable[..., Any], street_page: Path) -> None:
    page = visit(street_page).page
    heads = page.locator("#classes thead th:has(.sorter)")
    for index in range(heads.count()):
        head = heads.nth(index)
        words = head.get_attribute("data-kind") == "words"
        for order in ("ascending", "descending") if words else ("descending", "ascending"):
            head.locator(".sorter").focus()
            page.keyboard.press("Enter")
            assert head.get_attribute("aria-sort") == order
            cells = page.locator(f"#classes tbody tr > :nth-child({index + 1})")
            keys = [str(key) for key in cells.evaluate_all("cells => cells.map((cell) => cell.dataset.sort)")]
            wanted = sorted(keys, key=str.lower if words else float, reverse=order == "descending")  # type: ignore[arg-type]
            assert keys == wanted
    assert page.locator("#classes [aria-sort]").count() == 1


def matrix(page: Any) -> list[list[str]]:
    rows = "rows => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    return list(page.locator("#errors .matrix tbody tr").evaluate_all(rows))


def test_the_matrix_is_read_ordered_and_normalised(
    visit: Callable[..., Any], street_page: Path, street_run: RunFolder
) -> None:
    page = visit(street_page).page
    value = street_run.evaluation("val")
    counts, names = value["confusion"], [entry["name"] for entry in value["classes"]]
    assert [row[0] for row in matrix(page)] == names

    page.locator("#errors .matrix tbody td").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    sentence = page.locator("#errors .sentence").inner_text()
    assert sentence.startswith(f"{names[1]} taken for {names[2]}: {counts[1][2]:,} pixels, ")

    page.get_by_role("radio", name="% of prediction").check()
    column = [row[1] for row in matrix(page)]
    total = sum(row[0] for row in counts)
    for text, row in zip(column, counts, strict=True):
        assert text == "·" or abs(int(text or 0) - 100 * row[0] / total) <= 0.5

    page.get_by_role("radio", name="worst first").check()
    ranked = sorted(range(len(names)), key=lambda at: value["classes"][at]["iou"])
    assert [row[0] for row in matrix(page)] == [names[at] for at in ranked]
    heads = page.locator("#errors .matrix thead th").evaluate_all("heads => heads.map((head) => head.textContent)")
    assert heads == [names[at] for at in ranked]
    page.get_by_role("radio", name="pixels").check()
    page.get_by_role("radio", name="class table").check()
    assert [row[0] for row in matrix(page)] == names


def test_the_divider_follows_pointer_and_keys(visit: Callable[..., Any], street_page: Path) -> None:
    shown = visit(street_page)
    viewer = shown.page.locator(".viewer").first
    viewer.scroll_into_view_if_needed()
    box = viewer.bounding_box()
    shown.page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    at = float(viewer.evaluate("viewer => parseFloat(viewer.style.getPropertyValue('--at'))"))
    assert at == pytest.approx(25, abs=4)
    shown.page.keyboard.press("ArrowRight")
    shown.page.keyboard.press("ArrowRight")
    assert float(viewer.evaluate("viewer => parseFloat(viewer.style.getPropertyValue('--at'))")) == at + 2
    shown.page.keyboard.press("End")
    assert shown.css(".viewer .prediction", "clipPath") == "inset(0px 0px 0px 100%)"


def test_what_lies_over_the_images_is_chosen(visit: Callable[..., Any], street_page: Path) -> None:
    shown = visit(street_page)
    for view, visible in (
        ("truth", "truth"),
        ("prediction", "prediction"),
        ("errors", "errors"),
        ("nothing", ""),
        ("truth | prediction", "truth prediction"),
    ):
        shown.page.get_by_role("radio", name=view, exact=True).check()
        for layer in ("truth", "prediction", "errors"):
            assert (shown.css(f".viewer .{layer}", "display") != "none") == (layer in visible.split()), (view, layer)
    shown.page.locator("[data-strength]").fill("100")
    assert shown.css(".viewer .truth", "opacity") == "1"


def test_the_class_under_the_pointer_is_named(
    visit: Callable[..., Any], street_page: Path, street_run: RunFolder
) -> None:
    import numpy as np
    from PIL import Image

    page = visit(street_page).page
    viewer = page.locator(".viewer").first
    viewer.scroll_into_view_if_needed()
    stem = page.locator(".shot h4").first.inner_text()
    prediction = np.asarray(Image.open(street_run.prediction_path("val", stem)))
    data = Path(street_run.config().data.path or "")
    truth = np.asarray(Image.open(data / f"masks/val/{stem}.png"))
    names = street_run.classes().names
    box = viewer.bounding_box()
    height, width = truth.shape
    places = np.random.default_rng(0).permutation(np.argwhere(truth < 6))[:6]
    wrong = np.random.default_rng(0).permutation(np.argwhere((truth < 6) & (truth != prediction)))[:3]
    for row, column in [*places, *wrong, (0, 5)]:
        page.mouse.move(
            box["x"] + box["width"] * (column + 0.5) / width, box["y"] + box["height"] * (row + 0.5) / height
        )
        said = viewer.locator(".under").inner_text()
        right = names[truth[row, column]] if truth[row, column] < 6 else "no label"
        called = names[prediction[row, column]]
        assert said == (right if right == called else f"truth {right}, prediction {called}")


def test_an_image_is_enlarged_and_closed_by_keys(visit: Callable[..., Any], street_page: Path) -> None:
    page = visit(street_page).page
    button = page.locator("[data-enlarge]").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    large = page.locator("dialog.large")
    assert large.is_visible()
    assert large.locator("h2").inner_text() == page.locator(".shot h4").nth(1).inner_text()
    box = large.locator(".viewer").bounding_box()
    assert box["width"] > page.locator(".shot .viewer").nth(1).bounding_box()["width"]
    assert box["y"] + box["height"] <= 900
    page.keyboard.press("ArrowLeft")
    assert large.locator(".viewer").evaluate("viewer => viewer.style.getPropertyValue('--at')") == "49%"
    page.keyboard.press("Escape")
    assert not large.is_visible()
    assert button.evaluate("button => button === document.activeElement")


def test_curves_are_read_by_pointer_and_keys(
    visit: Callable[..., Any], street_page: Path, street_run: RunFolder
) -> None:
    page = visit(street_page).page
    rows = street_run.metrics()
    area = page.locator("#chart-score .area")
    area.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    said = " ".join(area.locator(".readout").inner_text().split())
    assert said.startswith(f"epoch 2 mIoU {float(rows[1]['val_miou'] or 0):.3f}")
    page.keyboard.press("Escape")
    assert not area.locator(".readout").is_visible()
    box = area.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 20)
    assert area.locator(".readout b").inner_text() == f"epoch {len(rows)}"
    readout = area.locator(".readout").bounding_box()
    assert readout["x"] >= box["x"]


def test_a_command_is_copied(visit: Callable[..., Any], street_page: Path) -> None:
    shown = visit(street_page, permissions=["clipboard-read", "clipboard-write"])
    button = shown.page.locator("[data-copy=command-1]")
    button.click()
    shown.page.wait_for_function("/Copied|Selected/.test(document.querySelector('[data-copy=command-1]').textContent)")
    taken = shown.page.evaluate("navigator.clipboard.readText().catch(() => String(getSelection()))")
    assert taken == "denseg train street --model unet --out runs/street"


def test_the_tab_key_goes_down_the_page(visit: Callable[..., Any], street_page: Path) -> None:
    page = visit(street_page).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    tops = []
    for _ in range(120):
        page.keyboard.press("Tab")
        place = page.evaluate(
            "() => { const e = document.activeElement; return e === document.body ? null :"
            " [e.closest('main') ? e.getBoundingClientRect().top + scrollY : 0, getComputedStyle(e).outlineStyle] }"
        )
        if place is None:
            break
        tops.append(place[0])
    assert len(tops) > 40
    assert all(after >= before - 450 for before, after in pairwise(tops)), "only to the top of the next card of a row"
    assert page.locator("[tabindex]:not([tabindex='0'], [tabindex='-1'])").count() == 0


def test_the_contents_follow_the_page(visit: Callable[..., Any], street_page: Path) -> None:
    page = visit(street_page, reduced_motion="reduce").page
    links = page.locator(".contents a")
    for index in range(links.count()):
        links.nth(index).click()
        page.wait_for_timeout(60)
        current = page.locator(".contents [aria-current]")
        assert current.count() == 1
        target = page.locator(str(links.nth(index).get_attribute("href")))
        assert 0 <= target.bounding_box()["y"] < 900


def test_the_page_reads_without_scripts(visit: Callable[..., Any], street_page: Path) -> None:
    page = visit(street_page, java_script_enabled=False).page
    assert not page.locator(".controls").first.is_visible()
    assert page.locator("#errors .matrix tbody td").first.inner_text() != ""
    assert page.locator(".viewer img").first.is_visible()
    assert not page.locator("[data-copy]").first.is_visible()


@pytest.mark.parametrize("epochs", [1, 2])
def test_odd_runs_have_no_errors(
    visit: Callable[..., Any], tmp_path: Path, make_run: Callable[..., RunFolder], epochs: int
) -> None:
    evil = "</script>'\"&<b>"
    run = make_run(
        tmp_path,
        images=9,
        epochs=epochs,
        names=("a" * 60, evil, "ünï", "d", "e", "f"),
        colors=[(0, 0, 0)] * 6,
        size=(7, 90),
    )
    shown = visit(write_report(run), viewport={"width": 360, "height": 700})
    assert shown.audit()[0] == []
    assert re.search(r"mIoU of the \d images", shown.page.locator("#images").inner_text())


def test_an_empty_run_has_no_errors(
    visit: Callable[..., Any], tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    assert visit(write_report(make_run(tmp_path, splits=(), epochs=0))).audit()[0] == []
