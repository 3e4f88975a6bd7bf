# SPDX-License-Identifier: Apache-2.0
"""The page as a file: complete, alone, safe against what names may hold, and there for every state of a run."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from denseg.config import dump_config
from denseg.errors import OutputError, RunError
from denseg.report import write_report
from denseg.runs import RunFolder

VOID = {"meta", "link", "img", "input", "br", "rect", "circle", "path", "line"}


class Page(HTMLParser):
    """Tags in order, ids, headings and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.headings: list[int] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def page(street_run: RunFolder) -> str:
    path = write_report(street_run)
    assert path == street_run.path / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_page_loads_nothing(page: str) -> None:
    parsed = Page(page)
    for name in ("src", "href", "action", "poster", "srcset", "data"):
        assert all(value.startswith(("data:", "#")) for value in parsed.values(name)), name
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for tag, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert len(page.encode()) < 5_000_000


def test_the_markup_is_whole(page: str) -> None:
    parsed = Page(page)
    assert parsed.open == []
    ids = parsed.values("id")
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "data-copy"):
        assert set(parsed.values(name)) <= set(ids)
    assert {value[1:] for value in parsed.values("href") if value.startswith("#")} <= set(ids)
    assert all("alt" in attributes for tag, attributes in parsed.tags if tag == "img")
    assert parsed.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(parsed.headings, parsed.headings[1:], strict=False))
    tags = [tag for tag, _ in parsed.tags]
    assert [tags.count(name) for name in ("main", "nav", "h1", "footer")] == [1, 1, 1, 1]
    assert next(a["lang"] for tag, a in parsed.tags if tag == "html") == "en"


def test_the_page_tells_what_the_run_holds(page: str) -> None:
    text = " ".join(" ".join(Page(page).texts).split())
    for part in (
        "U-Net on street",
        "3 images of val look almost like images of train",
        "denseg train street --model unet --out runs/street",
        "--split val",
        "torch 2.10.0",
        "model.width",
        "Most frequent mistakes",
        "All settings",
        "Worst",
        "Typical",
        "Best",
    ):
        assert part in text, part


def test_the_configuration_on_the_page_replays_the_run(page: str, street_run: RunFolder) -> None:
    import html

    import yaml

    from denseg.config import load_config

    found = re.search(r'<pre id="config"[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert found
    assert load_config(base=yaml.safe_load(html.unescape(found[1]))) == street_run.config()


def test_names_cannot_break_out(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    evil = "</script><img src=x onerror=alert(1)>'\"&"
    run = make_run(
        tmp_path,
        images=3,
        epochs=2,
        names=(evil, "it's", 'so "called"', "a & b", "<b>", "ünï"),
        findings=[
            {"code": "x", "severity": "warning", "count": 1, "files": [evil], "message": evil, "action": evil},
        ],
    )
    page = write_report(run).read_text(encoding="utf-8")
    parsed = Page(page)
    assert parsed.open == []
    assert not any("onerror" in attributes for _, attributes in parsed.tags)
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert evil in parsed.values("data-sort")
    assert evil not in page


@pytest.mark.parametrize(("splits", "epochs"), [((), 0), ((), 1), (("val",), 0), (("val", "test"), 2)])
def test_every_state_of_a_run_has_a_page(
    tmp_path: Path, make_run: Callable[..., RunFolder], splits: tuple[str, ...], epochs: int
) -> None:
    parsed = Page(write_report(make_run(tmp_path, images=3, epochs=epochs, splits=splits)).read_text(encoding="utf-8"))
    links = {value for value in parsed.values("href") if value.startswith("#")}
    assert ("#training" in links) == (epochs > 0)
    assert ("#errors" in links) == ("#images" in links) == bool(splits)
    assert {"#summary", "#data", "#setup", "#replay"} <= links


def test_two_splits_are_compared(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path, images=2, epochs=1, splits=("val", "test"))
    assert "Scores by split" in write_report(run).read_text(encoding="utf-8")


def test_many_classes_stay_small(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    size = 150
    names = [f"class number {index}" for index in range(size)]
    run = make_run(
        tmp_path, images=3, epochs=60, names=names, colors=[(index, 255 - index, 7) for index in range(size)]
    )
    page = write_report(run).read_text(encoding="utf-8")
    assert page.count("<td") < 8000
    assert "144 classes left out: neither true nor predicted anywhere" in page
    assert len(page) < 2_000_000


def test_large_images_stay_under_the_limit(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    page = write_report(make_run(tmp_path, images=2, epochs=2, size=(1500, 2100)))
    assert page.stat().st_size < 5_000_000


def test_a_page_is_replaced_whole(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path, images=2, epochs=1)
    first = write_report(run.path).read_text(encoding="utf-8")
    assert write_report(str(run.path)).read_text(encoding="utf-8") == first
    assert not list(run.path.glob(".*.tmp"))


def test_no_run_no_page(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=re.escape(f"no run at {tmp_path}: the folder holds no run.json")):
        write_report(tmp_path)


def test_a_page_that_cannot_be_written(
    tmp_path: Path, make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    run = make_run(tmp_path, images=2, epochs=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"cannot write .*report\.html: no space left on the disk"):
        write_report(run)
    assert not run.report_path.exists()


def test_the_report_imports_no_torch() -> None:
    code = "import sys, denseg.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_samples_and_reasons_are_shown(tmp_path: Path, make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tmp_path / "run")
    page = write_report(run).read_text(encoding="utf-8")
    assert "Training samples as the network saw them" not in page
    run.samples_path.write_bytes(b"picture")
    environment = run.environment() | {
        "plan": [{"key": "train.batch_size", "value": 1, "reason": "4 training images & <few>"}]
    }
    (run.path / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    config = run.config()
    config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": 1})})
    (run.path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert f'src="data:image/webp;base64,{base64.b64encode(b"picture").decode()}"' in page
    assert "4 training images &amp; &lt;few&gt;" in page
