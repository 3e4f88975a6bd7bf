# SPDX-License-Identifier: Apache-2.0
"""The contract of every loss of the catalog. An entry enters by itself.

Losses that read features get random features in place of scores; what is said of scores below holds for them as well.
"""

from __future__ import annotations

import inspect
import itertools
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from denseg.errors import ShapeError
from denseg.losses import LOSSES, CompositeLoss, create_loss
from denseg.types import SegmentationOutput

K = 4
IGNORE = 255
each = pytest.mark.parametrize("name", list(LOSSES))

NOT_SEPARABLE: dict[str, str] = {"boundary": "the distance to the border of a class looks at ignored pixels, too"}
"""Losses for which a pixel of weight 0 still shows where a class ends."""


def build(name: str, num_classes: int = K, **options: Any) -> nn.Module:
    if "in_channels" not in inspect.signature(LOSSES[name]).parameters:
        return create_loss(name, num_classes=num_classes, ignore_index=IGNORE, **options)
    loss = create_loss(name, num_classes=num_classes, ignore_index=IGNORE, in_channels=num_classes, **options)
    axes = torch.eye(num_classes).view(1, num_classes, 1, num_classes)  # every class has been met: on its own axis
    loss(axes, torch.arange(num_classes).view(1, 1, num_classes))
    loss.update()
    return loss


def sample(
    batch: int = 2, size: tuple[int, int] = (6, 7), seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, K, *size, generator=generator, dtype=torch.float64).to(dtype)
    target = torch.randint(0, K, (batch, *size), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.2] = IGNORE
    return logits.requires_grad_(), target


def grad(loss: Tensor, logits: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


@each
def test_a_scalar_with_a_finite_gradient(name: str) -> None:
    logits, target = sample()
    loss = build(name)(logits, target)
    assert loss.shape == ()
    assert loss.dtype == torch.float64
    assert bool(torch.isfinite(loss))
    assert loss > 0
    gradient = grad(loss, logits)
    assert bool(torch.isfinite(gradient).all())
    assert gradient.abs().max() > 0


@each
def test_the_gradient_is_that_of_the_value(name: str) -> None:
    logits, target = sample(batch=1, size=(3, 3), seed=3)
    torch.autograd.gradcheck(lambda x: build(name)(x, target), (logits,))


@each
def test_ignored_pixels_neither_count_nor_learn(name: str) -> None:
    logits, target = sample()
    ignored = (target == IGNORE).unsqueeze(1).expand_as(logits)
    loss = build(name)(logits, target)
    assert bool((grad(loss, logits)[ignored] == 0).all())
    changed = torch.where(ignored, 100 * torch.randn_like(logits), logits)
    torch.testing.assert_close(build(name)(changed, target), loss)


@each
def test_a_batch_without_labels_gives_zero(name: str) -> None:
    for value in (1.0, 1e30):  # huge scores under ignored pixels are no reason for NaN
        logits, target = sample(dtype=torch.float32)
        logits = (logits.detach() * value).requires_grad_()
        target.fill_(IGNORE)
        for normalizer in (None, 0.0, 12.0):
            loss = build(name)(logits, target, normalizer=normalizer)
            assert loss == 0
            assert bool((grad(loss, logits) == 0).all())


@each
@pytest.mark.parametrize("only", range(K))
def test_a_batch_of_one_class_is_finite(name: str, only: int) -> None:
    logits, target = sample(batch=1)
    target[target != IGNORE] = only
    loss = build(name)(logits, target)
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(grad(loss, logits)).all())


@each
def test_one_pixel_is_enough(name: str) -> None:
    logits, target = sample(batch=1, size=(1, 1))
    target.fill_(1)
    loss = build(name)(logits, target)
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(grad(loss, logits)).all())


@each
def test_a_right_answer_costs_less_than_a_wrong_one(name: str) -> None:
    _, target = sample()
    valid = torch.where(target == IGNORE, 0, target)
    right = nn.functional.one_hot(valid, K).permute(0, 3, 1, 2).double()
    losses = [build(name)(scale * right, target) for scale in (-20.0, 0.0, 2.0, 20.0)]
    assert all(float(a) >= float(b) for a, b in itertools.pairwise(losses))
    if getattr(LOSSES[name], "reads", "logits") == "logits":
        assert float(losses[0]) > float(losses[-1])


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_and_extreme_scores_are_finite(name: str, dtype: torch.dtype) -> None:
    for scale in (1.0, 1e4):
        logits, target = sample(dtype=dtype)
        logits = (logits.detach() * scale).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = build(name)(logits, target)
        assert loss.dtype == torch.float32
        assert bool(torch.isfinite(loss))
        assert bool(torch.isfinite(grad(loss, logits)).all())


@each
def test_the_order_of_images_and_classes_does_not_count(name: str) -> None:
    logits, target = sample()
    loss = build(name)(logits, target)
    torch.testing.assert_close(build(name)(logits.flip(0), target.flip(0)), loss)
    torch.testing.assert_close(build(name)(logits.flip(2), target.flip(1)), loss)  # mirrored
    if getattr(LOSSES[name], "reads", "logits") == "logits":
        order = torch.tensor([2, 0, 3, 1])
        renamed = torch.where(target == IGNORE, IGNORE, order.argsort()[torch.where(target == IGNORE, 0, target)])
        torch.testing.assert_close(build(name)(logits[:, order], renamed), loss)


@each
def test_a_weight_of_one_is_no_weight_and_of_zero_is_ignored(name: str) -> None:
    logits, target = sample()
    loss = build(name)
    plain = loss(logits, target)
    torch.testing.assert_close(loss(logits, target, weight=torch.ones(target.shape, dtype=torch.float64)), plain)
    weight = torch.ones(target.shape, dtype=torch.float64)
    weight[0, :2] = 0
    without = target.clone()
    without[0, :2] = IGNORE
    if name not in NOT_SEPARABLE:
        torch.testing.assert_close(loss(logits, target, weight=weight), loss(logits, without))
    torch.testing.assert_close(loss.mass(target, weight=weight).float(), loss.mass(without))


@each
def test_masses_add_up_and_normalise(name: str) -> None:
    logits, target = sample(batch=4)
    loss = build(name)
    whole = loss.mass(target)
    torch.testing.assert_close(loss.mass(target[:1]) + loss.mass(target[1:]), whole)
    torch.testing.assert_close(loss(logits, target, normalizer=whole), loss(logits, target))
    torch.testing.assert_close(loss(logits, target, normalizer=2 * whole), loss(logits, target) / 2)
    parts = [loss(logits[i : i + 1], target[i : i + 1], normalizer=whole) for i in range(4)]
    shares = [loss.mass(target[i : i + 1]) / whole for i in range(4)]
    alone = [loss(logits[i : i + 1], target[i : i + 1]) for i in range(4)]
    torch.testing.assert_close(sum(parts), sum(s * a for s, a in zip(shares, alone, strict=True)))


@each
def test_inputs_are_left_as_they_are(name: str) -> None:
    logits, target = sample()
    before = logits.detach().clone(), target.clone()
    build(name)(logits, target).backward()
    assert torch.equal(logits.detach(), before[0])
    assert torch.equal(target, before[1])


@each
def test_shapes_that_would_broadcast_are_refused(name: str) -> None:
    logits, target = sample()
    loss = build(name)
    expected = "target must be int64 (2, 6, 7) for logits (2, 4, 6, 7), got torch.int64 (1, 6, 7)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        loss(logits, target[:1])
    expected = "target must be int64 (2, 6, 7) for logits (2, 4, 6, 7), got torch.int32 (2, 6, 7)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        loss(logits, target.int())
    expected = "logits must be floating point (B, K, H, W), got torch.float64 (4, 6, 7)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        loss(logits[0], target)
    expected = "weight must be floating point (2, 6, 7) for logits (2, 4, 6, 7), got torch.float32 (6, 7)"
    with pytest.raises(ShapeError, match=f"^{re.escape(expected)}$"):
        loss(logits, target, weight=torch.ones(6, 7))


@each
def test_it_enters_the_composite_by_name(name: str) -> None:
    logits, target = sample()
    composite = CompositeLoss({name: 2.0}, num_classes=K, ignore_index=IGNORE, feature_channels=K)
    composite.members[name].load_state_dict(build(name).state_dict())  # what the loss has learnt, where it learns
    loss = composite(SegmentationOutput(logits, (), logits, logits), target)
    torch.testing.assert_close(loss.total, (2 * build(name)(logits, target)).to(loss.total.dtype))
    composite.update()
