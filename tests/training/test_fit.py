# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from denseg.errors import CheckpointError, ConfigError, InterruptedRunError, TrainingError, UsageError
from denseg.models.checkpoint import load_checkpoint
from denseg.models.tensor_file import read_tensors
from denseg.runs import RunFolder
from denseg.training.fabric import create_fabric
from denseg.training.interrupt import StopRequest
from denseg.training.setup import TrainingData, step_seed
from denseg.training.state import LoadedState, load_state

Fit = Callable[..., Any]


def digest(path: Path) -> str:
    tensors, _ = read_tensors(path)
    value = hashlib.sha256()
    for name in sorted(tensors):
        value.update(name.encode() + tensors[name].contiguous().numpy().tobytes())
    return value.hexdigest()


def rows(run: RunFolder) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key not in {"seconds", "images_per_second"}}
        for row in run.metrics()
    ]


def state(run: RunFolder) -> LoadedState:
    loaded = load_state(run)
    assert loaded is not None
    return loaded


def test_a_training_leaves_checkpoints_table_and_events(fit_run: Fit, data: TrainingData) -> None:
    run, position, lines = fit_run()
    assert position.finished
    assert position.all_steps == 4
    table = run.metrics()
    assert [(row["stage"], row["epoch"], row["step"], row["images"]) for row in table] == [
        ("train", 1, 2, 4),
        ("train", 2, 4, 4),
    ]
    assert all(isinstance(row["loss"], float) and isinstance(row["val_miou"], float) for row in table)
    assert table[0]["learning_rate"] == pytest.approx(0.01 * (1 - 1 / 4) ** 0.9)
    checkpoint = load_checkpoint(run.last_path)
    assert checkpoint.metadata["training"]["epoch"] == 2
    assert checkpoint.metadata["normalization"] == data.normalization.to_json()
    assert checkpoint.metadata["encoding"] == data.encoding.to_json()
    assert checkpoint.metadata["classes"] == data.classes.to_json()
    assert run.best_path.is_file()
    assert run.record()["epoch"] == 2
    assert list(run.path.glob("events.out.tfevents.*"))
    assert lines[0] == "weights: random (seed 3); --init imagenet starts a backbone from ImageNet"
    assert any(line.startswith("epoch 2/2  loss ") for line in lines)


def test_the_loss_falls_and_the_best_is_kept(fit_run: Fit) -> None:
    run, position, _ = fit_run("train.epochs=15", "train.optimizer=adamw", "train.learning_rate=0.01", "train.flip=0")
    losses = [row["loss"] for row in run.metrics()]
    assert losses[-1] < 0.8 * losses[0]
    scores = [row["val_miou"] for row in run.metrics()]
    assert position.best == max(scores)
    assert position.best_epoch == 1 + scores.index(max(scores))
    assert load_checkpoint(run.best_path).metadata["training"]["epoch"] == position.best_epoch


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("train.optimizer=adamw", "train.precision=bf16"),
        ("train.accumulate=2", "train.clip_norm=0.5"),
        ("train.channels_last=false", "train.loss={cross_entropy: 1.0, dice: 0.5}"),
        (
            "model.name=fcn",
            "model.backbone=test_resnet",
            "model.width=null",
            "train.loss_at=heatmap",
            "train.accumulate=2",
        ),
    ],
)
def test_the_same_seed_gives_the_same_bits(fit_run: Fit, settings: tuple[str, ...]) -> None:
    first, second = (fit_run(*settings, name=name).run for name in ("a", "b"))
    assert digest(first.state_path) == digest(second.state_path)
    assert digest(first.best_path) == digest(second.best_path)
    assert rows(first) == rows(second)
    assert all(row["val_loss"] is not None for row in rows(first))


def test_another_seed_gives_other_bits(fit_run: Fit) -> None:
    assert digest(fit_run(name="a").run.last_path) != digest(fit_run("seed=4", name="b").run.last_path)


def test_the_number_of_workers_changes_nothing(fit_run: Fit) -> None:
    runs = [fit_run(f"train.workers={workers}", name=f"w{workers}").run for workers in (0, 1, 2)]
    assert len({digest(run.state_path) for run in runs}) == 1
    assert len({str(rows(run)) for run in runs}) == 1


def test_global_random_numbers_are_left_alone(fit_run: Fit) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    fit_run()
    assert torch.equal(torch.rand(3), wanted)


class StopAfter(StopRequest):
    """Asks to stop after so many looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def __bool__(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize("looks", range(8))
def test_stopped_at_any_step_or_validated_image_and_resumed(fit_run: Fit, looks: int) -> None:
    whole = fit_run(name="whole").run
    with pytest.raises(InterruptedRunError) as caught:
        fit_run(name="stopped", stop=StopAfter(looks))
    run = RunFolder(whole.path.parent / "stopped")
    assert str(caught.value).startswith("stopped in epoch ")
    assert str(caught.value).endswith(f"everything is saved in {run.path}: go on with --resume")
    assert caught.value.exit_code == 3
    fit_run(run=run, loaded=state(run))
    assert digest(run.state_path) == digest(whole.state_path)
    assert digest(run.best_path) == digest(whole.best_path)
    assert rows(run) == rows(whole)


def test_resumed_with_other_workers_is_the_same(fit_run: Fit) -> None:
    whole = fit_run(name="whole").run
    with pytest.raises(InterruptedRunError):
        fit_run("train.workers=2", name="stopped", stop=StopAfter(2))
    run = RunFolder(whole.path.parent / "stopped")
    fit_run("train.workers=1", run=run, loaded=state(run))
    assert digest(run.state_path) == digest(whole.state_path)


def test_another_number_of_threads_is_said(fit_run: Fit, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "stopped")
    with pytest.raises(InterruptedRunError):
        fit_run(name="stopped", stop=StopAfter(1))
    loaded = state(run)
    loaded.position.facts["threads"] = 7
    lines = fit_run(run=run, loaded=loaded).lines
    assert lines[0] == (
        "note: this run goes on with threads 7 -> 1; its result will be as good, but not bit for bit the same"
    )


def test_accumulated_batches_equal_one_large_batch(fit_run: Fit) -> None:
    """With batch norm frozen, since its statistics see the batches one by one."""
    common = ("train.freeze_norm=true", "train.epochs=3", "train.optimizer=adamw")
    small = fit_run(*common, "train.batch_size=1", "train.accumulate=4", name="small").run
    large = fit_run(*common, "train.batch_size=4", "train.accumulate=1", name="large").run
    one, two = (read_tensors(run.last_path)[0] for run in (small, large))
    assert max(float((one[name].float() - two[name].float()).abs().max()) for name in one) < 1e-4
    for a, b in zip(rows(small), rows(large), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


def test_stages_follow_each_other_and_resume_between_them(fit_run: Fit) -> None:
    second = "{name: context, train: {epochs: 2, optimizer: adamw, learning_rate: 0.001}, freeze: [norm]}"
    stages = f"stages=[{{name: front, train: {{epochs: 1}}}}, {second}]"
    whole = fit_run(stages, name="whole").run
    assert [(row["stage"], row["epoch"], row["step"]) for row in whole.metrics()] == [
        ("front", 1, 2),
        ("context", 1, 2),
        ("context", 2, 4),
    ]
    assert state(whole).position.all_steps == 6
    for looks in (1, 3, 4, 6, 9):
        name = f"stopped{looks}"
        with pytest.raises(InterruptedRunError):
            fit_run(stages, name=name, stop=StopAfter(looks))
        run = RunFolder(whole.path.parent / name)
        fit_run(stages, run=run, loaded=state(run))
        assert digest(run.state_path) == digest(whole.state_path)
        assert rows(run) == rows(whole)


def test_iterations_cut_the_last_epoch_short(fit_run: Fit) -> None:
    run, position, _ = fit_run("train.iterations=5")
    assert position.all_steps == 5
    assert [row["step"] for row in run.metrics()] == [2, 4, 5]


def test_patience_stops_early(fit_run: Fit) -> None:
    _, position, _ = fit_run("train.epochs=30", "train.patience=2", "train.learning_rate=1e-12")
    assert position.finished
    assert position.epoch == position.best_epoch + 2


@pytest.mark.parametrize("metric", ["loss", "pixel_accuracy", "iou/class_1"])
def test_the_metric_decides_the_best(fit_run: Fit, metric: str) -> None:
    run, position, _ = fit_run("train.epochs=6", f"train.metric={metric}", "train.learning_rate=0.1")
    column = {"loss": "val_loss", "pixel_accuracy": "val_pixel_accuracy"}.get(metric, metric)
    values = [row[column] for row in run.metrics()]
    wanted = min(values) if metric == "loss" else max(values)
    assert position.best_epoch == 1 + values.index(wanted)
    assert run.record()["best"] == {"score": wanted, "epoch": position.best_epoch}


def test_an_unknown_metric_is_told_before_training(fit_run: Fit) -> None:
    with pytest.raises(ConfigError) as caught:
        fit_run("train.metric=mioo")
    assert str(caught.value) == (
        "train.metric: no score named 'mioo'. Did you mean 'miou'? Known: miou, pixel_accuracy, mean_accuracy, "
        "frequency_weighted_iou, loss, iou/class_0, iou/class_1, iou/class_2"
    )


def test_a_loss_that_explodes_stops_and_keeps_the_batch(fit_run: Fit, data: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        fit_run("train.learning_rate=1e30", "train.epochs=4", "train.checkpoint_every=1")
    message = str(caught.value)
    run = RunFolder(tmp_path / "run")
    if "weights" in message:  # seen when it was about to be saved
        assert message.endswith("lower train.learning_rate, or set train.clip_norm, and start again from another --out")
    else:
        assert message.startswith("the loss became ")
        assert f"(kept in {run.failed_batch_path})" in message
        kept, metadata = read_tensors(run.failed_batch_path)
        assert kept["0/images"].shape == (2, 3, 32, 32)
        assert metadata["what"] == "loss"
        assert all(data.train[int(index)].stem in message for index in kept["0/index"])
    loaded = load_state(run)
    assert loaded is None or all(
        bool(torch.isfinite(t).all()) for t in loaded.tensors.values() if t.is_floating_point()
    )


def test_initial_weights_of_a_run(fit_run: Fit) -> None:
    first = fit_run(name="first").run
    run, _, lines = fit_run(f"init={first.path}", "train.learning_rate=1e-12", "train.epochs=1", name="second")
    assert lines[0].startswith("weights: ")
    assert lines[0].endswith(f"tensors from {first.path}")
    one, two = (read_tensors(path)[0] for path in (first.checkpoint(), run.last_path))
    weights = [name for name in one if name.endswith("weight")]
    assert max(float((one[name] - two[name]).abs().max()) for name in weights) < 1e-6


def test_initial_weights_of_another_network_are_refused(fit_run: Fit) -> None:
    first = fit_run(name="first").run
    with pytest.raises(CheckpointError) as caught:
        fit_run(f"init={first.path}", "model.width=0.125", name="second")
    assert "tensors of unet; it is of another network: give --model and --backbone as it was trained" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "device is auto, cpu, cuda, cuda:N or mps; got 'gpu'"),
        ("cpu:1", "device is auto, cpu, cuda, cuda:N or mps; got 'cpu:1'"),
        ("cuda:x", "device is auto, cpu, cuda, cuda:N or mps; got 'cuda:x'"),
    ],
)
def test_unknown_devices(device: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        create_fabric(device, "32")
    assert str(caught.value) == message


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_an_absent_device_names_what_works() -> None:
    with pytest.raises(UsageError) as caught:
        create_fabric("cuda", "32")
    assert str(caught.value) == "this machine has no cuda device that torch can use; use --device cpu"


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(ConfigError) as caught:
        create_fabric("cpu", "16")
    assert str(caught.value) == "train.precision 16 needs a GPU; on a CPU use bf16 or 32"


def test_step_seeds_differ() -> None:
    seeds = {
        step_seed(seed, stage, step, part)
        for seed in range(3)
        for stage in range(3)
        for step in range(30)
        for part in range(4)
    }
    assert len(seeds) == 3 * 3 * 30 * 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_compiled_network_trains_and_saves_its_own_names(fit_run: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch's own tracing and without its C++ compiler, which takes a minute."""
    compiled: list[Any] = []
    inner = torch.compile

    def eager(model: Any, **options: Any) -> Any:
        compiled.append(model)
        return inner(model, **{**options, "backend": "eager"})

    monkeypatch.setattr(torch, "compile", eager)
    run = fit_run("train.compile=true", "train.ema=0.9").run
    assert compiled
    plain = fit_run("train.ema=0.9", name="plain").run
    one, two = (read_tensors(folder.state_path)[0] for folder in (run, plain))
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_batch_norm_over_processes_needs_gpus() -> None:
    from types import SimpleNamespace

    from denseg.models import create_model
    from denseg.training.stage import synchronized

    model = create_model("unet", num_classes=2, width=0.0625)
    one: Any = SimpleNamespace(world_size=1, device=torch.device("cpu"))
    assert synchronized(model, one) is model
    two: Any = SimpleNamespace(world_size=2, device=torch.device("cpu"))
    with pytest.raises(ConfigError) as caught:
        synchronized(model, two)
    assert str(caught.value) == (
        "train.sync_norm needs GPUs, and these processes run on cpu; set train.freeze_norm, or larger batches"
    )
    gpus: Any = SimpleNamespace(world_size=2, device=torch.device("cuda"))
    names = set(model.state_dict())
    converted = synchronized(model, gpus)
    kinds = {type(module) for module in converted.modules() if isinstance(module, torch.nn.modules.batchnorm._NormBase)}
    assert kinds == {torch.nn.SyncBatchNorm}
    assert set(converted.state_dict()) == names, "checkpoints fit both"
