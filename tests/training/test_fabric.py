# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from denseg.training.fabric import choose_precision, create_fabric, device_kind


@pytest.mark.parametrize(
    ("avx512", "amx", "precision"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, "32")]
)
def test_a_cpu_takes_bfloat16_where_it_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert choose_precision("cpu") == precision


@pytest.mark.parametrize(("major", "precision"), [(7, "32"), (8, "bf16"), (9, "bf16")])
def test_a_gpu_takes_bfloat16_from_ampere_on(monkeypatch: pytest.MonkeyPatch, major: int, precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, 0))
    assert choose_precision("cuda:0") == precision


def test_the_kind_of_a_named_device() -> None:
    assert [device_kind(name) for name in ("cpu", "cuda:3", "mps")] == ["cpu", "cuda", "mps"]


def test_auto_is_one_of_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert create_fabric("cpu", "auto")._precision.precision == "bf16-mixed"
