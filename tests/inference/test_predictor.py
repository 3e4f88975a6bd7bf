# SPDX-License-Identifier: Apache-2.0
"""The predictor: the checkpoint's own normalisation and classes, any size, and refusals that say what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from PIL import Image

from denseg.data.samples.normalization import Normalization
from denseg.errors import CheckpointError, ImageError, ShapeError, UsageError
from denseg.inference import Predictor
from denseg.inference.canvas import run_on_canvas
from denseg.inference.device import choose_device
from denseg.inference.halo import Reach
from denseg.inference.strategy import TileOptions
from denseg.models import create_model, load_checkpoint, save_checkpoint
from denseg.types import ClassTable

CLASSES = ClassTable(("sky", "road", "tree"), ((0, 0, 255), (90, 90, 90), (0, 128, 0)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    model = create_model("unet", num_classes=3, width=0.0625).eval()
    save_checkpoint(model, path, classes=CLASSES, normalization=Normalization.imagenet().to_json())
    return path


def pixels(height, width, bands=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)


def test_predict_is_the_normalised_image_through_the_model(checkpoint, tmp_path):
    predictor = Predictor.load(checkpoint, device="cpu")
    image = pixels(53, 70)
    file = tmp_path / "image.png"
    Image.fromarray(image).save(file)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    tensor = ((torch.from_numpy(image) / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.inference_mode():
        model = predictor.tiled.model
        logits = run_on_canvas(model, tensor.contiguous(memory_format=torch.channels_last), model.geometry).logits[0]
    probabilities = predictor.probabilities(image)
    assert np.abs(probabilities - logits.softmax(0).numpy()).max() < 1e-5
    labels = predictor.predict(image)
    assert labels.dtype == np.uint8
    assert labels.shape == (53, 70)
    assert (labels == probabilities.argmax(0)).all()
    assert (predictor.predict(file) == labels).all()
    assert (predictor.predict(str(file)) == labels).all()
    assert predictor.classes == CLASSES
    assert predictor.path == checkpoint


def test_tiles_do_not_change_the_labels(checkpoint):
    image = pixels(300, 280)
    whole = Predictor.load(checkpoint, device="cpu").predict(image)
    tiled = Predictor.load(checkpoint, device="cpu", tile=256)
    assert str(tiled.strategy(300, 280)).endswith("mode halo, exact: one pixel reaches 107 pixels far")
    assert (tiled.predict(image) == whole).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 97), (200, 2), (33, 31)])
def test_any_size(checkpoint, size):
    assert Predictor.load(checkpoint, device="cpu").predict(pixels(*size)).shape == size


def test_stored_halo_is_used(checkpoint, tmp_path):
    path = tmp_path / "with_halo.safetensors"
    model = load_checkpoint(checkpoint).model
    halo = Reach(112, "measured in training").to_json()
    save_checkpoint(model, path, classes=CLASSES, normalization=Normalization.imagenet().to_json(), halo=halo)
    predictor = Predictor.load(path, device="cpu", options=TileOptions(tile=512), tile=320, overlap=None)
    assert predictor.strategy(400, 400).reason == "measured in training"
    assert predictor.strategy(400, 400).plan.window == (320, 320)


def test_batch_norms_are_folded_and_the_labels_stay(tmp_path):
    torch.manual_seed(0)
    model = create_model("unet", num_classes=3, backbone="test_resnet").train()
    with torch.no_grad():
        for step in range(3):  # statistics of their own
            model(torch.randn(2, 3, 64, 64) * (1 + step))
    save_checkpoint(model.eval(), tmp_path / "a.safetensors", normalization=Normalization.imagenet().to_json())
    predictor = Predictor.load(tmp_path / "a.safetensors", device="cpu")
    folded = [type(module).__name__ for module in predictor.tiled.model.modules()]
    assert "_Nothing" in folded or "_Rest" in folded
    image = pixels(90, 70)
    plain = Predictor(model, classes=predictor.classes, normalization=predictor.normalization)
    assert np.abs(predictor.probabilities(image) - plain.probabilities(image)).max() < 1e-5
    assert predictor.strategy(5000, 5000).reason == plain.strategy(5000, 5000).reason


def test_views_average(checkpoint):
    predictor = Predictor.load(checkpoint, device="cpu", scales=(0.5, 1), flip=True)
    assert predictor.tiled.views.count == 4
    labels = predictor.predict(pixels(40, 50))
    assert labels.shape == (40, 50)


def test_grey_pictures_are_taken_by_a_colour_model(checkpoint):
    predictor = Predictor.load(checkpoint, device="cpu")
    grey = pixels(20, 30, 1)
    assert (predictor.predict(grey[:, :, 0]) == predictor.predict(np.repeat(grey, 3, axis=2))).all()


def predictor_of(scale, bands=1):
    torch.manual_seed(0)
    model = create_model("unet", num_classes=2, in_channels=bands, width=0.0625).eval()
    normalization = Normalization((0.5,) * bands, (0.25,) * bands, scale)
    return Predictor(model, classes=ClassTable.numbered(2), normalization=normalization)


@pytest.mark.parametrize(
    ("scale", "image", "message"),
    [
        (255, pixels(4, 4, 5), "the image: 5 bands, expected 1; convert it or remove it"),
        (
            255,
            np.full((4, 4), 4000, np.uint16),
            "the image: 16-bit pixels up to 4000, the model was trained on values of 0..255; bring them to that range",
        ),
        (
            65535,
            np.full((4, 4), 90, np.uint8),
            "the image: 8-bit pixels up to 90, the model was trained on values of 0..65535; bring them to that range",
        ),
        (
            255,
            np.full((4, 4), 0.5, np.float32),
            "the image: float pixels up to 0.5, the model was trained on values of 0..255; multiply them by 255",
        ),
        (255, np.ones((4, 4), bool), "the image: pixels are true or false; multiply them by 255"),
        (1, np.ones((4, 4), complex), "the image: pixels are of type complex128, not numbers; convert them"),
    ],
)
def test_pixels_that_would_be_misread_are_refused(scale, image, message):
    with pytest.raises(ImageError, match=f"^{re.escape(message)}$"):
        predictor_of(scale).predict(image)


@pytest.mark.parametrize(
    ("scale", "image"),
    [
        (255, np.full((4, 4), 200, np.uint16)),  # 8 bits in a 16-bit container
        (255, np.full((4, 4), 200.5)),
        (255, np.zeros((4, 4), np.float32)),
        (255, np.full((4, 4), np.nan, np.float32)),
        (1, np.full((4, 4), 0.5, np.float32)),
        (65535, np.full((4, 4), 60000, np.uint16)),
        (255, np.full((4, 4), 7, np.int64)),
    ],
)
def test_pixels_in_range_are_taken(scale, image):
    assert predictor_of(scale).predict(image).shape == (4, 4)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0, 1), (4,), (1, 4, 4, 1)])
def test_arrays_that_are_no_image_are_refused(shape):
    message = f"an image is (H, W, C) or (H, W) with at least one pixel, got an array of shape {shape}"
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        predictor_of(255).predict(np.zeros(shape, np.uint8))


def test_the_image_is_not_changed(checkpoint):
    image = pixels(20, 20)
    before = image.copy()
    Predictor.load(checkpoint, device="cpu").predict(image)
    assert (image == before).all()


def test_a_checkpoint_without_normalisation_is_refused(tmp_path):
    path = tmp_path / "bare.safetensors"
    save_checkpoint(create_model("unet", num_classes=2, in_channels=5, width=0.0625), path)
    message = (
        f"{path} does not say how its images were normalised; save it again with save_checkpoint(…, normalization=…)"
    )
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        Predictor.load(path, device="cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device is auto, cpu, cuda, cuda:N or mps; got 'gpu'"),
        ("cpu:1", "device is auto, cpu, cuda, cuda:N or mps; got 'cpu:1'"),
        ("cuda:x", "device is auto, cpu, cuda, cuda:N or mps; got 'cuda:x'"),
        ("auto:1", "device is auto, cpu, cuda, cuda:N or mps; got 'auto:1'"),
    ],
)
def test_unknown_devices_are_refused(name, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        choose_device(name)


def test_absent_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    assert choose_device("cpu").type == "cpu"
    for kind in ("cuda", "mps"):
        message = f"this machine has no {kind} device that torch can use; use --device cpu"
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            choose_device(kind)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto").type == "cuda"
    assert choose_device("cuda:1").index == 1
    with pytest.raises(UsageError, match=r"^there is no cuda:2: torch sees 2 cuda devices here$"):
        choose_device("cuda:2")
