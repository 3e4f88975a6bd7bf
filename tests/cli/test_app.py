# SPDX-License-Identifier: Apache-2.0
"""The command line as a whole: speed, help, and one clear line for whatever goes wrong."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import denseg
from denseg.cli import main
from denseg.cli.app import app
from denseg.errors import DataError, InterruptedRunError, UsageError

Run = Callable[..., Any]
COMMANDS = ["demo", "check", "train", "eval", "predict", "compare", "export", "inspect", "models"]


def denseg_process(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "denseg", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_help_answers_at_once() -> None:
    """The least processor time of five, so that a busy machine does not decide."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = denseg_process("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert result.returncode == 0
    assert min(times) < 0.3
    assert all(f"\n  {command} " in result.stdout for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, run_command: Run) -> None:
    result = run_command(command, "--help")
    assert result.code == 0
    assert result.stdout.startswith(f"Usage: denseg {command} ")
    assert "--json PATH" in result.stdout


def test_no_command_shows_the_help(run_command: Run) -> None:
    result = run_command()
    assert result.code == 0
    assert result.stdout.startswith("Usage: denseg")


def test_version(run_command: Run) -> None:
    assert run_command("--version")[:2] == (0, f"denseg {denseg.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], r"no such command 'trian'\. Did you mean 'train'\? See denseg --help"),
        (["train"], r"missing argument 'DATA'\. See denseg train --help"),
        (["predict", "run"], r"missing argument 'INPUT\.\.\.'\. See denseg predict --help"),
        (["train", "d", "--bakbone", "x"], r"no such option: --bakbone.*--backbone.* See denseg train --help"),
        (["predict", "r", "i"], r"missing option '--out'\. See denseg predict --help"),
        (
            ["predict", "r", "i", "--out", "o", "--tile", "0"],
            r"invalid value for '--tile': .* See denseg predict --help",
        ),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str, run_command: Run) -> None:
    """The words between are Typer's and may change with it."""
    result = run_command(*arguments)
    assert result[:2] == (2, "")
    assert re.fullmatch(f"error: {message}\n", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "unet", "--size", "0x3"], "--size takes HxW in pixels, for example 512x768; got '0x3'"),
        (["inspect", "unet", "--size", "1x2x3"], "--size takes HxW in pixels, for example 512x768; got '1x2x3'"),
        (["check", "d", "--set", "data.vall=1"], "no setting named data.vall. Did you mean data.val_share?"),
    ],
)
def test_wrong_values_are_one_line(arguments: list[str], message: str, run_command: Run) -> None:
    assert run_command(*arguments) == (2, "", f"error: {message}\n")


def raising(error: BaseException) -> Callable[..., None]:
    def command(*_: object, **__: object) -> None:
        raise error

    return command


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


MEMORY = "out of memory; try a smaller --tile, train.batch_size or train.crop, or another --device"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("the folder x is empty"), 1, "the folder x is empty"),
        (UsageError("two\nlines"), 2, "two lines"),
        (InterruptedRunError("saved; go on with --resume"), 3, "saved; go on with --resume"),
        (KeyboardInterrupt(), 3, "interrupted"),
        (MemoryError(), 1, MEMORY),
        (OutOfMemoryError("CUDA out of memory"), 1, MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, MEMORY),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "no space left on the disk; free some, or choose another folder with --out",
        ),
        (
            KeyError("x"),
            1,
            "this is a defect of denseg, please report it: KeyError: 'x' (DENSEG_DEBUG=1 shows the traceback)",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_error_is_one_line(
    error: BaseException, code: int, message: str, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import denseg.workflows.check

    monkeypatch.setattr(denseg.workflows.check, "check", raising(error))
    assert run_command("check", "folder") == (code, "", f"error: {message}\n")


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_the_traceback(how: str, run_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import denseg.workflows.check

    monkeypatch.setattr(denseg.workflows.check, "check", raising(DataError("no such thing")))
    monkeypatch.setenv("DENSEG_DEBUG", "1" if how == "environment" else "0")
    result = run_command(*(["--debug"] if how == "option" else []), "check", "folder")
    monkeypatch.setenv("DENSEG_DEBUG", "0")
    assert result.code == 1
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: no such thing\n")


@pytest.mark.skipif(os.name != "posix", reason="pipes and /dev/full are POSIX")
@pytest.mark.parametrize("command", ["--help", "--version"])
def test_output_that_cannot_be_written(command: str) -> None:
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "denseg", command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 1
    assert re.fullmatch(r"error: no space left on the disk; .*\n", result.stderr)


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX")
def test_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "denseg", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (1, "")


def test_main_takes_the_arguments_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["denseg", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"denseg {denseg.__version__}\n"


def test_only_what_works_is_listed() -> None:
    import typer.main

    assert list(typer.main.get_command(app).commands) == COMMANDS  # type: ignore[attr-defined]


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_interrupt_while_importing(tmp_path: Path) -> None:
    """Broken-off imports must not decide how the command ends."""
    (tmp_path / "stops_here.py").write_text(
        "import os, signal, time\nexec('os.kill(os.getpid(), signal.SIGINT); time.sleep(9)')\n", encoding="utf-8"
    )
    code = "import sys, denseg.cli as c, denseg.cli.app as a; a.run = lambda _: __import__('stops_here'); "
    code += "sys.exit(c.main())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (3, "", "error: interrupted\n")


def test_the_callers_signal_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    assert main(["--version"]) == 0
    assert signal.getsignal(signal.SIGINT) is before
