# SPDX-License-Identifier: Apache-2.0
"""Rules of the whole tree that no linter knows."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "denseg"
SOURCES = sorted(SOURCE.rglob("*.py"))
PYTHON = sorted(path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_every_file_states_its_licence(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    if lines and lines[0].startswith("#!"):
        del lines[0]
    assert lines[:1] == ["# SPDX-License-Identifier: Apache-2.0"]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_source_file_has_its_form(path: Path) -> None:
    tree = parse(path)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, "split the file"
    assert ast.get_docstring(tree), "a file says in its docstring what it holds"
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    assert futures, "from __future__ import annotations"
    assigned = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    assigned += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    assert "__all__" in {target.id for target in assigned if isinstance(target, ast.Name)}


FORBIDDEN_IMPORTS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "__import__",
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "yaml.load",
    "yaml.unsafe_load",
}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults_of(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN_IMPORTS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FORBIDDEN_IMPORTS:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            if dotted(node.func) in FORBIDDEN_CALLS:
                yield dotted(node.func)
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if (keyword.arg, value) in {("allow_pickle", True), ("weights_only", False), ("shell", True)}:
                    yield f"{keyword.arg}={value}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nothing_runs_what_a_file_says(path: Path) -> None:
    """No pickle, no eval, no shell: reading a checkpoint or a configuration can execute nothing."""
    assert list(faults_of(parse(path))) == []


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "eval('1')", "torch.load(p, weights_only=True)", "yaml.load(f)",
     "np.load(f, allow_pickle=True)", "subprocess.run(c, shell=True)"],
)  # fmt: skip
def test_the_check_above_sees(code: str) -> None:
    assert list(faults_of(ast.parse(code)))


def documented_functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Give the public functions and methods, each with the docstring in which its errors are listed."""
    for outer in tree.body:
        inner = outer.body if isinstance(outer, ast.ClassDef) else [outer]
        for node in inner:
            if not isinstance(node, ast.FunctionDef):
                continue
            text = ast.get_docstring(node) or ""
            if node.name == "__init__" and isinstance(outer, ast.ClassDef):
                text += ast.get_docstring(outer) or ""
            if (node.name == "__init__" or not node.name.startswith("_")) and ("Args:" in text or "Returns:" in text):
                yield node.name, node, text


def raised(function: ast.FunctionDef) -> set[str]:
    """Name the exception classes that a function's own body raises; what helpers raise is theirs to say."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and node.exc is not None:
            called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            name = dotted(called).rpartition(".")[2]
            if name[:1].isupper():
                names.add(name)
    return names


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_errors_are_documented(path: Path) -> None:
    missing = [
        f"{name}: {error}"
        for name, function, text in documented_functions(parse(path))
        for error in sorted(raised(function))
        if not re.search(rf"^\s*{error}:", text.partition("Raises:")[2], re.MULTILINE)
    ]
    assert missing == [], "list what a function raises under `Raises:`"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_expected_errors_are_ours(path: Path) -> None:
    """``raise ValueError`` would reach the user as a defect of denseg."""
    builtin = {"ValueError", "RuntimeError", "TypeError", "KeyError", "OSError", "Exception", "FileNotFoundError"}
    if path.parent.name == "config" or "\nfrom pydantic import" in path.read_text(encoding="utf-8"):
        builtin.remove("ValueError")  # what pydantic's validators raise, and it turns into its own
    faults = [
        f"{name}: {error}"
        for name, function, _ in documented_functions(parse(path))
        for error in raised(function) & builtin
    ]
    assert faults == []


def test_every_module_imports_and_keeps_its_promise() -> None:
    """Every name in ``__all__`` exists, and packages export what their files do."""
    for module in pkgutil.walk_packages([str(SOURCE)], "denseg."):
        if module.name == "denseg.__main__":
            continue
        loaded = importlib.import_module(module.name)
        missing = [name for name in loaded.__all__ if not hasattr(loaded, name)]
        assert missing == [], module.name
        assert len(set(loaded.__all__)) == len(loaded.__all__), module.name


def test_light_commands_import_no_torch() -> None:
    """`denseg --help` must answer at once, and the packages that promise to do without torch must keep it."""
    light = ["denseg.cli", "denseg.files", "denseg.types", "denseg.config", "denseg.runs", "denseg.report"]
    light.append("denseg.inference.runtime")
    for name in light:
        heavy = {"torch", "timm", "torchvision"}
        if name in {"denseg.cli", "denseg.files", "denseg.types"}:
            heavy |= {"pydantic", "yaml", "numpy", "rich"}
        code = f"import sys, {name}; print(sorted(sys.modules.keys() & {heavy!r}))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "[]", name


def test_one_version() -> None:
    from denseg import __version__

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert project["version"] == __version__
    assert f"\nversion: {__version__}\n" in citation


def test_data_sets_are_not_committed() -> None:
    """Real data belongs to its authors; the tree holds only pictures of our own procedural data."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    pictures = [
        line for line in listed.stdout.splitlines() if line.endswith((".png", ".jpg", ".jpeg", ".tif", ".tiff"))
    ]
    assert [line for line in pictures if not line.startswith("docs/images/")] == []
    large = [
        line
        for line in listed.stdout.splitlines()
        if (ROOT / line).is_file() and (ROOT / line).stat().st_size > 1_000_000
    ]
    assert large == []
