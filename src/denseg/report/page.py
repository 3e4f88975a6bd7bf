# SPDX-License-Identifier: Apache-2.0
"""From a template to one HTML file that loads nothing: styles and scripts inside, a policy that forbids the rest."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from denseg import __version__
from denseg.report import numbers

__all__ = ["render"]

_STYLES = ("base.css", "parts.css", "pictures.css")


def render(template: str, *, scripts: Sequence[str], **values: Any) -> str:
    """Render a page.

    Args:
        template: Name of the template.
        scripts: Names of the scripts, in order; they are joined and the only ones that the page may run.
        **values: What the template shows; every text is escaped.

    Returns:
        The HTML.
    """
    script = "\n".join(_asset(name) for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(template)
        .render(
            policy=policy,
            script=Markup(script),  # noqa: S704 - a file of this package
            style=Markup("\n".join(_asset(name) for name in _STYLES)),  # noqa: S704 - files of this package
            version=__version__,
            **values,
        )
    )


def prose(text: str, base: str = "") -> Markup:
    """Make a sentence of a message: a capital first, paths below ``base`` shortened, backticks as code, arrows drawn.

    Args:
        text: The message.
        base: A folder's path with its separator at the end; empty for none.

    Returns:
        Escaped HTML.
    """
    text = (text.replace(base, "") if base else text).replace(" -> ", " → ")
    parts = (text[:1].upper() + text[1:]).split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner is a character like any other
        return escape("`".join(parts))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("denseg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": numbers.score,
        "share": numbers.share,
        "count": numbers.count,
        "duration": numbers.duration,
        "plural": numbers.plural,
        "prose": prose,
    }
    return environment


@cache
def _asset(name: str) -> str:
    return (files("denseg.report") / "assets" / name).read_text(encoding="utf-8")
