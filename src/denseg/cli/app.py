# SPDX-License-Identifier: Apache-2.0
"""The application: its commands, and what becomes of every error that one of them meets."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from denseg import __version__
from denseg.cli.check import check
from denseg.cli.compare import compare
from denseg.cli.demo import demo
from denseg.cli.eval import evaluate
from denseg.cli.export import export
from denseg.cli.inspect import inspect
from denseg.cli.models import models
from denseg.cli.output import complete_crf
from denseg.cli.predict import predict
from denseg.cli.train import train
from denseg.errors import DensegError

__all__ = ["app", "run"]

INTERRUPTED = 3

app = typer.Typer(
    name="denseg",
    help="Semantic segmentation: a folder of images and masks becomes a model you can trust.",
    epilog="Exit codes: 0 done, 1 the input is at fault, 2 wrong usage, 3 interrupted (resumable).",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="Train, evaluate and report on an embedded data set.")(demo)
app.command(short_help="Say what is wrong with a folder of images and masks.")(check)
app.command(short_help="Train a model on a folder of images and masks.")(train)
app.command("eval", short_help="Score a model on a folder.")(evaluate)
app.command(short_help="Label images of any size.")(predict)
app.command(short_help="Train several models on equal terms and test their difference.")(compare)
app.command(short_help="Write a model for other programs.")(export)
app.command(short_help="Say what a model costs.")(inspect)
app.command(short_help="List every model, layer, loss and backbone family.")(models)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"denseg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or set DENSEG_DEBUG=1).")
    ] = False,
) -> None:
    if debug:
        os.environ["DENSEG_DEBUG"] = "1"
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and turn whatever it meets into one line on stderr and an exit code.

    Args:
        arguments: What follows ``denseg``; ``sys.argv[1:]`` where omitted.

    Returns:
        The exit code.
    """
    code = _run(arguments)
    try:
        sys.stdout.flush()
    except OSError:  # a full disk, or a reader who has gone: told already, and the interpreter must not tell it again
        _discard_stdout()
        code = code or 1
    return code


def _run(arguments: Sequence[str] | None) -> int:
    try:
        words = complete_crf(sys.argv[1:] if arguments is None else arguments)
        code = app(args=words, prog_name="denseg", standalone_mode=False)
        # Typer answers Ctrl-C with the shell's 130; ours is "interrupted".
        return _fail("interrupted", INTERRUPTED) if code == 130 else int(code or 0)
    except DensegError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        return _fail(_usage_message(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except SystemExit as stop:  # Typer's answer to a reader who has gone: `head`, for example, has seen enough
        return int(stop.code or 0)
    except MemoryError:
        return _fail(_OUT_OF_MEMORY, 1)
    except Exception as error:  # whatever else escapes is our defect; the user still gets one line
        if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):  # torch's, unimported
            return _fail(_OUT_OF_MEMORY, 1)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return _fail("no space left on the disk; free some, or choose another folder with --out", 1)
        said = " ".join(str(error).split())[:300]
        return _fail(
            f"this is a defect of denseg, please report it: {type(error).__name__}: {said} "
            "(DENSEG_DEBUG=1 shows the traceback)",
            1,
        )


_OUT_OF_MEMORY = "out of memory; try a smaller --tile, train.batch_size or train.crop, or another --device"


def _usage_message(error: typer.TyperException) -> str:
    """Give Typer's complaint as one line that ends with the help to read."""
    message = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "denseg"
    stop = "" if message.endswith("?") else "."
    return f"{message[:1].lower()}{message[1:]}{stop} See {command} --help"


def _fail(message: str, code: int) -> int:
    if os.environ.get("DENSEG_DEBUG", "") not in {"", "0"} and sys.exc_info()[0] is not None:
        traceback.print_exc()
    sys.stderr.write(f"error: {' '.join(message.splitlines())}\n")
    return code


def _discard_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's own last flush cannot fail again."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - lives as long as the process
