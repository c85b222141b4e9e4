"""Features of images, to compare sets of them by: one of four networks, named in a word and read from local files.

``inception:FILE`` is the network of the published FID. ``vision:DIR`` is UniMedVL's own vision encoder, of the bundled
model as ``vision:bundled``; ``transformers:DIR`` any vision model of transformers, such as a medical encoder; and
``classifier:FILE`` the modality classifier. Values of different extractors cannot be compared, so what an extractor is
and does stands in ``about``, which belongs beside every result.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from unimedvl.bundled import bundled_model
from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.classifier import Classifier, as_tensor, load_classifier
from unimedvl.geometry import patchify, position_ids
from unimedvl.imaging import to_rgb
from unimedvl.infer.defaults import defaults_of
from unimedvl.infer.placement import as_device
from unimedvl.model.attention import choose_backend, make_plan
from unimedvl.model.directory import open_safetensors, read_config, weight_files
from unimedvl.model.layout import image_documents
from unimedvl.model.meta import on_meta
from unimedvl.model.vit import Connector, VisionEncoder
from unimedvl.model.weights import assign_tensors

_INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
_WHERE = "feature extractor"
_PART = 1 << 20  # bytes that are hashed at once


class Extractor(Protocol):
    """What :func:`extractor` gives, and what may stand in its place."""

    @property
    def name(self) -> str:
        """Its spec."""
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """``weights`` (sha256), ``resize``, ``layer`` and ``dims``, ready for JSON."""
        ...

    def __call__(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """float32 (N, D)."""
        ...


@dataclass(frozen=True)
class Batched:
    """A network that runs over batches of images, in their order.

    Attributes:
        run: RGB images of any sizes to (B, D).
        batch: images at once.
    """

    name: str
    about: Mapping[str, Any]
    run: Callable[[Sequence[Image.Image]], Tensor]
    batch: int = 32

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """float32 (N, D).

        Raises:
            DataError: there are no images.
        """
        if not images:
            raise DataError("no images", where=self.name, remedy="give at least one")
        starts = range(0, len(images), self.batch)
        parts = [self.run([to_rgb(image) for image in images[start : start + self.batch]]) for start in starts]
        return torch.cat(parts).float().cpu().numpy()


def extractor(spec: str, device: str | torch.device | None = None) -> Extractor:
    """The extractor of a spec ``kind:path``; nothing is ever downloaded.

    Args:
        device: the first GPU, or else the CPU, if None.

    Raises:
        ConfigError: there is no such kind, or its file or package is absent or does not fit.
        CheckpointError: a checkpoint of ``vision`` cannot be read.
    """
    kind, _, path = spec.partition(":")
    if kind not in _KINDS or not path:
        raise ConfigError(
            f"no feature extractor {spec!r}",
            where=_WHERE,
            remedy=f"give {', '.join(f'{name}:PATH' for name in _KINDS)}, or vision:bundled",
        )
    return _KINDS[kind](path, as_device(device))


def inception(path: str, device: torch.device) -> Batched:
    """Inception-v3 with the weights and the resizing of the published FID, through torch-fidelity."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(
            "the Inception weights are absent",
            where=str(file),
            remedy=f"put {_INCEPTION_FILE} there, from the release fid_weights of github.com/mseitzer/pytorch-fid",
        )
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"Inception features need torch-fidelity, which needs torchvision: {error}".splitlines()[0],
            where=_WHERE,
            remedy="pip install torch-fidelity torchvision (the one of this torch), or use another extractor",
        ) from error
    try:
        torch.load(file, map_location="cpu", weights_only=True)  # torch-fidelity would run any code in the file
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file))
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise _unfit("not the Inception weights", file, error, f"put {_INCEPTION_FILE} there") from error
    network = network.to(device).eval()

    def run(images: Sequence[Image.Image]) -> Tensor:
        sizes = dict.fromkeys(image.size for image in images)
        groups = [[number for number, image in enumerate(images) if image.size == size] for size in sizes]
        rows = [network(_bytes([images[number] for number in group]).to(device))[0] for group in groups]
        order = torch.tensor([number for group in groups for number in group]).argsort()
        return torch.cat(rows)[order.to(device)]

    resize = "bilinear to 299 x 299 inside the network, as TensorFlow 1 does, without antialiasing"
    about = _about(_file_hash(file), resize, "last average pooling", 2048, device)
    return Batched(f"inception:{path}", about, run)


def vision(path: str, device: torch.device) -> Batched:
    """UniMedVL's vision encoder and connector, as for images that it reads; alone of the whole model, in float32."""
    directory = Path(path).expanduser()
    if path == "bundled" and not directory.is_dir():
        directory = bundled_model()
    if not directory.is_dir():
        raise ConfigError("no checkpoint directory", where=str(directory), remedy="give one that is there, or bundled")
    config = read_config(directory)
    if not config.visual_und:
        raise ConfigError("the model has no vision encoder", where=str(directory), remedy="use another extractor")
    vit = config.vit
    with on_meta():
        network = nn.ModuleDict(
            {"vit_model": VisionEncoder(vit), "connector": Connector(vit.hidden_size, config.llm.hidden_size)}
        )
    files, wanted = weight_files(directory), {name: name for name in network.state_dict()}
    others = {name for file in files for name in _stored(file)} - wanted.keys()
    assign_tensors(network, files, wanted, ignored=others, dtype=torch.float32, device=device)
    transform = defaults_of(directory).transforms.fitted(config).understand
    backend, _ = choose_backend(
        "auto", device, torch.float32, vit.hidden_size // vit.num_attention_heads, training=False
    )

    def run(images: Sequence[Image.Image]) -> Tensor:
        pixels = [transform(image) for image in images]
        patches = [patchify(each, vit.patch_size).to(device) for each in pixels]
        grids = [(each.shape[1] // vit.patch_size, each.shape[2] // vit.patch_size) for each in pixels]
        places = torch.cat([position_ids(*grid, vit.max_side, config.position_mode) for grid in grids]).to(device)
        lengths = [len(each) for each in patches]
        plan = make_plan(backend, image_documents(lengths), device)
        tokens_VD = network["connector"](network["vit_model"](torch.cat(patches), places, plan))
        return torch.stack([each.mean(dim=0) for each in tokens_VD.split(lengths)])

    sides = f"sides of {transform.min_side} to {transform.max_side} in steps of {transform.stride}"
    resize = f"PIL bicubic to {sides}, shape kept, at most {transform.max_pixels} pixels"
    layer = "connector, mean over the patches"
    about = _about(_weights_hash(network), resize, layer, config.llm.hidden_size, device)
    return Batched(f"vision:{path}", about, run, batch=8)


def transformer(path: str, device: torch.device) -> Batched:
    """A vision model of a local directory that transformers reads, with its own image processor; float32.

    The image embedding of models of images and texts, else the pooled output; the mean over the last tokens or maps
    where the checkpoint has no weights for pooling, which transformers would make up.
    """
    from transformers import AutoImageProcessor, AutoModel

    directory = Path(path).expanduser()
    if not (directory / "config.json").is_file():
        raise ConfigError(
            "no config.json", where=str(directory), remedy="give the directory of a vision model, such as RAD-DINO"
        )
    try:
        # With Pillow, whether torchvision is there or not, so that the pixels are the same everywhere.
        processor = AutoImageProcessor.from_pretrained(directory, local_files_only=True, backend="pil")
        network, loaded = AutoModel.from_pretrained(
            directory, local_files_only=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _unfit("transformers cannot read the model", directory, error, "complete the directory") from error
    missing = set(loaded["missing_keys"])
    if others := sorted(name for name in missing if "pooler" not in name):
        raise ConfigError(
            f"{len(others)} weights are missing, {others[0]} for one", where=str(directory), remedy="copy them again"
        )
    network = network.to(device).eval()
    embeds = getattr(network, "get_image_features", None)
    pooled = not missing

    def run(images: Sequence[Image.Image]) -> Tensor:
        pixels = processor(images=list(images), return_tensors="pt")["pixel_values"].to(device)
        output = network(pixel_values=pixels) if embeds is None else embeds(pixel_values=pixels)
        return _one_row_each(output, pooled=pooled)

    layer = "image embedding" if embeds else "pooled output" if pooled else "mean over the last hidden state"
    resize = {name: value for name, value in json.loads(processor.to_json_string()).items() if value is not None}
    with torch.inference_mode():
        dims = run([Image.new("RGB", (64, 64))]).shape[1]
    about = _about(_weights_hash(network), resize, f"{type(network).__name__}, {layer}", dims, device)
    return Batched(f"transformers:{path}", about, run)


def _one_row_each(output: Any, *, pooled: bool) -> Tensor:
    """(B, D) of a model's output."""
    if isinstance(output, Tensor):
        return output.flatten(1)
    if pooled and getattr(output, "pooler_output", None) is not None:
        return output.pooler_output.flatten(1)
    last = output.last_hidden_state  # tokens (B, T, D) or maps (B, D, H, W)
    return last.mean(dim=1) if last.ndim == 3 else last.flatten(2).mean(dim=2)


def classifier(path: str, device: torch.device) -> Batched:
    """The modality classifier of :mod:`unimedvl.eval.classifier`, before its last layer."""
    network = read_classifier(path).to(device)
    resize = "PIL bilinear to 64 x 64"
    weights = _file_hash(Path(path).expanduser())
    about = _about(weights, resize, "means over the last maps", network.head.in_features, device)
    return Batched(f"classifier:{path}", about, lambda images: network.features(as_tensor(images).to(device)))


def read_classifier(path: str) -> Classifier:
    """A modality classifier that was saved.

    Raises:
        ConfigError: the file is absent or something else.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError("no classifier", where=str(file), remedy="let an evaluation of UniMed-Mini make it")
    try:
        return load_classifier(file)
    except (SafetensorError, RuntimeError, KeyError, TypeError) as error:
        raise _unfit("not a modality classifier", file, error, "make it again") from error


_KINDS: dict[str, Callable[[str, torch.device], Batched]] = {
    "inception": inception,
    "vision": vision,
    "transformers": transformer,
    "classifier": classifier,
}


def _about(weights: str, resize: Any, layer: str, dims: int, device: torch.device) -> dict[str, Any]:
    return {"weights": weights, "resize": resize, "layer": layer, "dims": dims, "device": str(device)}


def _bytes(images: Sequence[Image.Image]) -> Tensor:
    """uint8 (B, 3, H, W) of RGB images of one size."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def _stored(file: Path) -> list[str]:
    with open_safetensors(file) as opened:
        return list(opened.keys())


def _file_hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _weights_hash(network: nn.Module) -> str:
    """Of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _unfit(problem: str, where: Path, error: Exception, remedy: str) -> ConfigError:
    said = str(error).strip().partition("\n")[0].partition(". ")[0]  # torch goes on for a paragraph
    return ConfigError(f"{problem}: {said or type(error).__name__}", where=str(where), remedy=remedy)
