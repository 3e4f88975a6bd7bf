# SPDX-License-Identifier: Apache-2.0
"""Every figure of a paper is measured on the network that it is about."""

from __future__ import annotations

import pytest

from denseg.models import MODELS
from denseg.models.figures import FIGURES, PaperFigure, check_figures


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_figure_agrees(name: str) -> None:
    assert name in MODELS
    checks = check_figures(name)
    assert len(checks) == len(FIGURES[name])
    for check in checks:
        assert check.agrees, check


def test_figures_of_another_backbone_are_left_out() -> None:
    checks = check_figures("fcn32s", "alexnet")
    assert [check.ours for check in checks] == [56_954_261, 56_868_224, 56_954_261, 355, 32]
    assert check_figures("fcn32s", "resnet50") == ()
    assert check_figures("context") == ()


def test_a_wrong_figure_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = PaperFigure("parameters", 31_030_659, "nowhere", {"form": "paper", "in_channels": 1, "num_classes": 2})
    rounded = PaperFigure("parameters", 31e6, "nowhere", wrong.options, rounded_to=1e6)
    monkeypatch.setattr("denseg.models.figures.FIGURES", {"unet": (wrong, rounded)})
    first, second = check_figures("unet")
    assert (first.agrees, first.ours) == (False, 31_030_658)
    assert second.agrees
    assert first.to_json() == {
        "quantity": "parameters",
        "options": {"form": "paper", "in_channels": 1, "num_classes": 2},
        "paper": 31_030_659,
        "ours": 31_030_658,
        "agrees": False,
        "source": "nowhere",
    }
