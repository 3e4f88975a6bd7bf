# SPDX-License-Identifier: Apache-2.0
"""The pages about papers: each names a model, and what the program adds is there."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from docs.paper_pages import complete_page, network_picture

from denseg.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "papers").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_completed_from_the_program(page: Path) -> None:
    text = complete_page(page.read_text(encoding="utf-8"))
    assert text.startswith("# ")
    for heading in ("## The network", "## Departures", "## Source"):
        assert text.count(f"\n{heading}\n") == 1
    assert "**differs**" not in text, "a figure of the paper is not reached"
    assert "https://" in text
    for target in re.findall(r"\]\(([^)#\s]+\.md)", text):
        name = (page.parent / target).resolve().relative_to(ROOT / "docs").as_posix()
        assert (ROOT / "docs" / name).exists() or name in {"benchmarks.md", "models.md", "cli.md", "configuration.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_its_model_and_stands_in_the_navigation(page: Path) -> None:
    head = yaml.safe_load(page.read_text(encoding="utf-8").split("---")[1])
    assert head["model"] in MODELS
    assert f"papers/{page.name}" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_the_picture_shows_what_runs() -> None:
    svg = ElementTree.fromstring(network_picture("hdnet", {"backbone": "test_resnet"}))  # noqa: S314 - our own
    titles = [element.text for element in svg.iter("title")]
    assert titles[0] == "image: input, 3 channels, 512x512"
    assert "spatial.1: LocationAwareAttention, 24 channels, 64x64" in titles
    assert titles[-1] == "classifier: Conv2d, 21 channels, 64x64"
    paper = network_picture("unet", {"form": "paper", "in_channels": 1, "num_classes": 2}, side=572)
    assert "image: input, 1 channels, 572x572" in paper
    assert "388x388" in paper


def test_a_page_without_front_matter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a page of docs/papers begins with front matter that names its model$"):
        complete_page("# Title\n")
