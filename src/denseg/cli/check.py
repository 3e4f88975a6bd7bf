# SPDX-License-Identifier: Apache-2.0
"""``denseg check``."""

from __future__ import annotations

import typer

from denseg.cli.output import DataArgument, JsonOption, SettingsOption, emit

__all__ = ["check"]


def check(data: DataArgument, settings: SettingsOption = None, json_path: JsonOption = None) -> None:
    """Read every image and mask; say what is wrong and what will be done about it (exit 1 on what spoils training)."""
    from denseg.workflows.check import check as run

    examination = run(data, settings=settings or ())
    emit(examination.lines(), examination.to_json(), json_path)
    if not examination.ok:
        raise typer.Exit(1)
