# SPDX-License-Identifier: Apache-2.0
"""What the documentation shows is run: its commands on a tiny folder, its Python, its links."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = {
    "cli.md",
    "configuration.md",
    "findings.md",
    "models.md",
    "benchmarks.md",
    "contributing.md",
    "changelog.md",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("denseg ")]


@pytest.fixture
def folder(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages speak of: photos, new_photos, other_photos, new.jpg."""
    shutil.copytree(tiny_data, tmp_path / "photos")
    shutil.copytree(tiny_data, tmp_path / "other_photos")
    shutil.copytree(tiny_data / "images" / "val", tmp_path / "new_photos")
    with Image.open(tiny_data / "images" / "val" / "val_000.png") as image:
        image.save(tmp_path / "new.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_work(
    page: Path, folder: Path, run_command: Callable[..., Any], tiny_settings: tuple[str, ...]
) -> None:
    for words in commands(page):
        if words[0] in {"demo", "compare"} or "imagenet" in words:  # minutes, and a download
            assert_parses(words)
            continue
        if words[0] == "train":
            words += [word for setting in tiny_settings for word in ("--set", setting)]
        result = run_command(*words)
        assert result.code == 0, (words, result.stderr)


def assert_parses(words: list[str]) -> None:
    import typer.main

    from denseg.cli.app import app

    command = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    command.make_context(words[0], list(words[1:])).close()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_works(
    page: Path, folder: Path, tiny_run: Path, tiny_settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from denseg.workflows import Segmenter

    shutil.copytree(tiny_run, folder / "run")
    monkeypatch.setattr(Segmenter, "train", lambda *_, out, **__: Segmenter.load(out))
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        if "target" in block:
            import torch

            names["target"] = torch.zeros(2, 321, 457, dtype=torch.int64)
        exec(compile(block, str(page), "exec"), names)  # noqa: S102 - the documentation's own code
    assert "labels" not in names or names["labels"].shape == (48, 64)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target and target not in GENERATED:
            assert (page.parent / target).exists(), target


def test_readme_fits_one_screen() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 130
