# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from denseg.models import create_model


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (64, 48)])
@pytest.mark.parametrize("backbone", [None, "test_resnet"])
def test_any_size_in_is_the_size_out(size, backbone):
    options = {"width": 0.125} if backbone is None else {}
    model = create_model("unet", num_classes=3, backbone=backbone, **options).eval()
    with torch.no_grad():
        out = model(torch.randn(2, 3, *size))
    assert out.logits.shape == (2, 3, *size)
