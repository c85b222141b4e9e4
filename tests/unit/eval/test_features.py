"""Extractors against their networks called by hand, and what each says when something is absent."""

from __future__ import annotations

import hashlib
import json
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from unimedvl.data.packing import pack
from unimedvl.errors import CheckpointError, ConfigError, DataError
from unimedvl.eval.classifier import Classifier, as_tensor, save_classifier
from unimedvl.eval.features import Batched, extractor
from unimedvl.infer.pipeline import UniMedVLPipeline


def random_image(seed, width=40, height=40, mode="RGB"):
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


IMAGES = [random_image(0), random_image(1, 60, 30), random_image(2), random_image(3, 33, 50, "L")]


def close(one, two):
    # float32 sums in another order, of values around 1.
    return np.allclose(one, two, rtol=1e-4, atol=1e-5)


def test_batches_keep_the_order():
    def run(images):
        return torch.tensor([[image.width, image.getpixel((0, 0))[0]] for image in images])

    made = Batched("sizes", {}, run, batch=3)(IMAGES)
    assert made.dtype == np.float32
    assert made[:, 0].tolist() == [40, 60, 40, 33]
    with pytest.raises(DataError, match="no images"):
        Batched("sizes", {}, run)([])


@pytest.mark.parametrize("spec", ["", "inception", "inception:", "resnet:/x", "vision"])
def test_specs_that_cannot_be(spec):
    with pytest.raises(ConfigError, match="inception:PATH, vision:PATH, transformers:PATH, classifier:PATH"):
        extractor(spec)


@pytest.mark.parametrize("kind", ["inception", "vision", "transformers", "classifier"])
def test_what_is_absent_is_named_and_not_fetched(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    with pytest.raises(ConfigError, match=r"owner/absent"):
        extractor(f"{kind}:{tmp_path}/owner/absent")


# --- vision -----------------------------------------------------------------------------------------------


def by_the_whole_model(pipe, images):
    """Means over the tokens that the model itself would read, image by image."""
    model, rows = pipe.engine.model, []
    for image in images:
        batch = pack([(pipe.processor.to_understand(image),)], model.config, pipe.processor.codec.special)
        assert len(batch.vit_lengths) == 1

        def alone(q, k, v):
            found = nn.functional.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (q, k, v)))
            return found[0].transpose(0, 1)

        tokens = model.connector(model.vit_model(batch.vit_patches, batch.vit_position_ids, alone))
        rows.append(tokens.mean(dim=0).detach())
    return torch.stack(rows).numpy()


def test_vision_is_what_the_bundled_model_sees():
    found = extractor("vision:bundled", "cpu")
    pipe = UniMedVLPipeline.from_pretrained("bundled", dtype="float32", device="cpu")
    features = found(IMAGES)
    assert close(features, by_the_whole_model(pipe, IMAGES))
    assert features.shape == (4, found.about["dims"])
    assert len(found.about["weights"]) == 64
    assert np.array_equal(found(IMAGES), features)
    json.dumps(found.about)


def test_vision_of_a_published_directory(tiny_directory, tiny_changes):
    pipe = UniMedVLPipeline.from_pretrained(tiny_directory, dtype="float32", device="cpu", **tiny_changes)
    features = extractor(f"vision:{tiny_directory}", "cpu")(IMAGES)
    assert close(features, by_the_whole_model(pipe, IMAGES))


def test_vision_weights_that_do_not_fit(tiny_directory, tmp_path):
    for file in tiny_directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for name in ("ema", "model"):
        if (path := tmp_path / f"{name}.safetensors").is_file():
            weights = load_file(path)
            del weights["connector.fc1.weight"]
            save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"1 missing: connector\.fc1\.weight"):
        extractor(f"vision:{tmp_path}", "cpu")


# --- transformers -----------------------------------------------------------------------------------------


def save_vit(folder, *, pooling=True):
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    model = ViTModel(config, add_pooling_layer=pooling).eval()
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


def vit_pixels(images):
    """The processor's settings by hand: bilinear to 32 x 32, [-1, 1]."""
    small = [np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)) for image in images]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1


def test_transformers_pooled(tmp_path):
    model = save_vit(tmp_path)
    found = extractor(f"transformers:{tmp_path}", "cpu")
    expected = model(pixel_values=vit_pixels(IMAGES)).pooler_output.detach().numpy()
    assert close(found(IMAGES), expected)
    assert (found.about["dims"], found.about["layer"]) == (16, "ViTModel, pooled output")
    assert found.about["resize"]["size"] == {"height": 32, "width": 32}
    json.dumps(found.about)


def test_transformers_without_weights_for_pooling(tmp_path):
    """transformers would make them up, other ones each time."""
    model = save_vit(tmp_path, pooling=False)
    one, two = (extractor(f"transformers:{tmp_path}", "cpu") for _ in range(2))
    expected = model(pixel_values=vit_pixels(IMAGES)).last_hidden_state.mean(dim=1).detach().numpy()
    assert close(one(IMAGES), expected)
    assert np.array_equal(one(IMAGES), two(IMAGES))
    assert one.about["layer"].endswith("mean over the last hidden state")


def test_transformers_of_images_and_texts(tmp_path):
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = CLIPConfig(
        text_config=sizes | {"vocab_size": 50, "eos_token_id": 2},
        vision_config=sizes | {"image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    found = extractor(f"transformers:{tmp_path}", "cpu")
    pixels = processor(images=[image.convert("RGB") for image in IMAGES], return_tensors="pt")["pixel_values"]
    pooled = model.vision_model(pixel_values=pixels).pooler_output
    assert close(found(IMAGES), model.visual_projection(pooled).detach().numpy())
    assert (found.about["dims"], found.about["layer"]) == (12, "CLIPModel, image embedding")


def test_transformers_of_maps(tmp_path):
    from transformers import ResNetConfig, ResNetModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    ResNetModel(config).eval().save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert extractor(f"transformers:{tmp_path}", "cpu")(IMAGES).shape == (4, 12)


def test_transformers_directories_that_cannot_be(tmp_path):
    save_vit(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if "pooler" not in name)
    save_file({name: value for name, value in weights.items() if name != lost}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=f"1 weights are missing, {lost}"):
        extractor(f"transformers:{tmp_path}", "cpu")
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match="cannot read the model"):
        extractor(f"transformers:{tmp_path}", "cpu")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="cannot read the model"):
        extractor(f"transformers:{tmp_path}", "cpu")


# --- classifier -------------------------------------------------------------------------------------------


def test_classifier(tmp_path):
    model = Classifier(("CT", "MRI")).eval()
    save_classifier(model, tmp_path / "c.safetensors")
    found = extractor(f"classifier:{tmp_path}/c.safetensors", "cpu")
    assert close(found(IMAGES), model.features(as_tensor(IMAGES)).detach().numpy())
    assert found.about["dims"] == 96
    assert found.about["weights"] == hashlib.sha256((tmp_path / "c.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("content", [b"no weights", None])
def test_a_file_that_is_no_classifier(tmp_path, content):
    path = tmp_path / "c.safetensors"
    if content is None:
        save_file({"other": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="not a modality classifier"):
        extractor(f"classifier:{path}", "cpu")


# --- inception --------------------------------------------------------------------------------------------


class StandIn(nn.Module):
    """The interface of torch-fidelity's network: uint8 (B, 3, H, W) to a tuple of features."""

    def __init__(self, name, features_list, feature_extractor_weights_path=""):
        super().__init__()
        assert features_list == ["2048"]
        self.scale = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.load_state_dict(torch.load(feature_extractor_weights_path))

    def forward(self, pixels):
        assert pixels.dtype == torch.uint8
        assert pixels.shape[1] == 3
        means = pixels.float().mean(dim=(2, 3)) * self.scale
        return (torch.cat([means, torch.full((len(means), 1), float(pixels.shape[3]))], dim=1),)


@pytest.fixture
def fidelity(monkeypatch):
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.__dict__["FeatureExtractorInceptionV3"] = StandIn
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("fidelity")
def test_inception_gets_the_pixels_as_they_are(tmp_path):
    torch.save({"scale": torch.full((1,), 2.0)}, tmp_path / "w.pth")
    found = extractor(f"inception:{tmp_path}/w.pth", "cpu")
    features = found(IMAGES)  # of three sizes
    expected = [2 * np.asarray(image.convert("RGB"), float).mean(axis=(0, 1)) for image in IMAGES]
    assert close(features[:, :3], expected)
    assert features[:, 3].tolist() == [40, 60, 40, 33]
    assert found.about["weights"] == hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    assert "299" in found.about["resize"]


class Harmful:
    def __reduce__(self):
        return pytest.fail, ("code in the file was run",)


@pytest.mark.usefixtures("fidelity")
@pytest.mark.parametrize("content", [{"other": torch.zeros(1)}, Harmful(), None])
def test_a_file_that_is_not_the_inception_weights(tmp_path, content):
    path = tmp_path / "w.pth"
    if content is None:
        path.write_bytes(b"")
    else:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=r"not the Inception weights.*6726825d\.pth"):
        extractor(f"inception:{path}", "cpu")


def test_without_torch_fidelity_or_torchvision(tmp_path, monkeypatch):
    torch.save({}, tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ConfigError, match="need torch-fidelity, which needs torchvision.*pip install torch-fidelity"):
        extractor(f"inception:{tmp_path}/w.pth", "cpu")


def test_the_real_inception_network(tmp_path):
    """Random weights, for the real ones are not ours to ship; skipped where torch-fidelity cannot be imported."""
    real = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3", exc_type=ImportError)
    path = tmp_path / "random.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(real.torch, "load", lambda *_, **__: {})
        patch.setattr(real.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = real.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path="x")
    torch.save(network.state_dict(), path)
    features = extractor(f"inception:{path}", "cpu")(IMAGES)
    pixels = torch.from_numpy(np.array(IMAGES[1])).permute(2, 0, 1)[None]
    assert features.shape == (4, 2048)
    assert close(features[1], network(pixels)[0][0].numpy())
