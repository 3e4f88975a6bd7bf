# SPDX-License-Identifier: Apache-2.0
"""`denseg demo` as a user runs it: what it promises is what it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_keeps_its_promise(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "denseg", "demo", "--out", str(tmp_path / "demo"), "--json", "-"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["test"]["miou"] >= 0.85
    assert document["test"]["baseline_miou"] < 0.4
    assert min(row["iou"] for row in document["test"]["classes"]) > 0.6
    assert Path(tmp_path, document["report"]).stat().st_size < 5_000_000
    assert "Traceback" not in result.stderr
