# SPDX-License-Identifier: Apache-2.0
"""The page on data names every layout and every key of ``dataset.yaml``, and its example is valid."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from denseg.data.folders.description import Description
from denseg.data.folders.layouts.catalog import LAYOUTS


def test_data_page(repository: Path) -> None:
    text = (repository / "docs" / "data.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(LAYOUTS)
    example = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert set(example) == set(Description.model_fields) - {"path", "source"}
    description = Description.model_validate(example)
    assert [described.name for described in description.classes] == ["road", "car"]
