# SPDX-License-Identifier: Apache-2.0
"""The page in a browser: no error, no request, usable by keyboard, readable in both themes and on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from denseg.report import write_report
from denseg.runs import RunFolder

pytestmark = pytest.mark.browser

# What a page must hold for everyone, read from the page itself: contrast of every text against what lies behind it
# (WCAG 1.4.3: 4.5, large text 3), names of controls, names of images and regions, one place for each id.
AUDIT = """
() => {
  const found = [];
  const seen = (element) => {
    const style = getComputedStyle(element);
    const box = element.getBoundingClientRect();
    return style.visibility !== "hidden" && style.display !== "none" && box.width > 1 && box.height > 1;
  };
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((value, at) => (at < 3 ? value : value / 255));
  };
  const over = (top, under) => [0, 1, 2].map((at) => top[at] * top[3] + under[at] * (1 - top[3])).concat(1);
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const light = ([red, green, blue]) => {
    const linear = [red, green, blue].map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const contrast = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !seen(element) || element.closest(".viewer, .spoken, script, svg")) continue;
    const style = getComputedStyle(element);
    const back = behind(element);
    const ratio = contrast(over(rgba(style.color), back), back);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    texts += 1;
    if (ratio < needed) found.push(`contrast ${ratio.toFixed(2)}: ${walker.currentNode.data.trim().slice(0, 40)}`);
    if (size < 12) found.push(`small ${size}: ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  const named = (element) =>
    element.getAttribute("aria-label") || element.labels?.[0]?.textContent.trim() || element.textContent.trim();
  const controls = "button, input, select, a[href], summary, [role=region], [role=group]";
  for (const element of document.querySelectorAll(controls)) {
    if (!named(element)) found.push(`no name: ${element.outerHTML.slice(0, 80)}`);
  }
  for (const image of document.querySelectorAll("img:not([alt])")) found.push(`no alt: ${image.outerHTML.slice(-80)}`);
  for (const box of document.querySelectorAll("*")) {
    const style = getComputedStyle(box);
    const scrolls = /auto|scroll/.test(style.overflowX) && box.scrollWidth > box.clientWidth + 1;
    if (scrolls && box.tabIndex < 0 && !box.matches("nav")) found.push(`scrolls, no tab stop: ${box.className}`);
  }
  if (document.documentElement.scrollWidth > innerWidth) {
    const beyond = (element) =>
      element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".scroll, .matrix, pre, dialog");
    const wide = [...document.querySelectorAll("main *")].filter(beyond);
    found.push(`wider than the screen: ${document.documentElement.scrollWidth}, ${wide[0]?.outerHTML.slice(0, 80)}`);
  }
  return [found, texts];
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api")
    executable = next(
        (path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).is_file()), None
    )
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync.sync_playwright() as playwright:
        if executable is None and not Path(playwright.chromium.executable_path).is_file():
            pytest.skip("no Chromium here")
        started = playwright.chromium.launch(executable_path=executable, args=flags)
        yield started
        started.close()


class Visit:
    """An open page that remembers what went wrong."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.faults: list[str] = []
        self.context = browser.new_context(**({"viewport": {"width": 1360, "height": 900}} | options))
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda request: self._requested(request.url))
        self.wanted = path.as_uri()
        self.page.goto(self.wanted)

    def _requested(self, url: str) -> None:
        if not url.startswith(("data:", self.wanted)):
            self.faults.append(f"request: {url[:100]}")

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def css(self, selector: str, name: str) -> str:
        return str(self.page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{name}"))


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def start(path: Path, **options: Any) -> Visit:
        visits.append(Visit(browser, path, **options))
        return visits[-1]

    yield start
    for one in visits:
        one.context.close()
        assert one.faults == []


@pytest.fixture(scope="module")
def street_page(street_run: RunFolder) -> Path:
    return write_report(street_run)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 768, 360])
def test_everyone_can_read_it(visit: Callable[..., Visit], street_page: Path, scheme: str, width: int) -> None:
    page = visit(street_page, color_scheme=scheme, viewport={"width": width, "height": 800}).page
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    found, texts = page.evaluate(AUDIT)
    assert found == []
    assert texts > 200


def test_the_theme_is_the_systems_until_chosen(visit: Callable[..., Visit], street_page: Path) -> None:
    shown = visit(street_page, color_scheme="dark")
    dark = shown.css("body", "backgroundColor")
    assert shown.text("[data-theme-toggle]") == "Light"
    shown.page.click("[data-theme-toggle]")
    light = shown.css("body", "backgroundColor")
    assert (dark, light) == ("rgb(13, 16, 21)", "rgb(245, 246, 248)")
    assert shown.page.get_attribute("[data-theme-toggle]", "aria-label") == "Switch to dark colours"


def test_the_table_sorts_by_each_column_both_ways(visit: Callable[..., Visit], street_page: Path) -> None:
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
    return list(page.locator("#confusion tbody tr").evaluate_all(rows))


def test_the_matrix_is_read_ordered_and_normalised(
    visit: Callable[..., Visit], street_page: Path, street_run: RunFolder
) -> None:
    page = visit(street_page).page
    value = street_run.evaluation("val")
    counts, names = value["confusion"], [entry["name"] for entry in value["classes"]]
    assert [row[0] for row in matrix(page)] == names

    page.locator("#confusion tbody td").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    sentence = page.locator("#confusion .sentence").inner_text()
    assert sentence.startswith(f"{names[1]} taken for {names[2]}: {counts[1][2]:,} pixels, ")

    page.get_by_role("radio", name="% of prediction").check()
    column = [row[1] for row in matrix(page)]
    total = sum(row[0] for row in counts)
    for text, row in zip(column, counts, strict=True):
        assert text == "·" or abs(int(text or 0) - 100 * row[0] / total) <= 0.5

    page.get_by_role("radio", name="worst first").check()
    ranked = sorted(range(len(names)), key=lambda at: value["classes"][at]["iou"])
    assert [row[0] for row in matrix(page)] == [names[at] for at in ranked]
    heads = page.locator("#confusion thead th").evaluate_all("heads => heads.map((head) => head.textContent)")
    assert heads == [names[at] for at in ranked]
    page.get_by_role("radio", name="pixels").check()
    page.get_by_role("radio", name="class table").check()
    assert [row[0] for row in matrix(page)] == names


def test_the_divider_follows_pointer_and_keys(visit: Callable[..., Visit], street_page: Path) -> None:
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


def test_what_lies_over_the_images_is_chosen(visit: Callable[..., Visit], street_page: Path) -> None:
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
    visit: Callable[..., Visit], street_page: Path, street_run: RunFolder
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


def test_an_image_is_enlarged_and_closed_by_keys(visit: Callable[..., Visit], street_page: Path) -> None:
    page = visit(street_page).page
    button = page.locator("[data-enlarge]").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    large = page.locator("dialog.large")
    assert large.is_visible()
    assert large.locator("h3").inner_text() == page.locator(".shot h4").nth(1).inner_text()
    box = large.locator(".viewer").bounding_box()
    assert box["width"] > page.locator(".shot .viewer").nth(1).bounding_box()["width"]
    assert box["y"] + box["height"] <= 900
    page.keyboard.press("ArrowLeft")
    assert large.locator(".viewer").evaluate("viewer => viewer.style.getPropertyValue('--at')") == "49%"
    page.keyboard.press("Escape")
    assert not large.is_visible()
    assert button.evaluate("button => button === document.activeElement")


def test_curves_are_read_by_pointer_and_keys(
    visit: Callable[..., Visit], street_page: Path, street_run: RunFolder
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


def test_a_command_is_copied(visit: Callable[..., Visit], street_page: Path) -> None:
    shown = visit(street_page, permissions=["clipboard-read", "clipboard-write"])
    button = shown.page.locator("[data-copy=command-1]")
    button.click()
    assert button.inner_text() in {"Copied", "Selected"}
    taken = shown.page.evaluate("navigator.clipboard.readText().catch(() => String(getSelection()))")
    assert taken == "denseg train street --model unet --out runs/street"


def test_the_tab_key_goes_down_the_page(visit: Callable[..., Visit], street_page: Path) -> None:
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


def test_the_contents_follow_the_page(visit: Callable[..., Visit], street_page: Path) -> None:
    page = visit(street_page, reduced_motion="reduce").page
    links = page.locator(".contents a")
    for index in range(links.count()):
        links.nth(index).click()
        page.wait_for_timeout(60)
        current = page.locator(".contents [aria-current]")
        assert current.count() == 1
        target = page.locator(str(links.nth(index).get_attribute("href")))
        assert 0 <= target.bounding_box()["y"] < 900


def test_the_page_reads_without_scripts(visit: Callable[..., Visit], street_page: Path) -> None:
    page = visit(street_page, java_script_enabled=False).page
    assert not page.locator(".controls").first.is_visible()
    assert page.locator("#confusion tbody td").first.inner_text() != ""
    assert page.locator(".viewer img").first.is_visible()
    assert not page.locator("[data-copy]").first.is_visible()


@pytest.mark.parametrize("epochs", [1, 2])
def test_odd_runs_have_no_errors(
    visit: Callable[..., Visit], tmp_path: Path, make_run: Callable[..., RunFolder], epochs: int
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
    page = visit(write_report(run), viewport={"width": 360, "height": 700}).page
    found, _ = page.evaluate(AUDIT)
    assert found == []
    assert re.search(r"mIoU of the \d images", page.locator("#images").inner_text())


def test_an_empty_run_has_no_errors(
    visit: Callable[..., Visit], tmp_path: Path, make_run: Callable[..., RunFolder]
) -> None:
    page = visit(write_report(make_run(tmp_path, splits=(), epochs=0))).page
    assert page.evaluate(AUDIT)[0] == []
