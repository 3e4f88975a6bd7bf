# SPDX-License-Identifier: Apache-2.0
"""The networks before residuals learn a picture: the loss falls and the labels beat the most frequent class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from denseg.inference.canvas import run_on_canvas
from denseg.models import create_model

CASES: list[tuple[str, dict[str, Any]]] = [
    ("fcn8s", {"form": "paper", "width": 0.05, "at_once": True}),
    ("fcn8s", {"form": "paper", "width": 0.05, "backbone": "googlenet"}),
    ("fcn8s", {"form": "paper", "width": 0.04, "backbone": "alexnet"}),
    ("fcn8s", {"backbone": "test_resnet"}),
    ("unet", {"form": "paper", "in_channels": 3, "width": 0.1, "keep_size": "transposed"}),
    ("dilated_frontend", {"width": 0.05}),
    ("dilated_context", {"width": 0.05}),
    ("deconvnet", {"width": 0.05}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_loss_falls_and_labels_beat_the_majority(name: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, **options)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    labels = ((rows // 24 + columns // 32) % 3)[None]
    images = torch.eye(3)[labels].permute(0, 3, 1, 2) * 2 - 1 + 0.1 * torch.randn(1, 3, 64, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(images).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.75 * losses[0], (losses[0], losses[-5:])
    with torch.no_grad():
        found = run_on_canvas(model.eval(), images, model.geometry).logits.argmax(1)
    assert (found == labels).float().mean() > labels.flatten().bincount().max() / labels.numel() + 0.1
