# SPDX-License-Identifier: Apache-2.0
"""``denseg check --html``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_check_writes_its_page(tiny_data: Path, tmp_path: Path, run_command: Callable[..., Any]) -> None:
    page = tmp_path / "check.html"
    result = run_command("check", tiny_data, "--html", page)
    assert result.code == 0, result.stderr
    assert "ready to train</span>" in page.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_is_one_line(
    tiny_data: Path, tmp_path: Path, run_command: Callable[..., Any]
) -> None:
    page = tmp_path / "absent" / "check.html"
    result = run_command("check", tiny_data, "--html", page)
    assert result.code == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: cannot write {page}: ")
    assert "Traceback" not in result.stderr
