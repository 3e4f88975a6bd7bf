# SPDX-License-Identifier: Apache-2.0
"""MkDocs hook: writes the pages that are read from the program, so that they cannot say anything else than it does."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from paper_pages import complete_page  # beside this file, where MkDocs looks for a hook's imports

__all__ = ["on_files"]

ROOT = Path(__file__).resolve().parents[1]


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages.

    Args:
        files: The files that MkDocs found.
        config: MkDocs' configuration.

    Returns:
        The same, with the generated pages.
    """
    pages = {
        "cli.md": cli_page(),
        "configuration.md": configuration_page(),
        "findings.md": findings_page(),
        "models.md": models_page(),
        "benchmarks.md": benchmarks_page(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    for page in [file for file in files.documentation_pages() if file.src_uri.startswith("papers/")]:
        files.remove(page)
        files.append(File.generated(config, page.src_uri, content=complete_page(page.content_string)))
    return files


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Write a Markdown table; bars inside cells are escaped."""
    header = list(header)
    lines = [header, ["---"] * len(header), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def cli_page() -> str:
    """Describe every command from the application itself."""
    import typer.main

    from denseg.cli.app import app

    group: Any = typer.main.get_command(app)
    parts = [
        "# Commands\n\nData goes to stdout, progress to stderr. Exit codes: 0 done, 1 the input is at fault, "
        "2 wrong usage, 3 interrupted (resumable).\n"
    ]
    for name, command in group.commands.items():
        shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
        arguments = [parameter for parameter in shown if parameter.param_type_name == "argument"]
        options = [parameter for parameter in shown if parameter.param_type_name == "option"]
        usage = " ".join(["denseg", name, *(argument.metavar or argument.name.upper() for argument in arguments)])
        parts.append(f"\n## denseg {name}\n\n{command.help}\n\n```sh\n{usage} [OPTIONS]\n```\n")
        rows = [(f"`{argument.metavar or argument.name}`", argument.help or "", "") for argument in arguments]
        for option in options:
            value = f" {option.metavar}" if option.metavar else ""
            default = "" if option.default in (None, False, (), []) else f"`{option.default}`"
            rows.append((f"`{', '.join(option.opts)}{value}`", option.help or "", default))
        parts.append(table(("", "meaning", "default"), rows))
    return "\n".join(parts)


def configuration_page() -> str:
    """Describe every key from the schema."""
    from denseg.config import (
        AugmentConfig,
        DataConfig,
        ElasticConfig,
        ModelConfig,
        PartConfig,
        RunConfig,
        StageConfig,
        TrainConfig,
    )

    parts = [
        "# Configuration\n\nEvery key can be set with `--set key=value`, or in a recipe: a YAML file with any of them. "
        "A key that does not exist is an error that names the nearest one. The resolved configuration is written into "
        "the run as `config.yaml` and replays it.\n"
    ]
    sections = {"": RunConfig, "data.": DataConfig, "model.": ModelConfig, "train.": TrainConfig}
    sections |= {"train.augment.": AugmentConfig, "train.augment.elastic.": ElasticConfig}
    sections |= {"train.parts.NAME.": PartConfig, "stages.N.": StageConfig}
    for prefix, section in sections.items():
        rows = []
        for key, field in section.model_fields.items():
            if f"{prefix}{key}." in sections:
                continue
            default = (
                "required"
                if field.is_required()
                else json.dumps(field.get_default(call_default_factory=True), default=str)
            )
            rows.append((f"`{prefix}{key}`", field.description or "", f"`{default}`"))
        first_line = " ".join((section.__doc__ or "").split())
        parts.append(
            f"\n## {prefix.rstrip('.') or 'top level'}\n\n{first_line}\n\n{table(('key', 'meaning', 'default'), rows)}"
        )
    return "\n".join(parts)


def findings_page() -> str:
    """Describe every code of the mask doctor."""
    from denseg.data.doctor.findings import CODES

    rows = ((f"`{code}`", severity, meaning) for code, (severity, meaning) in CODES.items())
    return (
        "# What `denseg check` finds\n\nAn error keeps training from starting; "
        "`--set 'data.accept=[CODE]'` accepts one that you know about. A warning is told and goes into the report. "
        "The codes are stable: `denseg check --json` gives them to your own scripts.\n\n"
        + table(("code", "severity", "meaning"), rows)
    )


def models_page() -> str:
    """List the catalogs."""
    from denseg.workflows.models import list_models

    catalogs = list_models()

    def paper(row: dict[str, Any]) -> str:
        return f"[{row['paper']}]({row['url']})" if row["url"] else row["paper"]

    models = (
        (
            f"`{row['name']}`",
            f"`{row['backbone']}`" if row["backbone"] else "own encoder",
            f"{row['parameters'] / 1e6:.2f} M",
            ", ".join(row["forms"]),
            paper(row),
        )
        for row in catalogs.models
    )
    layers = (
        (f"`{row['name']}`", "-" if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f} M", paper(row))
        for row in catalogs.layers
    )
    families = ", ".join(f"{row['name']} ({row['count']})" for row in catalogs.backbones)
    return "\n".join(
        [
            "# Models\n\nWhat `denseg models` lists. Parameters are those of the default form with 21 classes.\n",
            table(("model", "default backbone", "parameters", "forms", "paper"), models),
            "\n## Layers\n\nEach maps `(B, C, h, w)` to `(B, C', h, w)`. Parameters at 512 channels in.\n",
            table(("layer", "parameters", "paper"), layers),
            "\n## Losses\n",
            table(("loss", "paper"), ((f"`{row['name']}`", paper(row)) for row in catalogs.losses)),
            f"\n## Backbones\n\nNames of timm, by family: {families}.\n",
        ]
    )


def benchmarks_page() -> str:
    """Show the last results."""
    parts = ["# Benchmarks\n\n" + (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").partition("\n\n")[2]]
    results = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
    parts += ["#" + path.read_text(encoding="utf-8") for path in results]
    return "\n".join(parts)
