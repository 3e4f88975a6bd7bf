# SPDX-License-Identifier: Apache-2.0
"""``denseg check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from denseg.cli.output import DataArgument, JsonOption, SettingsOption, UnpairedOption, emit
from denseg.cli.progress import progress_bar

__all__ = ["check"]


HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="PATH", help="Write a page with pictures of what was found.", show_default=False),
]


FixOption = Annotated[
    Path | None,
    typer.Option("--fix", metavar="OUT", help="Write a clean copy to this new folder.", show_default=False),
]


def check(
    data: DataArgument,
    settings: SettingsOption = None,
    unpaired: UnpairedOption = None,
    json_path: JsonOption = None,
    html_path: HtmlOption = None,
    fix_path: FixOption = None,
) -> None:
    """Read every image and mask; say what is wrong and what will be done about it (exit 1 on what spoils training)."""
    from denseg.config import load_config
    from denseg.workflows.check import check as run
    from denseg.workflows.check import copy_json, copy_lines, examination_json, examination_lines, fix

    given = [*(settings or ()), *([f"data.unpaired={unpaired}"] if unpaired is not None else [])]
    config = load_config(None, given)
    with progress_bar("reading") as progress:
        examination = run(data, config=config.data, progress=progress)
    if html_path is not None:
        from denseg.report import write_check_page

        write_check_page(examination, html_path)
    lines, result = examination_lines(examination), examination_json(examination)
    if fix_path is not None:
        with progress_bar("writing") as progress:
            copy = fix(examination, fix_path, progress=progress)
        lines += copy_lines(copy)
        result["fix"] = copy_json(copy)
    emit(lines, result, json_path)
    if not examination.ok and fix_path is None:
        raise typer.Exit(1)
