# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

pytest.importorskip("segmentation_models_pytorch")


def test_both_programs_compute_the_same_scores():
    """What the benchmark times is one network; it checks so itself before the clock starts."""
    from benchmarks.same_deeplab import networks

    ours, peer = networks("resnet18")
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images).logits, peer(images), rtol=1e-4, atol=1e-4)
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in (ours, peer)]
    assert counts[0] == counts[1]
