"""The released checkpoint directory: which files it has, and what its config files mean.

``llm_config.json`` and ``vit_config.json`` describe the language model and the vision encoder; the rest of the
model's settings has no file there. Directories that we save carry all of them in ``unimedvl_config.json`` beside
the published files, and it takes precedence.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from math import isqrt
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from unimedvl.bundled import bundled_model
from unimedvl.config import LlmConfig, ModelConfig, VitConfig
from unimedvl.errors import CheckpointError

WeightSet = Literal["auto", "ema", "model"]

LLM_CONFIG = "llm_config.json"
VIT_CONFIG = "vit_config.json"
OWN_CONFIG = "unimedvl_config.json"
AUTOENCODER = "ae"
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json")

_VIT_POSITIONS = "vit_model.vision_model.embeddings.position_embedding.weight"


def resolve_directory(path_or_id: str | Path, revision: str | None = None) -> Path:
    """A local checkpoint directory, downloaded first if ``path_or_id`` is a hub id such as ``owner/name``.

    ``bundled`` is the nano model that ships with the package, where no directory has that name.

    Raises:
        CheckpointError: there is no such directory, and no such repository can be reached.
    """
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    name = str(path_or_id)
    if name == "bundled":
        return bundled_model()
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{name} is not a directory", where="model", remedy="give a checkpoint directory or a hub id owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        patterns = ["*.json", "*.txt", "*.safetensors"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError) as error:
        raise CheckpointError(
            f"{name} is neither a local directory nor a repository that can be reached",
            where="model",
            remedy="check the name and the network, or download it elsewhere and give its directory",
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: the file is absent, or not a JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.name} is missing", where=str(path.parent), remedy="complete the checkpoint directory"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path.name} is not JSON: {error}", where=str(path), remedy="copy the file again from its source"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{path.name} holds a {type(values).__name__}, not an object", where=str(path), remedy="copy it again"
        )
    return values


def weight_files(directory: Path, weights: WeightSet = "auto", *, bfloat16: bool = False) -> list[Path]:
    """Safetensors files that hold the model, one or the shards of an index.

    ``auto`` takes the EMA weights if they are there, else the raw ones. A ``*_bf16`` variant is taken if
    ``bfloat16`` is wanted, or if there is nothing else.

    Raises:
        CheckpointError: the directory holds no such weights, or an index names a file that is absent.
    """
    sets = ("ema", "model") if weights == "auto" else (weights,)
    variants = ("_bf16", "") if bfloat16 else ("", "_bf16")
    for stem in (name + variant for name in sets for variant in variants):
        if files := files_of(directory, stem):
            return files
    present = ", ".join(sorted(path.name for path in directory.glob("*.safetensors"))) or "none"
    raise CheckpointError(
        f"no {' or '.join(f'{name}.safetensors' for name in sets)} (safetensors there: {present})",
        where=str(directory),
        remedy="give the directory of a released checkpoint, or other weights=",
    )


def files_of(directory: Path, stem: str) -> list[Path]:
    """``stem.safetensors``, or the shards of ``stem.safetensors.index.json``, or nothing.

    Raises:
        CheckpointError: the index is damaged or names an absent file.
    """
    if (single := directory / f"{stem}.safetensors").is_file():
        return [single]
    index = directory / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return []
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError("the index has no weight_map", where=str(index), remedy="copy it again")
    shards = sorted({directory / str(name) for name in weight_map.values()})
    if absent := [shard.name for shard in shards if not shard.is_file()]:
        raise CheckpointError(
            f"{len(absent)} of {len(shards)} shards are missing: {', '.join(absent[:5])}",
            where=str(index),
            remedy="copy them beside the index",
        )
    return shards


def read_config(directory: Path, weights: WeightSet = "auto", **changes: Any) -> ModelConfig:
    """The model's config, with top-level fields replaced by ``changes``.

    ``weights`` are those whose shapes tell what no published config file does: the side of the ViT's table.

    Raises:
        CheckpointError: a config file is absent or damaged.
        ConfigError: a value cannot work.
    """
    if (own := directory / OWN_CONFIG).is_file():
        return replace(ModelConfig.from_dict(read_json(own), str(own)), **changes)
    llm = changes.pop("llm", None) or llm_from_published(read_json(directory / LLM_CONFIG), directory / LLM_CONFIG)
    config = ModelConfig(llm=llm, **changes)
    if "vit" in changes or not config.visual_und:
        return config
    side = _learned_side(weight_files(directory, weights))
    vit = vit_from_published(read_json(directory / VIT_CONFIG), directory / VIT_CONFIG, side)
    return replace(config, vit=vit)


def llm_from_published(values: dict[str, Any], where: Path) -> LlmConfig:
    """Sizes of a Qwen2 config file; refuses variants that the model does not implement."""
    # transformers 5 writes the rotary settings as a nested object.
    rotary = values.get("rope_parameters") or {}
    values = {**values, **{name: rotary[name] for name in ("rope_theta", "rope_type") if name in rotary}}
    only = {"hidden_act": "silu", "use_sliding_window": False, "rope_scaling": None, "rope_type": "default"}
    _refuse_others(values, only, where)
    return LlmConfig(**_required(values, LlmConfig, where))


def vit_from_published(values: dict[str, Any], where: Path, max_side: int | None = None) -> VitConfig:
    """Sizes of a SigLIP vision config file, whose last layer is never used."""
    _refuse_others(values, {"hidden_act": "gelu_pytorch_tanh"}, where)
    known = VitConfig(**_required({**values, "max_side": max_side or VitConfig().max_side}, VitConfig, where))
    return replace(known, num_hidden_layers=known.num_hidden_layers - 1)


def _refuse_others(values: dict[str, Any], only: dict[str, Any], where: Path) -> None:
    for name, value in only.items():
        if values.get(name, value) != value:
            raise CheckpointError(
                f"{name} is {values[name]!r}", where=str(where), remedy=f"only {value!r} is implemented"
            )


def _required(values: dict[str, Any], kind: type[LlmConfig] | type[VitConfig], where: Path) -> dict[str, Any]:
    optional = {"rope_theta", "rms_norm_eps", "layer_norm_eps", "num_channels", "max_position_embeddings"}
    names = kind.__dataclass_fields__
    if missing := [name for name in names if name not in values and name not in optional]:
        raise CheckpointError(f"{', '.join(missing)} missing", where=str(where), remedy="copy the file again")
    return {name: values[name] for name in names if name in values}


def _learned_side(files: list[Path]) -> int | None:
    """Side of the learned ViT position table; None without a ViT."""
    for path in files:
        with open_safetensors(path) as file:
            if _VIT_POSITIONS in file.keys():  # noqa: SIM118 (not a dict)
                return isqrt(file.get_slice(_VIT_POSITIONS).get_shape()[0])
    return None


def open_safetensors(path: Path, device: str = "cpu"):
    """``safe_open`` for torch, memory-mapped.

    Raises:
        CheckpointError: the file is truncated or not a safetensors file.
    """
    try:
        return safe_open(path, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read ({path.stat().st_size if path.exists() else 0} bytes): {error}",
            where=str(path.parent),
            remedy="copy it again and compare its size with the source",
        ) from error


def published_configs(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """File name -> content of the config files of a directory that we save."""
    llm, vit = config.llm, config.vit
    files = {
        LLM_CONFIG: {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            **asdict(llm),
            "hidden_act": "silu",
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "tie_word_embeddings": False,
            "use_cache": True,
            "use_sliding_window": False,
        },
        VIT_CONFIG: {
            "model_type": "siglip_vision_model",
            **{name: value for name, value in asdict(vit).items() if name != "max_side"},
            "num_hidden_layers": vit.num_hidden_layers + 1,
            "image_size": vit.max_side * vit.patch_size,
            "hidden_act": "gelu_pytorch_tanh",
            "attention_dropout": 0.0,
        },
        OWN_CONFIG: asdict(config),
    }
    if not config.visual_und:
        del files[VIT_CONFIG]
    return files
