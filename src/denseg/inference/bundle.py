# SPDX-License-Identifier: Apache-2.0
"""The runtime of exported models as one file: the modules that need numpy only, one behind the other."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from denseg import __version__

__all__ = ["runtime_source"]

MODULES = ("runtime", "strategy", "blocks", "postprocess", "portable")
"""In the order of their dependence. The first brings its own ``UsageError`` where there is no denseg."""


def runtime_source() -> str:
    """Give the text of ``denseg_runtime.py``.

    Returns:
        Python source that imports numpy, and onnxruntime when a model is opened.
    """
    parts = [
        "# SPDX-License-Identifier: Apache-2.0",
        f'"""Runs models exported by denseg {__version__} with numpy and onnxruntime, without denseg or torch."""',
        "",
        "from __future__ import annotations",
    ]
    for name in MODULES:
        found = importlib.util.find_spec(f"denseg.inference.{name}")
        if found is not None and found.origin is not None:
            parts.append(_body(Path(found.origin).read_text(encoding="utf-8")))
    return "\n".join(parts) + "\n"


def _body(source: str) -> str:
    """Leave out what a part of a larger file must not have: docstring, ``__future__``, imports of denseg, names."""
    lines = source.splitlines()
    dropped: set[int] = set()
    for number, node in enumerate(ast.parse(source).body):
        docstring = number == 0 and isinstance(node, ast.Expr)
        ours = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {"denseg", "__future__"}
        names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if docstring or ours or names or typing_only:
            dropped |= set(range(node.lineno - 1, node.end_lineno or node.lineno))
    kept = [line for number, line in enumerate(lines) if number not in dropped and not line.startswith("# SPDX")]
    return "\n".join(kept).rstrip()
