"""Similarity of image and text through a stand-in with open_clip's documented interface.

open_clip itself needs torchvision and BiomedCLIP's weights, which the tests do without.
"""

from __future__ import annotations

import json
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.text_image import load_clip

RED, GREEN, GRAY = (Image.new("RGB", (8, 8), color) for color in ((255, 0, 0), (0, 255, 0), (128, 128, 128)))


class StandIn(nn.Module):
    """Images are their mean color; texts count the letters r, g and b."""

    def encode_image(self, pixels, normalize=False):
        means = pixels.mean(dim=(2, 3))
        return nn.functional.normalize(means, dim=1) if normalize else means

    def encode_text(self, tokens, normalize=False):
        counts = torch.stack([(tokens == ord(letter)).sum(dim=1) for letter in "rgb"], dim=1).float()
        return nn.functional.normalize(counts, dim=1) if normalize else counts


def prepare(image):
    assert image.mode == "RGB"
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def tokenize(texts):
    assert isinstance(texts, list)
    return torch.tensor([[ord(letter) for letter in text.ljust(20)[:20]] for text in texts])


@pytest.fixture
def asked(monkeypatch):
    """The names that open_clip was asked for."""
    names = []
    module = ModuleType("open_clip")

    def create(model_name, device="cpu"):
        names.append(model_name)
        return StandIn().train(), prepare

    def get_tokenizer(model_name):
        names.append(model_name)
        return tokenize

    module.__dict__.update(create_model_from_pretrained=create, get_tokenizer=get_tokenizer)
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return names


def write_config(folder, text):
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 3, "text_cfg": text}}))


def test_cosines_by_hand(asked, tmp_path):
    write_config(tmp_path, {})
    clip = load_clip(tmp_path, "cpu")
    assert asked == [f"local-dir:{tmp_path.resolve()}"] * 2
    assert not clip.model.training
    cosines = clip.similarities([RED, GREEN, GRAY, RED], ["rr", "r", "rgb", "rg"])
    # float32.
    assert cosines == pytest.approx([1, 0, 1, math.sqrt(0.5)], abs=1e-6)


def test_batches_and_other_modes_change_nothing(asked, tmp_path):
    write_config(tmp_path, {"hf_model_name": str(tmp_path)})
    (tmp_path / "config.json").write_text("{}")
    clip = load_clip(tmp_path, "cpu")
    images = [Image.new("L", (8, 8), 9), RED] * 40
    assert clip.similarities(images, ["rgb", "g"] * 40) == pytest.approx([1, 0] * 40, abs=1e-6)


@pytest.mark.parametrize(("images", "captions"), [([RED], ["r", "g"]), ([], [])])
def test_captions_that_do_not_match(asked, tmp_path, images, captions):
    write_config(tmp_path, {})
    with pytest.raises(DataError, match=f"{len(images)} images for {len(captions)} captions"):
        load_clip(tmp_path, "cpu").similarities(images, captions)


def test_directories_that_cannot_be(asked, tmp_path):
    with pytest.raises(ConfigError, match=r"no open_clip_config\.json.*absent.*microsoft/BiomedCLIP"):
        load_clip(tmp_path / "absent")
    (tmp_path / "open_clip_config.json").write_text("[]")
    with pytest.raises(ConfigError, match="no config of open_clip"):
        load_clip(tmp_path)
    write_config(tmp_path, {"hf_model_name": "owner/bert"})
    with pytest.raises(ConfigError, match=r"'owner/bert', which is no local folder.*config\.json of owner/bert"):
        load_clip(tmp_path)
    assert asked == []  # what would be downloaded is refused before


def test_what_open_clip_refuses_is_said(asked, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise FileNotFoundError("no weights here\nmore")

    write_config(tmp_path, {})
    monkeypatch.setattr(sys.modules["open_clip"], "create_model_from_pretrained", refuse)
    with pytest.raises(ConfigError, match=r"cannot read it: no weights here \("):
        load_clip(tmp_path, "cpu")


def test_without_open_clip(tmp_path, monkeypatch):
    write_config(tmp_path, {})
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ConfigError, match="needs open_clip.*pip install open_clip_torch"):
        load_clip(tmp_path)
