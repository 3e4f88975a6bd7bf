# SPDX-License-Identifier: Apache-2.0
"""`denseg eval` as a user runs it: the run's own split, other folders, bare checkpoints."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from denseg.cli import main
from denseg.data.encoding import MaskEncoding
from denseg.data.samples.normalization import Normalization
from denseg.inference import Predictor
from denseg.models import create_model, save_checkpoint
from denseg.runs import RunFolder
from denseg.types import ClassTable
from denseg.workflows.train import train

SETTINGS = ("model.width=0.0625", "train.epochs=1", "train.batch_size=2", "train.workers=0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_pairs):
    """A folder with splits, one without, and a run on each."""
    root = tmp_path_factory.mktemp("eval")
    data = make_pairs(root / "data", {"train": 4, "val": 3, "test": 2})
    flat = make_pairs(root / "flat", {"": 8}, seed=1)
    for folder in (data, flat):
        train(folder, model="unet", settings=SETTINGS, out=root / f"run-{folder.name}", device="cpu", progress=False)
    return root


def run(*arguments):
    return main(["eval", *map(str, arguments), "--device", "cpu"])


def naive_miou(pairs, num_classes):
    """Counts over all images, one class after the other."""
    scores = []
    for label in range(num_classes):
        hit = sum(int(((guess == label) & (truth == label)).sum()) for guess, truth in pairs)
        union = sum(int(((guess == label) | (truth == label)).sum()) for guess, truth in pairs)
        if union:
            scores.append(hit / union)
    return float(np.mean(scores))


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_scores_are_those_of_the_predicted_labels(trained, capsys):
    data, folder = trained / "data", trained / "run-data"
    assert run(folder, data, "--split", "test", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    predictor = Predictor.load(folder, device="cpu")
    stems = sorted(path.stem for path in (data / "images" / "test").iterdir())
    pairs = [
        (predictor.predict(data / "images/test" / f"{stem}.png"), read(data / "masks/test" / f"{stem}.png"))
        for stem in stems
    ]
    assert result["miou"] == pytest.approx(naive_miou(pairs, 3), abs=1e-12)
    assert result["images"] == 2
    assert result["pixel_accuracy"] == pytest.approx(np.mean([guess == truth for guess, truth in pairs]), abs=1e-12)
    assert [entry["name"] for entry in result["classes"]] == ["class_0", "class_1", "class_2"]
    assert sum(entry["pixels"] for entry in result["classes"]) == 2 * 48 * 64
    assert np.sum(result["confusion"]) == 2 * 48 * 64
    low, high = result["interval"]
    assert low <= result["miou"] <= high
    train_masks = [read(path) for path in (data / "masks/train").iterdir()]
    majority = int(np.bincount(np.concatenate([mask.ravel() for mask in train_masks])).argmax())
    everywhere = [(np.full_like(truth, majority), truth) for _, truth in pairs]
    assert result["baseline_miou"] == pytest.approx(naive_miou(everywhere, 3), abs=1e-12)
    assert result["checkpoint"] == "checkpoints/best.safetensors"
    assert {"split", "mean_accuracy", "frequency_weighted_iou", "per_image", "warnings", "notes"} <= result.keys()


def test_the_run_keeps_scores_and_predictions_of_its_own_splits(trained, capsys):
    folder = RunFolder.open(trained / "run-data")
    assert run(folder.path, trained / "data", "--split", "test") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {folder.evaluation_path('test')}"
    assert set(folder.evaluations()) >= {"test", "val"}
    stems = [entry["stem"] for entry in folder.evaluation("test")["per_image"]]
    for stem in stems:
        assert read(folder.prediction_path("test", stem)).shape == (48, 64)
    assert folder.report_path.is_file()


def test_training_and_eval_agree(trained, capsys):
    """The split that was made for a flat folder is found again, and the numbers are the same."""
    folder = RunFolder.open(trained / "run-flat")
    before = folder.evaluation("val")
    assert run(folder.path, trained / "flat", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["split"] == "val"
    for key in ("miou", "baseline_miou", "interval", "confusion", "per_image", "classes"):
        assert result[key] == before[key]


def test_moved_data_are_still_the_runs(trained, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(trained / "flat", moved)
    Image.fromarray(255 - read(moved / "images" / "image_000.png")).save(moved / "images" / "image_000.png")
    assert run(trained / "run-flat", moved, "--split", "all", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 8
    assert result["notes"] == [
        "6 of these 8 images trained the model: the scores flatter it",
        "1 files changed since the run began, first images/image_000.png",
    ]


def test_unusual_scores_are_not_kept(trained, capsys):
    folder = RunFolder.open(trained / "run-data")
    before = folder.evaluation_path("val").read_bytes()
    assert run(folder.path, trained / "data", "--flip", "--scales", "0.5,1") == 0
    assert run(folder.last_path, trained / "data", "--tile", 256) == 0
    assert "written to" not in capsys.readouterr().out
    assert folder.evaluation_path("val").read_bytes() == before


def test_another_folder_without_splits_is_scored_whole(trained, capsys):
    assert run(trained / "run-data", trained / "flat", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["split"], result["images"]) == ("all", 8)
    assert result["notes"] == ["the folder has no split val: all 8 images are scored"]


def test_table_for_a_person(trained, capsys):
    assert run(trained / "run-data", trained / "data") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("val: 3 images, mIoU 0.")
    assert "95 % interval" in lines[0]
    assert "majority baseline" in lines[0]
    assert lines[3].split() == ["class", "IoU", "accuracy", "pixels"]
    assert [line.split()[0] for line in lines[4:7]] == ["class_0", "class_1", "class_2"]


def test_a_bare_checkpoint_reads_the_masks_itself(trained, tmp_path, capsys):
    path = tmp_path / "bare.safetensors"
    torch.manual_seed(0)
    save_checkpoint(
        create_model("unet", num_classes=3, width=0.0625), path, normalization=Normalization.imagenet().to_json()
    )
    assert run(path, trained / "data", "--json", "-") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["notes"] == ["masks are read by themselves, since the checkpoint does not say how masks are read"]
    counts = np.array(result["confusion"])
    own = np.zeros_like(counts)
    own[:, counts.sum(axis=1).argmax()] = counts.sum(axis=1)
    diagonal, union = np.diag(own), own.sum(0) + own.sum(1) - np.diag(own)
    assert result["baseline_miou"] == pytest.approx(np.mean(diagonal[union > 0] / union[union > 0]))


def test_classes_that_do_not_fit_are_refused(trained, tmp_path, capsys):
    path = tmp_path / "five.safetensors"
    classes = ClassTable.numbered(5)
    model = create_model("unet", num_classes=5, width=0.0625)
    save_checkpoint(model, path, classes=classes, normalization=Normalization.imagenet().to_json())
    assert run(path, trained / "data") == 1
    assert capsys.readouterr().err == (
        f"error: the masks of {trained / 'data'} do not fit the model: the checkpoint does not say how masks are read; "
        "read by themselves they hold 3 classes (class_0, class_1, class_2, …), the model has 5 "
        "(class_0, class_1, class_2, class_3, …)\n"
    ).replace("class_2, …), the", "class_2), the")


def test_masks_stored_otherwise_are_read_by_themselves(trained, tmp_path, capsys):
    """The model learned values 0, 1, 2; this folder stores 0, 100, 200 of classes with the same names."""
    other = tmp_path / "other"
    shutil.copytree(trained / "data", other)
    for path in (other / "masks").rglob("*.png"):
        Image.fromarray((read(path) * 100).astype(np.uint8)).save(path)
    (other / "dataset.yaml").write_text(
        "classes: [class_0, class_1, class_2]\nlabel_map: {0: 0, 100: 1, 200: 2}\n", encoding="utf-8"
    )
    path = tmp_path / "model.safetensors"
    shutil.copy(trained / "run-data" / "checkpoints" / "best.safetensors", path)
    assert run(path, other, "--json", tmp_path / "a.json") == 0
    assert run(trained / "run-data", trained / "data", "--json", tmp_path / "b.json") == 0
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert a["confusion"] == b["confusion"]
    assert a["notes"][0].startswith("masks are read by themselves, since ")
    assert MaskEncoding.from_json(Predictor.load(path, device="cpu").metadata["encoding"]).num_classes == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["{root}/run-data", "{root}/data", "--split", "vall"], 2,
            "{root}/data has no split 'vall'. Did you mean 'val'? There: test, train, val, all",
        ),
        (["{root}/run-data", "{root}/absent"], 1, "there is no folder {root}/absent"),
        (["{root}/nothing", "{root}/data"], 1, "no checkpoint {root}/nothing: there is no such file or folder"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(trained, capsys, arguments, code, message):
    assert run(*(argument.format(root=trained) for argument in arguments)) == code
    assert capsys.readouterr().err == f"error: {message.format(root=trained)}\n"


def test_an_unreadable_image_is_named(trained, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(trained / "data", broken)
    victim = broken / "images" / "val" / "val_001.png"
    victim.write_bytes(victim.read_bytes()[:200])
    assert run(trained / "run-data", broken) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(victim) in error


def test_an_empty_mask_folder(trained, tmp_path, capsys):
    lonely = tmp_path / "lonely"
    (lonely / "images").mkdir(parents=True)
    shutil.copy(trained / "flat" / "images" / "image_000.png", lonely / "images")
    assert run(trained / "run-data", lonely) == 1
    assert capsys.readouterr().err == f"error: {lonely} holds no image with a mask: there is nothing to score\n"


def test_a_finished_run_knows_how_far_its_network_reaches(trained):
    for name in ("best", "last"):
        predictor = Predictor.load(trained / "run-data" / "checkpoints" / f"{name}.safetensors", device="cpu")
        stored = predictor.metadata["halo"]
        assert stored["pixels"] == 112
        assert stored["reason"] == "one pixel reaches 107 pixels far"
        assert predictor.tiled._reach.halo == 112  # so that nothing is measured again
        assert predictor.metadata["training"]["class_pixels"]
        assert predictor.metadata["encoding"]["num_classes"] == 3


def test_the_temperature_is_fitted_stored_and_told(trained, capsys):
    """The best checkpoint scales its probabilities; evaluating it again changes nothing."""
    import numpy as np

    from denseg.inference import Predictor
    from denseg.metrics import apply_temperature

    folder = RunFolder.open(trained / "run-flat")
    predictor = Predictor.load(folder.path, device="cpu")
    stored = predictor.metadata["calibration"]
    before = folder.evaluation("val")
    assert stored["temperature"] == before["calibration"]["temperature"] == predictor.temperature != 1
    assert stored["split"] == "val"
    image = trained / "flat" / before["per_image"][0]["image"]
    scaled = predictor.probabilities(image)
    labels = predictor.predict(image)
    predictor.temperature = 1.0
    plain = predictor.probabilities(image)
    np.testing.assert_allclose(scaled, apply_temperature(plain, stored["temperature"]), atol=1e-6)
    assert np.array_equal(labels, plain.argmax(axis=0)), "no label depends on it"
    assert run(folder.path, trained / "flat", "--json", "-") == 0
    again = json.loads(capsys.readouterr().out)
    for key in ("calibration", "risk_coverage", "boundary", "continuity", "sizes"):
        assert again[key] == before[key]
    with np.load(folder.counts_path("val"), allow_pickle=False) as counts:
        union = counts["labels"] + counts["predicted"] - counts["right"]
        total = counts["right"].sum(axis=0)[union.sum(axis=0) > 0] / union.sum(axis=0)[union.sum(axis=0) > 0]
        assert total.mean() == before["miou"]
        assert counts["stems"].tolist() == [entry["stem"] for entry in before["per_image"]]
