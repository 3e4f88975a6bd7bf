# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from denseg.errors import ShapeError
from denseg.ops import confusion_counts


def count_one_by_one(prediction, target, num_classes, ignore_index):
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    for guess, truth in zip(prediction.reshape(-1).tolist(), target.reshape(-1).tolist(), strict=True):
        if truth != ignore_index:
            counts[truth, guess] += 1
    return counts


@given(st.integers(1, 6), st.integers(0, 30), st.sampled_from([None, 255, 0]), st.integers(0, 2**31 - 1))
def test_equals_a_loop(num_classes, pixels, ignore_index, seed):
    rng = np.random.default_rng(seed)
    prediction = torch.from_numpy(rng.integers(0, num_classes, pixels))
    target = torch.from_numpy(rng.integers(0, num_classes, pixels))
    if ignore_index is not None and pixels:
        target[rng.random(pixels) < 0.3] = ignore_index
    counts = confusion_counts(prediction, target, num_classes, ignore_index)
    assert np.array_equal(counts.numpy(), count_one_by_one(prediction, target, num_classes, ignore_index))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_many_pixels_are_counted_as_few_are(dtype):
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randint(0, 7, (3, 200, 301), generator=generator).to(dtype)
    target = torch.randint(0, 8, (3, 200, 301), generator=generator).to(dtype)
    whole = confusion_counts(prediction, target, 7, 7)
    rows = sum(
        confusion_counts(p, t, 7, 7) for p, t in zip(prediction.flatten(0, 1), target.flatten(0, 1), strict=True)
    )
    assert torch.equal(whole, rows)


@pytest.mark.parametrize("pixels", [4, 1 << 17])
def test_errors(pixels):
    labels = torch.zeros(pixels, dtype=torch.int64)
    wrong = labels.clone()
    wrong[-1] = 7
    below = labels.clone()
    below[0] = -1
    with pytest.raises(ShapeError) as target:
        confusion_counts(labels, wrong, 3, 255)
    assert str(target.value) == "target must hold classes 0..2 or 255 (ignored), got values from 0 to 7"
    with pytest.raises(ShapeError) as prediction:
        confusion_counts(below, labels, 3)
    assert str(prediction.value) == "prediction must hold classes 0..2, got values from -1 to 0"
    with pytest.raises(ShapeError) as shape:
        confusion_counts(labels[1:], labels, 3)
    assert str(shape.value) == f"prediction and target must have one shape, got ({pixels - 1},) and ({pixels},)"
    with pytest.raises(ShapeError) as kind:
        confusion_counts(labels.float(), labels, 3)
    assert str(kind.value) == (
        "prediction must hold integer labels, got torch.float32; take the argmax of scores first"
    )
