# SPDX-License-Identifier: Apache-2.0
"""The HFD loss against the plain sentence that defines it, and how its table moves."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from denseg.errors import ShapeError, UsageError
from denseg.losses import CompositeLoss, create_loss
from denseg.losses.hfd import HFDLoss
from denseg.types import SegmentationOutput

K, D, IGNORE = 5, 3, 255


def batch(seed: int = 0, size: tuple[int, int] = (4, 6)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, D, *size, generator=generator)
    target = torch.randint(0, K - 1, (2, *size), generator=generator)  # class 4 never occurs
    target[0, 0] = IGNORE
    return features, target


def class_means(features: Tensor, target: Tensor) -> dict[int, Tensor]:
    rows = features.permute(0, 2, 3, 1)
    return {k: rows[target == k].mean(dim=0) for k in range(K) if bool((target == k).any())}


@pytest.mark.parametrize("similarity", ["dot", "cosine", "distance"])
def test_equals_the_sum_written_out(similarity: str) -> None:
    loss = create_loss("hfd", num_classes=K, in_channels=D, similarity=similarity)
    loss(*batch(1))
    loss.update()
    features, target = batch(2)
    expected = []
    for b, i, j in torch.nonzero(target != IGNORE).tolist():
        x, scores = features[b, :, i, j], []
        for k in range(4):  # class 4 has no centre and stands in no denominator
            centre = loss.table[k]
            if similarity == "distance":
                scores.append(-(x - centre).norm())
            else:
                scores.append((x / x.norm() if similarity == "cosine" else x) @ centre)
        expected.append(-torch.stack(scores).log_softmax(0)[target[b, i, j]])
    torch.testing.assert_close(loss(features, target), torch.stack(expected).mean())


def test_a_centre_starts_at_the_mean_and_moves_by_the_momentum() -> None:
    loss = HFDLoss(K, D, momentum=0.75)
    first, second = batch(1), batch(2)
    assert loss(*first) == 0  # no centre yet: nothing to compare with
    loss.update()
    start = {k: F.normalize(mean, dim=0) for k, mean in class_means(*first).items()}
    for k, centre in start.items():
        torch.testing.assert_close(loss.table[k], centre)
    loss(*second)
    before = loss.table.clone()
    assert torch.equal(loss.table, before)  # forward counts, update moves
    loss.update()
    for k, mean in class_means(*second).items():
        torch.testing.assert_close(loss.table[k], F.normalize(0.75 * start[k] + 0.25 * mean, dim=0))
    assert loss.seen.tolist() == [True] * 4 + [False]
    loss.update()  # nothing met since
    assert bool((loss.table[4] == 0).all())


def test_absent_classes_stay_and_evaluation_does_not_count() -> None:
    loss = HFDLoss(K, D)
    loss(*batch(1))
    loss.update()
    before = loss.table.clone()
    features, target = batch(2)
    loss(features, torch.where(target == 0, 0, IGNORE))
    loss.update()
    assert torch.equal(loss.table[1:], before[1:])
    assert not torch.equal(loss.table[0], before[0])
    before = loss.table.clone()
    loss.eval()(features, target)
    loss.update()
    assert torch.equal(loss.table, before)


def test_random_centres_are_all_there_from_the_start() -> None:
    loss = HFDLoss(K, D, init="random")
    bound = D**-0.5  # the uniform bound of kaiming_uniform_ with a = sqrt(5)
    assert bool(loss.seen.all())
    assert float(loss.table.abs().max()) <= bound
    features, target = batch(1)
    expected = F.cross_entropy(torch.einsum("bdhw,kd->bkhw", features, loss.table), target, ignore_index=IGNORE)
    torch.testing.assert_close(loss(features, target), expected)


def test_labels_are_picked_under_the_positions() -> None:
    loss = HFDLoss(K, D, init="random").eval()
    features, target = batch(1)
    fine = target.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    torch.testing.assert_close(loss(features, fine), loss(features, target))
    mass = loss.mass(fine)
    torch.testing.assert_close(loss(features, fine, normalizer=mass), loss(features, target))


def test_the_table_learns_nothing_and_travels_with_the_state() -> None:
    loss = HFDLoss(K, D)
    assert not list(loss.parameters())
    features, target = batch(1)
    loss(features, target)
    loss.update()
    other = HFDLoss(K, D)
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other(features, target), loss(features, target))


def test_enters_the_composite_by_the_models_features() -> None:
    composite = CompositeLoss({"cross_entropy": 1.0, "hfd": 0.1}, num_classes=K, feature_channels=D)
    features, target = batch(1)
    logits = torch.randn(2, K, 4, 6)
    output = SegmentationOutput(logits, (), logits, features)
    composite(output, target)
    composite.update()
    loss = composite(output, target)
    torch.testing.assert_close(loss.total, loss.parts["cross_entropy"] + 0.1 * loss.parts["hfd"])
    assert loss.parts["hfd"] > 0


def test_messages() -> None:
    expected = "the loss hfd reads features; give in_channels, the channels of the model's features"
    with pytest.raises(UsageError, match=f"^{re.escape(expected)}$"):
        CompositeLoss({"hfd": 1.0}, num_classes=K)
    with pytest.raises(UsageError, match=r"^similarity is 'dot', 'cosine' or 'distance', got 'l2'$"):
        HFDLoss(K, D, similarity="l2")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^init is 'mean' or 'random', got 'zero'$"):
        HFDLoss(K, D, init="zero")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"^momentum must be in 0\.\.1, got 2$"):
        HFDLoss(K, D, momentum=2)
    with pytest.raises(ShapeError, match=r"^HFDLoss was built for features of 3 channels, got 4$"):
        HFDLoss(K, D)(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))


def _one_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    loss = HFDLoss(K, D)
    for seed in (1, 2):
        features, target = batch(seed)
        loss(features[rank : rank + 1], target[rank : rank + 1])
        loss.update()
    torch.save({"table": loss.table, "seen": loss.seen}, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one() -> None:
    one = HFDLoss(K, D)
    for seed in (1, 2):
        features, target = batch(seed)
        for image in range(2):
            one(features[image : image + 1], target[image : image + 1])
        one.update()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_one_of_two, args=(folder,), nprocs=2)
        for rank in range(2):
            two = torch.load(Path(folder) / f"{rank}.pt", weights_only=True)
            torch.testing.assert_close(two["table"], one.table)
            assert torch.equal(two["seen"], one.seen)
