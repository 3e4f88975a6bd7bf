# SPDX-License-Identifier: Apache-2.0
"""``denseg models``."""

from __future__ import annotations

from denseg.cli.output import JsonOption, emit

__all__ = ["models"]


def models(json_path: JsonOption = None) -> None:
    """List every model, layer, loss and backbone family, with paper and parameters."""
    from denseg.workflows.models import list_models

    catalog = list_models()
    emit(catalog.lines(), catalog.to_json(), json_path)
