# SPDX-License-Identifier: Apache-2.0
"""Comparisons: what is planned, what runs again, what a failure stops, and that the tables say what was counted."""

from __future__ import annotations

import csv
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from denseg.errors import DataError, InterruptedRunError, OutputError, RunError, UnknownNameError, UsageError
from denseg.metrics import paired_ratios
from denseg.runs import RunFolder
from denseg.workflows import compare as module
from denseg.workflows.compare import compare, plan_candidates
from denseg.workflows.comparison import Member, judge


def test_candidates_are_models_layers_and_recipes_each_with_every_loss() -> None:
    found = plan_candidates(
        models=["unet", "fcn@test_resnet"], layers=["aspp"], recipes=["demo"], losses=["dice", "cross_entropy+dice"],
        backbone="resnet18",
    )  # fmt: skip
    assert [one.name for one in found] == [
        f"{name}, {loss}"
        for name in ("unet", "fcn@test_resnet", "context:aspp", "demo")
        for loss in ("dice", "cross_entropy+dice")
    ]
    by_name = {one.name: one for one in found}
    assert by_name["unet, dice"].backbone is None, "it takes none"
    assert by_name["fcn@test_resnet, dice"].backbone == "test_resnet"
    assert by_name["context:aspp, dice"].settings == ("model.layer=aspp", 'train.loss={"dice": 1.0}')
    assert by_name["demo, cross_entropy+dice"].settings == ('train.loss={"cross_entropy": 1.0, "dice": 1.0}',)
    assert by_name["demo, dice"].recipe == "demo"
    assert [one.name for one in plan_candidates(losses=["dice"])] == ["unet, dice"]
    assert by_name["fcn@test_resnet, dice"].folder == "fcn-test_resnet-dice"


def test_faults_of_the_plan_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"^no model named 'unett'\. Did you mean 'unet'\?"):
        plan_candidates(models=["unett"])
    with pytest.raises(UnknownNameError, match=r"^no layer named 'asp'"):
        plan_candidates(layers=["asp"])
    with pytest.raises(UnknownNameError, match=r"^no loss named 'dise'"):
        plan_candidates(models=["unet"], losses=["cross_entropy+dise"])
    with pytest.raises(UnknownNameError, match=r"^no recipe named 'demoo'"):
        plan_candidates(recipes=["demoo"])
    message = "nothing to compare; name some with --models, --layers, --losses or --recipes"
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        plan_candidates()
    with pytest.raises(UsageError, match=r"^'unet' is named twice; every candidate needs a name of its own$"):
        plan_candidates(models=["unet", "unet"])


class Fake:
    """Stands in for the processes: writes the runs that they would write."""

    def __init__(self, data: Path, monkeypatch: pytest.MonkeyPatch, *, fails: tuple[str, ...] = ()) -> None:
        self.data = data
        self.fails = fails
        self.calls: list[list[str]] = []
        monkeypatch.setattr(module, "_call", self)

    def __call__(self, arguments: list[str]) -> str:
        self.calls.append(arguments)
        if arguments[0] == "train":
            run = Path(arguments[arguments.index("--out") + 1])
            if run.parent.name in self.fails:
                return "it is too large"
            write_fake_run(run, self.data, skill=0.6 + 0.3 * (run.parent.name == "good"))
        elif arguments[0] == "inspect":
            path = Path(arguments[arguments.index("--json") + 1])
            facts = {"parameters": 1234567, "macs": 5_000_000, "speed": {"seconds": 0.25, "memory": 3 << 20}}
            path.write_text(json.dumps(facts), encoding="utf-8")
        return ""


def write_fake_run(path: Path, data: Path, *, skill: float, stems: int = 30) -> None:
    from denseg.config import RunConfig
    from denseg.types import ClassTable

    seed = int(path.name.rpartition("-")[2])
    rng = np.random.default_rng([seed, int(1000 * skill)])
    run = RunFolder.create(
        path,
        config=RunConfig.model_validate({"data": {"path": str(data)}}),
        classes=ClassTable.numbered(3),
        split=[],
        environment={},
    )
    images = np.random.default_rng(9).uniform(-0.05, 0.05, (stems, 1))
    right = rng.binomial(1000, np.clip(skill + images, 0, 1), (stems, 3))
    labels = np.full((stems, 3), 1000)
    predicted = right + rng.permuted(1000 - right, axis=1)
    first = sorted((data / "images/val").iterdir())[0]
    entry = {"stem": "s0", "image": f"images/val/{first.name}", "mask": "", "miou": 0.5, "pixel_accuracy": 0.5}
    run.write_evaluation("val", {"split": "val", "per_image": [entry], "calibration": None})
    run.set_status("finished", best={"epoch": 1, "score": skill}, peak_memory_bytes=1 << 30)
    names = np.asarray([f"s{index}" for index in range(stems)])
    with run.counts_path("val").open("wb") as file:
        np.savez_compressed(
            file,
            stems=names,
            groups=names,
            right=right,
            labels=labels,
            predicted=predicted,
            looked=np.arange(stems),
            boundary=np.stack([right, labels], axis=1),
            intact=right // 100,
            components=labels // 100,
        )


def test_all_are_trained_scored_and_judged(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake(tiny_data, monkeypatch)
    candidates = [module.Candidate("good", "unet"), module.Candidate("plain", "unet", settings=("train.crop=16",))]
    result = compare(tiny_data, candidates, out=tmp_path / "cmp", epochs=3, settings=["train.workers=0"])
    assert result.ok
    train = next(call for call in fake.calls if call[0] == "train" and "train.crop=16" in call)
    words = [setting for option, setting in pairwise(train) if option == "--set"]
    assert words == ["train.crop=16", "train.workers=0", "train.epochs=3", "data.split_seed=0", "seed=0"]
    assert next(call for call in fake.calls if call[0] == "inspect")[-2:] == ["--size", "48x64"]

    document = result.to_json()
    assert [row["name"] for row in document["rows"]] == ["good", "plain"]
    best = document["rows"][0]
    assert best["miou"]["low"] < best["miou"]["mean"] < best["miou"]["high"]
    (test,) = [test for test in document["tests"] if test["score"] == "miou"]
    assert (test["first"], test["second"]) == ("good", "plain")
    assert test["difference"] == pytest.approx(document["rows"][1]["miou"]["mean"] - best["miou"]["mean"])
    assert test["adjusted"] < 0.01
    lines = "\n".join(result.lines())
    assert re.search(r"good +0\.\d{3} \(0\.\d{3} to 0\.\d{3}\).* 1\.23 M +5 M +250\.0 ms +3 MiB.* +1 GiB", lines)
    assert "good against plain: +" in lines

    rows = list(csv.DictReader(io.StringIO((tmp_path / "cmp/table.csv").read_text(encoding="utf-8"))))
    assert [row["name"] for row in rows] == ["good", "plain"]
    assert float(rows[0]["miou_mean"]) == best["miou"]["mean"]
    assert float(rows[0]["latency"]) == 0.25
    markdown = (tmp_path / "cmp/table.md").read_text(encoding="utf-8").splitlines()
    assert {line.count("|") for line in markdown} == {markdown[0].count("|")}
    tex = (tmp_path / "cmp/table.tex").read_text(encoding="utf-8")
    assert tex.startswith(r"\begin{tabular}{lrr")
    assert tex.count(r"\\") == 3
    assert (tmp_path / "cmp/report.html").stat().st_size > 10_000
    assert json.loads((tmp_path / "cmp/results.json").read_text(encoding="utf-8"))["rows"] == document["rows"]


def test_what_is_done_stays_and_more_can_be_added(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake(tiny_data, monkeypatch)
    out = tmp_path / "cmp"
    first = [module.Candidate("good", "unet")]
    compare(tiny_data, first, out=out, epochs=3)
    fake.calls.clear()
    result = compare(tiny_data, [*first, module.Candidate("later", "unet")], out=out, epochs=3)
    assert {call[call.index("--out") + 1].split("/")[-2] for call in fake.calls if call[0] == "train"} == {"later"}
    assert len(result.comparison.rows) == 2
    with pytest.raises(OutputError, match=rf"^{re.escape(str(out))} holds a comparison with settings .* --out$"):
        compare(tiny_data, first, out=out, epochs=4)
    with pytest.raises(OutputError, match=r"holds another candidate of the name 'good'; choose another --out$"):
        compare(tiny_data, [module.Candidate("good", "fcn")], out=out, epochs=3)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(OutputError, match=r"is not empty and holds no comparison; choose another --out$"):
        compare(tiny_data, first, out=tmp_path / "full", epochs=3)


def test_one_that_fails_stops_no_other(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(tiny_data, monkeypatch, fails=("bad",))
    said: list[str] = []
    candidates = [module.Candidate("bad", "unet"), module.Candidate("good", "unet")]
    result = compare(tiny_data, candidates, out=tmp_path / "cmp", seeds=2, message=said.append)
    assert not result.ok
    assert result.problems() == ["bad: it is too large"]
    assert [row["name"] for row in result.comparison.rows] == ["good"]
    assert len(result.comparison.rows[0]["miou"]["seeds"]) == 2
    assert result.to_json()["failed"] == [{"name": "bad", "message": "it is too large"}]
    assert "bad failed: it is too large" in said
    with pytest.raises(DataError, match=r"^not one of 1 candidates could be trained; the first: it is too large$"):
        compare(tiny_data, candidates[:1], out=tmp_path / "none")


def test_three_seeds_test_the_way_to_train(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Fake(tiny_data, monkeypatch)
    candidates = [module.Candidate("plain", "unet"), module.Candidate("other", "unet")]
    result = compare(tiny_data, candidates, out=tmp_path / "cmp", seeds=3)
    (test,) = [test for test in result.comparison.tests if test["score"] == "continuity"]
    ratios = []
    for name in ("plain", "other"):
        side = []
        for seed in range(3):
            with np.load(tmp_path / f"cmp/runs/{name}/seed-{seed}/evaluation/val.npz") as counts:
                side.append((counts["intact"], counts["components"]))
        ratios.append(side)
    expected = paired_ratios(ratios[0], ratios[1])
    assert [test[key] for key in expected._fields] == pytest.approx(list(expected))


def test_other_images_are_no_comparison(tiny_data: Path, tmp_path: Path) -> None:
    write_fake_run(tmp_path / "a/seed-0", tiny_data, skill=0.5)
    write_fake_run(tmp_path / "b/seed-0", tiny_data, skill=0.5, stems=29)
    members = [Member(name, (RunFolder.open(tmp_path / name / "seed-0"),)) for name in ("a", "b")]
    with pytest.raises(RunError, match=r"of b was scored on other images than .*; start the comparison anew"):
        judge(members, "val")


def test_options_that_exclude_each_other(tiny_data: Path, tmp_path: Path) -> None:
    one = [module.Candidate("unet", "unet")]
    with pytest.raises(UsageError, match=r"^give --budget or --epochs, not both$"):
        compare(tiny_data, one, out=tmp_path / "x", budget="1m", epochs=1)
    with pytest.raises(UsageError, match=r"^--seeds is at least 1, got 0$"):
        compare(tiny_data, one, out=tmp_path / "x", seeds=0)


def test_a_process_tells_its_error_and_its_stop(capfd: Any) -> None:
    reason = module._call(["inspect", "unett"])
    assert reason.startswith("no model named 'unett'. Did you mean 'unet'?")
    assert module._call(["--version"]) == ""


def test_a_stop_of_the_process_is_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexit 3\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(script))
    message = "stopped; what was saved is whole: the same command goes on from there"
    with pytest.raises(InterruptedRunError, match=f"^{re.escape(message)}$"):
        module._call(["train"])
    script.write_text("#!/bin/sh\nkill -9 $$\n", encoding="utf-8")
    assert module._call(["train"]) == (
        "the process ended with code -9 (killed, most likely because the memory was full; try a smaller "
        "train.batch_size or train.crop)"
    )
