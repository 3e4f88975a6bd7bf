# SPDX-License-Identifier: Apache-2.0
"""Every model and layer file says where it comes from, where it departs from it, and what it costs."""

from __future__ import annotations

import inspect
import re
import sys
from types import ModuleType

import pytest

from denseg.layers.catalog import LAYERS
from denseg.models import MODELS

SECTIONS = ["Paper:", "Reference code:", "Departures from the paper:", "Cost:"]


def modules() -> list[ModuleType]:
    classes: list[type] = list(LAYERS.values())
    for entry in MODELS.values():
        classes += [network for network in (entry.modern, entry.paper) if network is not None]
    return [sys.modules[name] for name in sorted({cls.__module__ for cls in classes})]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_the_header_has_its_sections_in_order(module: ModuleType) -> None:
    lines = inspect.getdoc(module).splitlines()  # type: ignore[union-attr]
    found = [line for line in lines if line in SECTIONS]
    assert found == SECTIONS
    for section in SECTIONS:
        assert lines[lines.index(section) + 1].startswith("    "), f"{section} says nothing"
    assert any(line.startswith("Shape letters:") for line in lines)


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_the_paper_is_named_with_title_year_and_link(module: ModuleType) -> None:
    text = inspect.getdoc(module) or ""
    paper = text[text.index("Paper:") : text.index("Reference code:")]
    assert re.search(r'"[^"]+"', paper) or paper.split()[1:5] == ["None", "of", "its", "own:"], "a title in quotes"
    assert re.search(r"\b(19|20)\d\d\b|\b\d{4}\.\d{4,5}\b", paper), "a year, or an arXiv number that tells it"
    assert "https://" in paper, "a link"
