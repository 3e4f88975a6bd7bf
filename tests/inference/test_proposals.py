# SPDX-License-Identifier: Apache-2.0
"""Windows of many sizes: maximum aggregation against a loop over pixels, and DeconvNet on them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseg.errors import ShapeError, UsageError
from denseg.inference.proposals import Box, predict_windows, sliding_boxes
from denseg.models import create_model
from denseg.types import SegmentationOutput


class Scorer(nn.Module):
    """Scores that depend on the place in the window."""

    def forward(self, images: Tensor) -> SegmentationOutput:
        ramp = torch.linspace(-1, 1, images.shape[-1])
        logits = torch.stack([images[:, 0] + ramp, images[:, 1] - ramp], dim=1)
        return SegmentationOutput(logits, (), logits, logits)


def test_the_maximum_over_windows_from_0() -> None:
    image = torch.randn(2, 30, 44, generator=torch.Generator().manual_seed(0))
    boxes = [Box(0, 0, 30, 44), Box(-5, 10, 20, 20), Box(20, 30, 25, 40)]
    model = Scorer().eval()
    scores = predict_windows(model, image, proposals=boxes, side=16)
    expected = torch.zeros(2, 30, 44)
    padded = F.pad(image, (50, 50, 50, 50))
    for top, left, height, width in boxes:
        window = padded[:, top + 50 : top + 50 + height, left + 50 : left + 50 + width]
        small = F.interpolate(window[None], size=(16, 16), mode="bilinear")
        back = F.interpolate(model(small).logits, size=(height, width), mode="bilinear")[0]
        for row in range(max(0, top), min(30, top + height)):
            for column in range(max(0, left), min(44, left + width)):
                value = back[:, row - top, column - left]
                expected[:, row, column] = torch.maximum(expected[:, row, column], value)
    torch.testing.assert_close(scores, expected)


def test_only_the_best_and_only_large_ones() -> None:
    image = torch.randn(2, 30, 44, generator=torch.Generator().manual_seed(0))
    seen: list[int] = []
    model = Scorer().eval()
    model.register_forward_hook(lambda *_: seen.append(1))
    predict_windows(model, image, limit=50)
    assert len(seen) == 50
    predict_windows(model, image, proposals=[Box(0, 0, 30, 11), Box(0, 0, 30, 12), Box(50, 0, 20, 20)], min_side=12)
    assert len(seen) == 51


def test_sliding_boxes_cover_the_image() -> None:
    image = torch.zeros(3, 37, 50)
    boxes = sliding_boxes(image)
    assert len(boxes) == 1 + 9 + 25 + 49
    assert boxes[0] == Box(0, 0, 37, 50)
    for boxes_of_scale in (boxes[1:10], boxes[10:35], boxes[35:]):
        covered = torch.zeros(37, 50)
        for top, left, height, width in boxes_of_scale:
            assert top + height <= 37
            assert left + width <= 50
            covered[top : top + height, left : left + width] += 1
        assert covered.min() >= 1


def test_deconvnet_on_proposals() -> None:
    torch.manual_seed(0)
    model = create_model("deconvnet", num_classes=3, form="paper", width=0.02).eval()
    scores = predict_windows(model, torch.randn(3, 60, 90), limit=3)
    assert scores.shape == (3, 60, 90)
    assert scores.min() >= 0


def test_errors() -> None:
    model = Scorer().eval()
    with pytest.raises(ShapeError) as shape:
        predict_windows(model, torch.zeros(1, 2, 5, 5))
    assert str(shape.value) == "predict_windows takes one image (C, H, W), got (1, 2, 5, 5)"
    with pytest.raises(UsageError) as none:
        predict_windows(model, torch.zeros(2, 5, 5), min_side=112)
    assert str(none.value) == "no window of at least 112 pixels a side meets the image of 5x5"
    with pytest.raises(UsageError) as mode:
        predict_windows(model.train(), torch.zeros(2, 5, 5))
    assert str(mode.value) == "inference needs the model in evaluation mode; call model.eval() first"
