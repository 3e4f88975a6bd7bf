# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: what is written comes back bit for bit, what is damaged never does."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import denseg
from denseg.errors import CheckpointError, OutputError, UnknownNameError, UsageError
from denseg.models import create_model
from denseg.models.checkpoint import (
    checkpoint_path,
    load_checkpoint,
    load_weights,
    read_tensors,
    save_checkpoint,
    write_tensors,
)
from denseg.types import ClassTable

TINY = {"width": 0.0625}


def message(text: str) -> str:
    return f"^{re.escape(text)}$"


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(6, 4, generator=generator)
    return {
        "float": shared,
        "transposed view": shared.t(),
        "same storage": shared,
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "bfloat16": torch.randn(5, generator=generator).bfloat16(),
        "half": torch.randn(5, generator=generator).half(),
        "double": torch.randn(3, generator=generator, dtype=torch.float64),
        "bool": torch.tensor([True, False, True]),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "naïve ünicode": torch.arange(3, dtype=torch.int32),
    }


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(1)
    return create_model("unet", num_classes=3, **TINY)


def test_every_tensor_and_the_document_come_back(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    document = {"text": 'ä\n"', "list": [1, 2.5, None, True], "nested": {"a": {}}}
    write_tensors(tmp_path / "x.safetensors", tensors, document)
    loaded, metadata = read_tensors(tmp_path / "x.safetensors")
    assert metadata == document
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_the_file_is_plain_safetensors_and_the_same_bytes_each_time(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    write_tensors(tmp_path / "a", tensors, {"k": 1, "l": 2})
    write_tensors(tmp_path / "b", dict(reversed(tensors.items())), {"l": 2, "k": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    theirs = load_file(tmp_path / "a")
    assert all(torch.equal(theirs[name], tensor) for name, tensor in tensors.items())
    assert list(tmp_path.iterdir()) in ([tmp_path / "a", tmp_path / "b"], [tmp_path / "b", tmp_path / "a"])


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_file_may_be_read_by_whom_the_user_lets_read_files(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {"a": torch.zeros(1)}, {})
    (tmp_path / "y").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE((tmp_path / "y").stat().st_mode)


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, {"model": "x", "numbers": [1.5, 2]})
    good = path.read_bytes()
    chosen = np.random.default_rng(0).choice(8 * len(good), 1000, replace=False).tolist()
    for bit in [*range(64), *chosen]:  # the length of the header always
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))} is (damaged|a pickle)") as caught:
            read_tensors(path)
        assert caught.value.path == path


def test_a_cut_file_is_refused(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, tensors, {})
    good = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(good) // 2, len(good) - 1]:
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="is damaged"):
            read_tensors(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_tensors(path)


def test_damage_is_found_when_weights_are_taken_from_the_file(tmp_path: Path, model: nn.Module) -> None:
    path = tmp_path / "x.safetensors"
    save_checkpoint(model, path)
    bad = bytearray(path.read_bytes())
    bad[-5] ^= 16
    path.write_bytes(bad)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    text = f"{path} is damaged: its content does not match its checksum; use another checkpoint"
    with pytest.raises(CheckpointError, match=message(text)):
        load_weights(model, path)
    with pytest.raises(CheckpointError, match=message(text)):
        load_checkpoint(path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_pickle_is_never_opened(tmp_path: Path, model: nn.Module) -> None:
    path = tmp_path / "model.pth"
    text = (
        f"{path} is a pickle (.pth, .pt), which denseg never opens; "
        "save its state dict with safetensors.torch.save_file and give that file"
    )
    for zipped in (True, False):
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=message(text)):
            load_weights(model, path)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    lengths = set()
    for size in range(0, 700, 8):
        write_tensors(path, {}, {"filler": "x" * size})
        lengths.add(path.read_bytes()[0])
        read_tensors(path)
    assert 0x80 in lengths


def test_files_that_are_no_checkpoint_are_named(tmp_path: Path, model: nn.Module) -> None:
    missing = tmp_path / "none.safetensors"
    with pytest.raises(CheckpointError, match=message(f"no checkpoint {missing}: there is no such file or folder")):
        load_checkpoint(missing)
    with pytest.raises(CheckpointError, match=message(f"cannot read the checkpoint {missing}: there is no such file")):
        read_tensors(missing)
    with pytest.raises(CheckpointError, match=message(f"cannot read the checkpoint {tmp_path}: Is a directory")):
        read_tensors(tmp_path)
    text = tmp_path / "text.safetensors"
    text.write_text("these are no tensors, but a text long enough for a header")
    with pytest.raises(CheckpointError, match=r"is damaged or not a safetensors file: .*; use another checkpoint$"):
        load_weights(model, text)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    expected = f"{foreign} is damaged or was not written by denseg: its header has no checksum"
    with pytest.raises(CheckpointError, match=message(expected)):
        read_tensors(foreign)
    state = tmp_path / "state.safetensors"
    write_tensors(state, {"a": torch.zeros(1)}, {"step": 3})
    expected = f"{state} is not a model checkpoint: it names no model; give checkpoints/best.safetensors of a run"
    with pytest.raises(CheckpointError, match=message(expected)):
        load_checkpoint(state)


def test_what_cannot_be_stored_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x"
    expected = "cannot store a: its dtype torch.complex64 has no place in a checkpoint; convert it first"
    with pytest.raises(UsageError, match=message(expected)):
        write_tensors(path, {"a": torch.zeros(1, dtype=torch.complex64)}, {})
    start = "checkpoint metadata must be JSON values: Out of range float values are not JSON compliant"
    with pytest.raises(UsageError, match=f"^{start}(: nan)?$"):  # Python 3.12 names the value
        write_tensors(path, {}, {"loss": float("nan")})
    expected = "checkpoint metadata must be JSON values: Object of type Tensor is not JSON serializable"
    with pytest.raises(UsageError, match=message(expected)):
        write_tensors(path, {}, {"loss": torch.zeros(1)})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, model: nn.Module) -> None:
    resource = pytest.importorskip("resource")  # POSIX only
    path = tmp_path / "last.safetensors"
    save_checkpoint(model, path, notes="old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        expected = f"cannot write {path}: the file would be larger than the limit set for this process or file system"
        with pytest.raises(OutputError, match=message(expected)):
            save_checkpoint(model, path, notes="new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert load_checkpoint(path).metadata["notes"] == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["last.json", "last.safetensors"]


def test_a_model_comes_back_with_its_weights_and_metadata(tmp_path: Path, model: nn.Module) -> None:
    classes = ClassTable(("sky", "road", "tree"), ((0, 0, 0), (1, 2, 3), (4, 5, 6)), 254)
    normalization = {"mean": [0.1], "std": [0.2], "scale": 65535.0, "bands": 1}
    given = {"classes": classes, "normalization": normalization, "halo": 56, "commit": "abc", "training": {"epoch": 4}}
    save_checkpoint(model.train(), tmp_path / "x.safetensors", **given)
    loaded, metadata = load_checkpoint(str(tmp_path / "x.safetensors"))
    assert not loaded.training
    assert loaded.spec == model.spec
    assert metadata["model"] == {"name": "unet", "arguments": dict(model.spec.arguments)}
    assert ClassTable.from_json(metadata["classes"]) == classes
    assert (metadata["format_version"], metadata["version"]) == (1, denseg.__version__)
    assert {key: metadata[key] for key in given if key != "classes"} == {
        key: value for key, value in given.items() if key != "classes"
    }
    assert json.loads((tmp_path / "x.json").read_text()) == metadata
    theirs = loaded.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


def test_what_is_left_out_takes_the_defaults(tmp_path: Path, model: nn.Module) -> None:
    save_checkpoint(model, tmp_path / "rgb.safetensors")
    metadata = load_checkpoint(tmp_path / "rgb.safetensors").metadata
    assert ClassTable.from_json(metadata["classes"]) == ClassTable.numbered(3)
    assert metadata["normalization"] == {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "scale": 255.0,
        "bands": 3,
    }
    assert metadata["halo"] is None
    save_checkpoint(create_model("unet", num_classes=2, in_channels=5, **TINY), tmp_path / "bands.safetensors")
    assert load_checkpoint(tmp_path / "bands.safetensors").metadata["normalization"] is None


def test_loading_leaves_the_callers_random_numbers(tmp_path: Path, model: nn.Module) -> None:
    save_checkpoint(model, tmp_path / "x.safetensors")
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_checkpoint(tmp_path / "x.safetensors")
    assert torch.equal(torch.rand(1), expected)


def test_save_refuses_what_it_could_not_restore(tmp_path: Path, model: nn.Module) -> None:
    expected = (
        "no checkpoint metadata named 'normalisation'. Did you mean 'normalization'? Known: calibration, classes, "
        "commit, encoding, halo, normalization, notes, postprocessing, training"
    )
    with pytest.raises(UnknownNameError, match=message(expected)):
        save_checkpoint(model, tmp_path / "x.safetensors", normalisation={})
    expected = "a checkpoint needs a model made by create_model (with a spec), got Conv2d"
    with pytest.raises(UsageError, match=message(expected)):
        save_checkpoint(nn.Conv2d(1, 1, 1), tmp_path / "x.safetensors")


def test_newer_and_unbuildable_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {}, {"format_version": 2, "model": {"name": "unet", "arguments": {}}})
    expected = f"{path} was written by a newer denseg (checkpoint format 2, this one reads up to 1); update denseg"
    with pytest.raises(CheckpointError, match=message(expected)):
        load_checkpoint(path)
    write_tensors(path, {}, {"format_version": 1, "model": {"name": "unot", "arguments": {"num_classes": 2}}})
    start = f"{path} describes a model that this denseg cannot build: no model named 'unot'. Did you mean 'unet'?"
    with pytest.raises(CheckpointError, match=f"^{re.escape(start)}.*; update denseg$"):
        load_checkpoint(path)


def test_a_run_means_its_best_checkpoint_else_its_last(tmp_path: Path) -> None:
    expected = (
        f"no checkpoint in the folder {tmp_path}: expected checkpoints/best.safetensors or checkpoints/last.safetensors"
    )
    with pytest.raises(CheckpointError, match=message(expected)):
        checkpoint_path(tmp_path)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "state.safetensors").touch()
    (folder / "last.safetensors").touch()
    assert checkpoint_path(tmp_path) == folder / "last.safetensors"
    (folder / "best.safetensors").touch()
    assert checkpoint_path(str(tmp_path)) == folder / "best.safetensors"
    assert checkpoint_path(folder) == folder / "best.safetensors"
    assert checkpoint_path(folder / "last.safetensors") == folder / "last.safetensors"


def test_the_head_is_replaced_when_the_classes_differ(tmp_path: Path, model: nn.Module) -> None:
    save_checkpoint(model, tmp_path / "x.safetensors")
    other = create_model("unet", num_classes=5, **TINY)
    fresh = other.state_dict()["classifier.weight"].clone()
    report = load_weights(other, tmp_path / "x.safetensors")
    assert report.replaced == ("classifier.weight", "classifier.bias")
    assert len(report.matched) == len(model.state_dict()) - 2
    assert report[2:] == ((), (), ())
    loaded = other.state_dict()
    assert torch.equal(loaded["classifier.weight"], fresh)
    assert all(torch.equal(loaded[name], model.state_dict()[name]) for name in report.matched)
    expected = (
        f"{tmp_path / 'x.safetensors'} does not fit the model: 2 of another shape (first classifier.weight: "
        "(3, 4, 1, 1) in the file, (5, 4, 1, 1) in the model); build the model with the checkpoint's own options"
    )
    with pytest.raises(CheckpointError, match=message(expected)):
        load_weights(other, tmp_path / "x.safetensors", replace_head=False)


def test_weights_of_another_program_are_taken_where_names_fit(tmp_path: Path, model: nn.Module) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "x.safetensors")
    target = create_model("unet", num_classes=3, **TINY)
    assert len(load_weights(target, tmp_path / "x.safetensors").matched) == len(state)
    assert all(torch.equal(value, state[name]) for name, value in target.state_dict().items())
    other = create_model("unet", num_classes=4, **TINY)
    assert load_weights(other, tmp_path / "x.safetensors").replaced == ("classifier.weight", "classifier.bias")


def test_partial_weights_need_strict_off(tmp_path: Path, model: nn.Module) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    del state["classifier.bias"]
    state["classifier.weight"] = torch.zeros(3, 9, 1, 1)
    state["extra"] = torch.zeros(1)
    path = tmp_path / "x.safetensors"
    save_file(state, path)
    expected = (
        f"{path} does not fit the model: 1 of another shape (first classifier.weight: (3, 9, 1, 1) in the file, "
        "(3, 4, 1, 1) in the model), 1 missing (first classifier.bias), 1 unknown to the model (first extra); "
        "build the model with the checkpoint's own options"
    )
    with pytest.raises(CheckpointError, match=message(expected)):
        load_weights(model, path)
    report = load_weights(model, path, strict=False)
    assert report[1:] == ((), ("classifier.bias",), ("extra",), ("classifier.weight",))
    save_file({}, path)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_weights(model, path, strict=False)
