# SPDX-License-Identifier: Apache-2.0
"""The configuration: strict, mergeable, and read back to an equal one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denseg.config import (
    RunConfig,
    dump_config,
    known_keys,
    load_config,
    parse_budget,
    parse_setting,
    recipe_names,
    stage_configs,
)
from denseg.errors import ConfigError, UnknownNameError

UNKNOWN = {
    "modle.name=x": "no setting named modle. Did you mean model?",
    "train.epoch=3": "no setting named train.epoch. Did you mean train.epochs?",
    "epochs=3": "no setting named epochs. Did you mean train.epochs?",
    "lr=0.1": "no setting named lr. Did you mean train.learning_rate?",
    "train.lr=0.1": "no setting named train.lr. Did you mean train.learning_rate?",
    "train.backbone=x": "no setting named train.backbone. Did you mean model.backbone?",
    "train.parts.head.lr=2": "no setting named train.parts.head.lr. Did you mean train.parts.head.learning_rate?",
    "stages=[{nam: a}]": "no setting named stages.0.nam. Did you mean stages.0.name?",
    "stages=[{name: a, train: {epoch: 2}}]": "no setting named stages.0.train.epoch. "
    "Did you mean stages.0.train.epochs?",
    "train.augment.rotate=10": "no setting named train.augment.rotate. Did you mean train.augment.rotation?",
    "train.augment.elastic.sgma=10": "no setting named train.augment.elastic.sgma. "
    "Did you mean train.augment.elastic.sigma?",
    "rotation=10": "no setting named rotation. Did you mean train.augment.rotation?",
    "stages=[{name: a, train: {augment: {rotate: 2}}}]": "no setting named stages.0.train.augment.rotate. "
    "Did you mean stages.0.train.augment.rotation?",
    "xyz=1": "no setting named xyz. Known here: data, device, folds, init, model, plan, recipe, seed, stages, train.",
}

INVALID = {
    "seed=-1": "seed: input should be greater than or equal to 0, got -1",
    "data=3": "data: input should be a valid dictionary, got 3",
    "train.optimizer=adam": "train.optimizer: input should be 'sgd' or 'adamw', got 'adam'",
    "train.crop=abc": "train.crop: input should be a valid integer, unable to parse string as an integer, "
    "or input should be a valid tuple, got 'abc'",
    "train.crop=0": "train.crop must be at least 1 pixel, got 0",
    "train.scale=[2, 1]": "train.scale must be [low, high] with 0 < low <= high, got [2.0, 1.0]",
    "train.betas=[0.9, 1]": "train.betas must be at least 0 and below 1, got [0.9, 1.0]",
    "train.budget=soon": "train.budget: a budget is a time such as 30m, 1h30m or 90s (`40m cpu`: of all processors); "
    "got 'soon'",
    "train.augment.elastic.sigma=-1": "train.augment.elastic.sigma: input should be greater than or equal to 0, got -1",
    "train.ema=1": "train.ema: input should be less than 1, got 1",
    "train.class_weight=rare": "train.class_weight: input should be 'none', 'enet', 'median' or 'sqrt', got 'rare'",
    "folds=1": "folds: input should be greater than or equal to 2, got 1",
    "train.scales=[1, -1]": "train.scales must be positive, got [1.0, -1.0]",
    "train.loss={}": "train.loss names no loss",
    "train.learning_rate=.nan": "train.learning_rate: input should be a finite number, got nan",
    "model.name.x=1": "model.name: input should be a valid string, got {'x': 1}",
    "train.parts.head=3": "train.parts.head: input should be a valid dictionary, got 3",
    "stages=[{train: {}}]": "stages.0.name: field required, got {'train': {}}",
    "train.epochs": "--set takes key=value, for example train.epochs=20; got 'train.epochs'",
    "=3": "--set takes key=value, for example train.epochs=20; got '=3'",
    "train.epochs=[1": "the value of train.epochs is not readable: '[1'",
}


@pytest.mark.parametrize(("setting", "message"), [*UNKNOWN.items(), *INVALID.items()])
def test_config_mistakes_are_told_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [setting])
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


def test_error_carries_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["train.crop=abc"])
    assert caught.value.key == "train.crop"


def test_key_below_a_value() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["seed=3", "seed.x=1"])
    assert str(caught.value) == "seed holds a value, not further keys; got seed.x"


def test_epochs_and_iterations_exclude_each_other() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(base={"train": {"epochs": 1, "iterations": 1}})
    assert str(caught.value) == "give train.epochs or train.iterations, not both"


def test_precision_is_a_name_even_where_it_looks_like_a_number() -> None:
    assert [load_config(None, [f"train.precision={name}"]).train.precision for name in ("32", "bf16")] == ["32", "bf16"]


def test_last_length_counts() -> None:
    config = load_config(None, ["train.epochs=3", "train.iterations=50"])
    assert (config.train.epochs, config.train.iterations) == (None, 50)
    config = load_config(None, ["train.iterations=50", "train.epochs=3"])
    assert (config.train.epochs, config.train.iterations) == (3, None)
    config = load_config(None, ["train.epochs=3", "train.budget=30m"])
    assert (config.train.epochs, config.train.budget) == (None, "30m")
    config = load_config(None, ["train.budget=30m", "train.epochs=3"])
    assert (config.train.epochs, config.train.budget) == (3, None)


@pytest.mark.parametrize(
    ("text", "seconds", "clock"),
    [
        ("30m", 1800, "wall"),
        ("1h30m", 5400, "wall"),
        ("90 s", 90, "wall"),
        ("0.5h", 1800, "wall"),
        ("40m cpu", 2400, "cpu"),
    ],
)
def test_budgets(text: str, seconds: float, clock: str) -> None:
    assert parse_budget(text) == (seconds, clock)


@pytest.mark.parametrize("text", ["", "30", "0m", "m", "-3m", "30m wall", "cpu", "3m 4"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a budget is a time such as 30m, 1h30m or 90s"):
        parse_budget(text)


def test_folds_take_one_stage() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["folds=3", "stages=[{name: a}]"])
    assert str(caught.value) == "folds take one stage; leave folds or stages out"


def test_a_stage_changes_a_part_of_the_augmentation() -> None:
    config = load_config(None, ["train.augment.rotation=5", "stages=[{name: a, train: {augment: {shear: 3}}}]"])
    augment = stage_configs(config)[0][1].augment
    assert (augment.rotation, augment.shear) == (5, 3)


def test_recipe_and_settings_lie_over_the_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("train: {epochs: 7, loss: {dice: 0.5}}\nmodel: {name: fcn, extra: 3}\n", encoding="utf-8")
    config = load_config(recipe, ["train.batch_size=2", "train.learning_rate=1e-3"], base={"seed": 5})
    assert (config.seed, config.train.epochs, config.train.batch_size) == (5, 7, 2)
    assert config.train.learning_rate == pytest.approx(1e-3)
    assert config.train.loss == {"dice": 0.5}, "a recipe's loss takes the place of the default, whole"
    assert config.model.options == {"extra": 3}
    assert config.recipe == str(recipe)
    assert config.train.momentum == RunConfig().train.momentum


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1\n", "the recipe {path} must hold keys and values, got a list"),
        ("a: [\n", "the recipe {path} is not YAML: "),
        (None, "no recipe file {path}"),
    ],
)
def test_bad_recipe_file(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(message.format(path=path))
    assert "\n" not in str(caught.value)


def test_recipe_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"^cannot read the recipe"):
        load_config(path)


def test_empty_recipe_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("", encoding="utf-8")
    assert load_config(path).train == RunConfig().train


def test_unknown_recipe_name() -> None:
    with pytest.raises(UnknownNameError, match=r"^no recipe named 'no-such-recipe'\."):
        load_config("no-such-recipe")


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_load(name: str) -> None:
    config = load_config(name)
    assert config.recipe == name
    length = config.train.epochs or config.train.iterations or config.stages
    assert length or config.plan, "a recipe says how long, or plans it"


def test_dump_reads_back_equal(tmp_path: Path) -> None:
    config = load_config(
        None,
        [
            "train.crop=[64, 96]",
            "train.scales=[0.5, 1]",
            "train.parts={head: {learning_rate: 10}}",
            "model.dilations=[6, 12]",
            "stages=[{name: first, train: {epochs: 2}, freeze: [backbone]}]",
            "data.path=/tmp/ä",
        ],
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    again = load_config(path)
    assert again.model_copy(update={"recipe": ""}) == config


@given(
    st.builds(
        dict,
        seed=st.integers(0, 2**31 - 1),
        train=st.builds(
            dict,
            batch_size=st.integers(1, 512),
            learning_rate=st.floats(1e-12, 1e3),
            crop=st.none() | st.integers(1, 4096) | st.tuples(st.integers(1, 99), st.integers(1, 99)),
        ),
    )
)
def test_any_config_reads_back_equal(values: dict[str, object]) -> None:
    import yaml

    config = load_config(base=values)
    assert load_config(base=yaml.safe_load(dump_config(config))) == config


def test_stages_lie_over_train() -> None:
    config = load_config(
        None,
        [
            "train.epochs=5",
            "train.batch_size=3",
            "stages=[{name: a, train: {iterations: 9}}, {name: b, train: {batch_size: 1}}]",
        ],
    )
    (first, a), (second, b) = stage_configs(config)
    assert (first, a.epochs, a.iterations, a.batch_size) == ("a", None, 9, 3)
    assert (second, b.epochs, b.iterations, b.batch_size) == ("b", 5, None, 1)


def test_no_stages_is_one_stage() -> None:
    config = RunConfig()
    assert stage_configs(config) == (("train", config.train),)


def test_configuration_is_frozen() -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().seed = 3  # type: ignore[misc]


def test_defaults_are_not_shared() -> None:
    assert RunConfig().train.loss is not RunConfig().train.loss


def test_base_is_not_changed() -> None:
    base = {"train": {"loss": {"dice": 1.0}}}
    load_config(None, ["train.loss.dice=2", "train.epochs=1"], base=base)
    assert base == {"train": {"loss": {"dice": 1.0}}}


def test_every_known_key_is_settable() -> None:
    values = load_config(None).model_dump()
    for key in known_keys():
        section = values
        *path, name = key.split(".")
        for part in path:
            section = section[part]
        assert name in section, key


def test_every_key_is_described() -> None:
    from denseg.config import AugmentConfig, DataConfig, ModelConfig, PartConfig, StageConfig, TrainConfig

    for section in (AugmentConfig, DataConfig, ModelConfig, PartConfig, StageConfig, TrainConfig):
        assert [key for key, field in section.model_fields.items() if not field.description] == [], section


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1e-3", 1e-3), ("[1, 2]", [1, 2]), ("abc", "abc"), ("true", True), ("a=b", "a=b"), ("", None)],
)
def test_setting_values(text: str, value: object) -> None:
    assert parse_setting(f"train.x={text}") == ("train.x", value)
