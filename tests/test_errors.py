# SPDX-License-Identifier: Apache-2.0
"""The errors: their exit codes, their facts, and the proposals they make."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from denseg import errors
from denseg.errors import ConfigError, DataError, DensegError, UnknownNameError, nearest_name

CLASSES = [getattr(errors, name) for name in errors.__all__ if name != "nearest_name"]


def test_exit_codes() -> None:
    codes = {cls.__name__: cls.exit_code for cls in CLASSES}
    assert {name for name, code in codes.items() if code == 2} == {"UsageError", "ConfigError", "UnknownNameError"}
    assert {name for name, code in codes.items() if code == 3} == {"InterruptedRunError"}
    assert set(codes.values()) == {1, 2, 3}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_is_one_of_ours(cls: type[Exception]) -> None:
    assert issubclass(cls, DensegError)


def test_unknown_name() -> None:
    error = UnknownNameError("model", "fcnn", ["unet", "fcn"])
    assert str(error) == "no model named 'fcnn'. Did you mean 'fcn'? Known: fcn, unet"
    assert (error.kind, error.name, error.known) == ("model", "fcnn", ("fcn", "unet"))


def test_unknown_name_without_a_near_one() -> None:
    assert str(UnknownNameError("loss", "qqq", ["dice"])) == "no loss named 'qqq'. Known: dice"


def test_long_lists_are_counted() -> None:
    error = UnknownNameError("backbone", "resnet99", [f"resnet{n}" for n in range(50)])
    assert str(error).endswith("Known: 50 names, see `denseg models`")


@pytest.mark.parametrize(
    ("name", "nearest"), [("deeplab", "deeplab_v3"), ("UNET", "unet"), ("Deeplab_V3", "deeplab_v3"), ("zzz", None)]
)
def test_nearest_name(name: str, nearest: str | None) -> None:
    assert nearest_name(name, ["unet", "deeplab_v3", "FCN"]) == nearest


def test_nearest_name_ignores_case_both_ways() -> None:
    assert nearest_name("fcn", ["FCN"]) == "FCN"


@pytest.mark.parametrize("cls", [errors.DataError, errors.CheckpointError, errors.RunError, errors.OutputError])
def test_path_is_kept(cls: type[DataError]) -> None:
    assert cls("message", path="a/b").path == Path("a/b")
    assert cls("message").path is None
    assert str(cls("message", path="a/b")) == "message"


@pytest.mark.parametrize(
    "error",
    [DataError("m", path="a"), ConfigError("m", key="k"), UnknownNameError("model", "x", ["y"]), DensegError("m")],
)
def test_errors_cross_process_borders(error: DensegError) -> None:
    """A loader worker's error reaches the main process through pickle."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own object, in a test
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
