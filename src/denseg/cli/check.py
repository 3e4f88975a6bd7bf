# SPDX-License-Identifier: Apache-2.0
"""``denseg check``."""

from __future__ import annotations

import typer

from denseg.cli.output import DataArgument, JsonOption, SettingsOption, emit
from denseg.cli.progress import progress_bar

__all__ = ["check"]


def check(data: DataArgument, settings: SettingsOption = None, json_path: JsonOption = None) -> None:
    """Read every image and mask; say what is wrong and what will be done about it (exit 1 on what spoils training)."""
    from denseg.config import load_config
    from denseg.workflows.check import check as run
    from denseg.workflows.check import examination_json, examination_lines

    config = load_config(None, settings or ())
    with progress_bar("reading") as progress:
        examination = run(data, config=config.data, progress=progress)
    emit(examination_lines(examination), examination_json(examination), json_path)
    if not examination.ok:
        raise typer.Exit(1)
