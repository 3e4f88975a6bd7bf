# SPDX-License-Identifier: Apache-2.0
import socket
import urllib.request

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub import constants

from denseg.backbones import create_backbone
from denseg.backbones.weights import weight_names
from denseg.errors import CheckpointError, UnsupportedError

REMEDY = (
    "Connect to the internet for the first use, or point HF_HOME at a folder that holds them, or start without them "
    "(--init none, pretrained=False)."
)


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(urllib.request, "getproxies", dict)


@pytest.mark.parametrize("output_stride", [None, 8])
def test_without_network_it_fails_at_once_with_a_remedy(monkeypatch, empty_cache, output_stride):
    def refuse(address, timeout):
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(CheckpointError) as error:
        create_backbone("test_resnet", pretrained=True, output_stride=output_stride)
    assert str(error.value) == (
        "cannot download the ImageNet weights of backbone 'test_resnet': huggingface.co cannot be reached (no route). "
        + REMEDY
    )


def test_offline_by_setting(monkeypatch, empty_cache):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as error:
        create_backbone("test_resnet", pretrained=True)
    assert str(error.value) == (
        "cannot load the ImageNet weights of backbone 'test_resnet': HF_HUB_OFFLINE is set. " + REMEDY
    )


def test_a_download_that_breaks_is_one_error(monkeypatch, empty_cache):
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "http://proxy"})
    create = timm.create_model

    def break_off(name, *, pretrained=False, **options):
        if pretrained:
            raise ConnectionResetError("peer closed.\nstack …")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", break_off)
    with pytest.raises(CheckpointError) as error:
        create_backbone("test_resnet", pretrained=True)
    assert str(error.value) == ("cannot load the ImageNet weights of backbone 'test_resnet': peer closed. " + REMEDY)


def test_cached_weights_are_loaded(monkeypatch):
    weights = timm.create_model("test_resnet", features_only=True).state_dict()
    create = timm.create_model

    def from_cache(name, *, pretrained=False, **options):
        network = create(name, **options)
        if pretrained:
            network.load_state_dict(weights)
        return network

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: "file")
    monkeypatch.setattr(timm, "create_model", from_cache)
    loaded = create_backbone("test_resnet", pretrained=True, output_stride=8).network.state_dict()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_networks_without_weights():
    with pytest.raises(UnsupportedError) as error:
        create_backbone("coatnet_0_224", pretrained=True)
    assert str(error.value) == (
        "there are no ImageNet weights of backbone 'coatnet_0_224'; start without (--init none)"
    )


def test_weight_names():
    assert weight_names("test_resnet") == ("test_resnet.r160_in1k",)
