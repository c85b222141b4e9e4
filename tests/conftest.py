"""Fixtures around the reference values of ``tests/golden``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from unimedvl.config import ModelConfig
from unimedvl.geometry import unpatchify
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder
from unimedvl.model.weights import load_autoencoder, load_model, save_checkpoint
from unimedvl.processor import ImageTransform, TextCodec
from unimedvl.types import Sample, VaeSegment, VitSegment

GOLDEN = Path(__file__).parent / "golden"
TINY = ModelConfig.preset("tiny")
# What a published directory does not tell: the tiny autoencoder's sizes and latent side.
TINY_CHANGES = {"vae": TINY.vae, "max_latent_size": TINY.max_latent_size}


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _no_way_out():
    """Requests go to servers of the tests on this machine, past proxies and without a key."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_API_KEY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    return TINY


@pytest.fixture(scope="session")
def tiny_changes() -> dict[str, Any]:
    """Settings of the tiny model that its published-style directory has no file for."""
    return dict(TINY_CHANGES)


@pytest.fixture(scope="session")
def tiny_directory() -> Path:
    """A checkpoint in the published layout, with its reference weights."""
    return GOLDEN / "tiny" / "checkpoint"


@pytest.fixture(scope="session")
def unimed_mini(tmp_path_factory):
    """UniMed-Mini as it was just built; tests that change something copy it."""
    for module in ("skimage", "nilearn", "data_store", "wsidicom_data"):
        pytest.importorskip(module)
    from unimedvl.data.mini.build import build

    return build(tmp_path_factory.mktemp("mini") / "data")


@pytest.fixture(scope="session")
def golden() -> SimpleNamespace:
    """``tensors`` and ``values`` computed by the published implementation, ``settings`` and ``samples``."""

    def read(name: str):
        return json.loads((GOLDEN / "tiny" / name).read_text())

    return SimpleNamespace(
        tensors=load_file(GOLDEN / "tiny" / "golden.safetensors"),
        values=read("golden.json"),
        settings=read("settings.json"),
        samples=read("samples.json")["train_samples"],
        manifest=json.loads((GOLDEN / "manifest_7b_mot.json").read_text()),
    )


@pytest.fixture
def tiny_model(tiny_directory: Path) -> UniMedVL:
    return load_model(tiny_directory, **TINY_CHANGES)


@pytest.fixture(scope="session")
def tiny_autoencoder(tiny_directory: Path) -> Autoencoder:
    return load_autoencoder(tiny_directory, **TINY_CHANGES)


@pytest.fixture(scope="session")
def codec(tiny_directory: Path) -> TextCodec:
    return TextCodec.from_directory(tiny_directory)


@pytest.fixture(scope="session")
def images(golden: SimpleNamespace) -> list[Image.Image]:
    return [Image.fromarray(golden.tensors[f"image.{number}"].numpy()) for number in range(3)]


@pytest.fixture(scope="session")
def transforms(golden: SimpleNamespace) -> SimpleNamespace:
    """``vae`` and ``vit`` image transforms of the reference run."""
    return SimpleNamespace(**{kind: ImageTransform(*golden.settings[f"{kind}_transform"]) for kind in ("vae", "vit")})


@pytest.fixture(scope="session")
def train_samples(
    golden: SimpleNamespace, codec: TextCodec, images: list[Image.Image], transforms: SimpleNamespace
) -> list[Sample]:
    """The six samples of the reference training batch, with its latents, timesteps and noise."""
    tensors, shapes = golden.tensors, iter(golden.values["train.latent_shapes"])
    padded_latents = iter(tensors["train.padded_latent"])
    timesteps = tensors["train.packed_timesteps"].sigmoid()
    done = 0

    def segment(kind: str, value, loss: int):
        nonlocal done
        if kind == "text":
            return codec.segment(value, loss=bool(loss))
        if kind == "vit":
            return VitSegment(transforms.vit(images[value]))
        height, width = next(shapes)
        first, done = done, done + height * width
        return VaeSegment(
            latent=next(padded_latents)[:, : 2 * height, : 2 * width],
            noised=bool(loss),
            timestep=float(timesteps[first]),
            noise=unpatchify(tensors["train.noise"][first:done], height, width, 2) if loss else None,
        )

    return [tuple(segment(*entry) for entry in sample) for sample in golden.samples]


@pytest.fixture(scope="session")
def saved_tiny(tiny_directory: Path, tiny_autoencoder: Autoencoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as we save it, with all its settings."""
    directory = tmp_path_factory.mktemp("saved") / "tiny"
    model = load_model(tiny_directory, **TINY_CHANGES)
    save_checkpoint(directory, model, tiny_autoencoder, tokenizer_from=tiny_directory)
    return directory


@pytest.fixture(scope="session")
def pipe(saved_tiny: Path) -> UniMedVLPipeline:
    return UniMedVLPipeline.from_pretrained(saved_tiny, device="cpu")
