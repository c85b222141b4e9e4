"""Loading and saving the released layout: strict, lazy, complete."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from unimedvl.config import ModelConfig
from unimedvl.errors import CheckpointError, ConfigError
from unimedvl.model.directory import OWN_CONFIG, read_config, resolve_directory, weight_files
from unimedvl.model.unimedvl import UniMedVL
from unimedvl.model.vae import Autoencoder
from unimedvl.model.weights import load_autoencoder, load_model, published_tensors, save_checkpoint


@pytest.fixture
def directory(tiny_directory, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(tiny_directory, tmp_path / "checkpoint")


def rewrite(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def raw_tensors(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_full_size_has_the_manifest_s_names_and_shapes(golden):
    with torch.device("meta"):
        model = UniMedVL(ModelConfig.preset("7b_mot"))
        autoencoder = Autoencoder(ModelConfig.preset("7b_mot").vae)
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == golden.manifest["model"]
    assert len(shapes) == 1223
    counts = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    assert sum(counts.values()) == 14_607_260_128
    assert sum(count for name, count in counts.items() if "_moe_gen" in name) == 6_525_628_928

    ours = published_tensors(autoencoder)
    assert {name: list(tensor.shape) for name, tensor in ours.items()} == golden.manifest["vae"]
    assert len(ours) == 244
    assert sorted(autoencoder.published_names().values()) == sorted(autoencoder.state_dict())


def test_autoencoder_names_equal_the_library_s_conversion(tiny_directory, tiny_autoencoder):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    published = load_file(tiny_directory / "ae.safetensors")
    converted = convert_ldm_vae_checkpoint(dict(published), tiny_autoencoder.kl.config)
    assert converted.keys() == tiny_autoencoder.kl.state_dict().keys()
    for name, tensor in tiny_autoencoder.kl.state_dict().items():
        assert torch.equal(tensor, converted[name]), name


def test_tiny_config_is_read_from_published_files(tiny_directory, tiny_config, tiny_changes):
    assert read_config(tiny_directory, **tiny_changes) == tiny_config


@pytest.mark.parametrize("max_shard_size", [None, "500KB"])
def test_save_and_load_are_byte_identical(
    tiny_directory, tiny_model, tiny_autoencoder, tmp_path, max_shard_size, tiny_config
):
    saved = tmp_path / "new" / "saved"
    save_checkpoint(saved, tiny_model, tiny_autoencoder, tokenizer_from=tiny_directory, max_shard_size=max_shard_size)
    published = {path.name for path in tiny_directory.iterdir()}
    if max_shard_size is None:
        assert {path.name for path in saved.iterdir()} == published | {OWN_CONFIG}
        for name in ("ema.safetensors", "ae.safetensors"):
            ours, theirs = raw_tensors(saved / name), raw_tensors(tiny_directory / name)
            assert ours.keys() == theirs.keys()
            for key, tensor in theirs.items():
                assert tensor.dtype == ours[key].dtype
                assert torch.equal(tensor, ours[key]), key
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            assert (saved / name).read_bytes() == (tiny_directory / name).read_bytes()
    else:
        assert len(list(saved.glob("ema-*-of-*.safetensors"))) > 2

    again = load_model(saved)
    assert again.config == tiny_config
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    autoencoder = load_autoencoder(saved)
    for name, tensor in tiny_autoencoder.state_dict().items():
        assert torch.equal(tensor, autoencoder.state_dict()[name]), name

    twice = tmp_path / "twice"
    save_checkpoint(twice, again, autoencoder, tokenizer_from=saved, max_shard_size=max_shard_size)
    for path in saved.iterdir():
        assert path.read_bytes() == (twice / path.name).read_bytes(), path.name


def test_saved_configs_hold_what_published_readers_read(tiny_directory, tiny_model, tmp_path):
    save_checkpoint(tmp_path / "saved", tiny_model)
    for name in ("llm_config.json", "vit_config.json"):
        ours, theirs = (json.loads((path / name).read_text()) for path in (tmp_path / "saved", tiny_directory))
        sizes = {key: value for key, value in theirs.items() if "size" in key or "num_" in key or "act" in key}
        assert len(sizes) >= 6
        assert {key: ours[key] for key in sizes} == sizes


def test_saving_is_all_or_nothing(tiny_model, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty.*new directory"):
        save_checkpoint(tmp_path / "taken", tiny_model)
    with pytest.raises(CheckpointError, match="no tokenizer files"):
        save_checkpoint(tmp_path / "other", tiny_model, tokenizer_from=tmp_path / "taken")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]


def test_saving_both_sets(tiny_model, tmp_path):
    raw = {name: tensor + 1 for name, tensor in tiny_model.state_dict().items()}
    save_checkpoint(tmp_path / "both", tiny_model, weights={"ema": tiny_model.state_dict(), "model": raw})
    assert torch.equal(
        load_model(tmp_path / "both").llm2vae.bias + 1, load_model(tmp_path / "both", weights="model").llm2vae.bias
    )


def test_saving_refuses_what_could_not_be_loaded(tiny_model, tmp_path):
    state = dict(tiny_model.state_dict())
    cases = {
        "no weights are called 'emma'": {"emma": state},
        "1 tensors are missing.*: llm2vae.bias": {"ema": {n: t for n, t in state.items() if n != "llm2vae.bias"}},
        "1 tensors .*misshapen or empty: llm2vae.bias": {"ema": {**state, "llm2vae.bias": torch.empty(0)}},
        "1 tensors .*: llm2vae.weight": {"ema": {**state, "llm2vae.weight": state["llm2vae.weight"].to("meta")}},
    }
    for message, weights in cases.items():
        with pytest.raises(CheckpointError, match=message):
            save_checkpoint(tmp_path / "x", tiny_model, weights=weights)
    assert not list(tmp_path.iterdir())


def test_one_set_does_not_need_the_other(directory, tiny_changes):
    shutil.move(directory / "ema.safetensors", directory / "model.safetensors")
    (directory / "ema.safetensors").write_bytes(b"x")
    assert load_model(directory, weights="model", **tiny_changes).dtype is torch.float32


def test_a_tensor_in_two_shards(tiny_model, tmp_path):
    save_checkpoint(tmp_path / "saved", tiny_model, max_shard_size="500KB")
    shard = sorted((tmp_path / "saved").glob("ema-*.safetensors"))[0]
    rewrite(shard, lambda tensors: tensors.update({"llm2vae.bias": torch.zeros(16)}))
    with pytest.raises(CheckpointError, match="1 doubled: llm2vae.bias"):
        load_model(tmp_path / "saved")


def test_the_autoencoder_is_frozen(tiny_autoencoder):
    assert not any(parameter.requires_grad for parameter in tiny_autoencoder.parameters())
    assert not tiny_autoencoder.training


def test_saved_directories_are_readable_like_any_other(tiny_model, tmp_path):
    save_checkpoint(tmp_path / "saved", tiny_model)
    (tmp_path / "plain").mkdir()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("saved", "plain")]
    assert modes[0] == modes[1]


def test_weights_are_mapped_and_the_file_stays_untouched(directory, tiny_changes):
    before = (directory / "ema.safetensors").read_bytes()
    model = load_model(directory, **tiny_changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)  # training writes to its own copy of a page
    assert (directory / "ema.safetensors").read_bytes() == before


def test_choice_of_weights(directory, tiny_changes):
    rewrite_to = directory / "model.safetensors"
    shutil.copy(directory / "ema.safetensors", rewrite_to)
    rewrite(rewrite_to, lambda tensors: tensors["llm2vae.bias"].fill_(7))
    half = directory / "ema_bf16.safetensors"
    save_file({name: t.bfloat16() for name, t in load_file(directory / "ema.safetensors").items()}, half)

    assert weight_files(directory) == [directory / "ema.safetensors"]
    assert weight_files(directory, bfloat16=True) == [half]
    assert load_model(directory, weights="model", **tiny_changes).llm2vae.bias[0] == 7
    assert load_model(directory, **tiny_changes).dtype is torch.float32
    loaded = load_model(directory, dtype=torch.bfloat16, **tiny_changes)
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.bfloat16}
    (directory / "ema.safetensors").unlink()
    assert weight_files(directory) == [half]
    (directory / "ema_bf16.safetensors").unlink()
    assert weight_files(directory) == [rewrite_to]
    with pytest.raises(CheckpointError, match=r"no ema.safetensors .*there: ae.safetensors, model.safetensors"):
        weight_files(directory, "ema")


@pytest.mark.parametrize("change", ["absent", "other size", "wrong values"])
def test_position_tables_are_rebuilt(directory, tiny_model, tiny_changes, change):
    def alter(tensors):
        for name in ("vit_pos_embed.pos_embed", "latent_pos_embed.pos_embed"):
            if change == "absent":
                del tensors[name]
            else:
                tensors[name] = tensors[name][:9].clone() if change == "other size" else tensors[name] * 0

    rewrite(directory / "ema.safetensors", alter)
    loaded = load_model(directory, **tiny_changes)
    for name in ("vit_pos_embed.pos_embed", "latent_pos_embed.pos_embed"):
        assert torch.equal(loaded.state_dict()[name], tiny_model.state_dict()[name])


def test_every_misfit_is_listed_in_one_error(directory, tiny_changes):
    def damage(tensors):
        del tensors["connector.fc1.bias"]
        tensors["connector.fc3.bias"] = torch.zeros(3)
        tensors["llm2vae.bias"] = torch.zeros(5)

    rewrite(directory / "ema.safetensors", damage)
    with pytest.raises(CheckpointError) as caught:
        load_model(directory, **tiny_changes)
    message = str(caught.value)
    assert "1 missing: connector.fc1.bias" in message
    assert "1 unexpected: connector.fc3.bias" in message
    assert "1 misshapen: llm2vae.bias is (5,) but the model has (16,)" in message
    assert "ema.safetensors" in message
    assert "\n" not in message


@pytest.mark.parametrize("half", ["visual_und", "visual_gen"])
def test_half_checkpoints_load_only_when_asked_for(directory, tiny_changes, tiny_model, half):
    from dataclasses import replace

    with torch.device("meta"):
        kept = UniMedVL(replace(tiny_model.config, **{half: False})).state_dict().keys()
    rewrite(directory / "ema.safetensors", lambda t: [t.pop(name) for name in list(t) if name not in kept])
    with pytest.raises(CheckpointError, match=rf"\d+ missing: .*and \d+ more.*{half}=False"):
        load_model(directory, **tiny_changes)
    partial = load_model(directory, **tiny_changes, **{half: False})
    assert partial.state_dict().keys() == kept


def test_a_half_is_left_out_of_a_full_checkpoint(tiny_directory, tiny_changes):
    und_only = load_model(tiny_directory, visual_gen=False, **tiny_changes)
    assert not any("moe_gen" in name or "llm2vae" in name for name in und_only.state_dict())


def test_damaged_files(directory, tiny_changes):
    whole = (directory / "ema.safetensors").read_bytes()
    (directory / "ema.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=rf"ema.safetensors cannot be read \({len(whole) // 2} bytes\).*copy it"):
        load_model(directory, **tiny_changes)
    (directory / "ema.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="ema.safetensors cannot be read"):
        load_model(directory, **tiny_changes)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("llm_config.json", '{"hidden_size": 64,', "llm_config.json is not JSON.*line 1"),
        ("llm_config.json", "[]", "holds a list, not an object"),
        ("llm_config.json", '{"hidden_size": 64}', "intermediate_size, .*missing"),
        ("vit_config.json", "{}", "hidden_size, .*missing"),
        ("llm_config.json", None, "llm_config.json is missing.*complete the checkpoint directory"),
    ],
)
def test_damaged_config_files(directory, tiny_changes, name, text, message):
    (directory / name).unlink()
    if text is not None:
        (directory / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_model(directory, **tiny_changes)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("hidden_act", "gelu", CheckpointError, "hidden_act is 'gelu'.*only 'silu'"),
        ("rope_scaling", {"type": "yarn"}, CheckpointError, "rope_scaling"),
        ("num_key_value_heads", 3, ConfigError, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ("hidden_size", 0, ConfigError, "hidden_size is 0.*positive"),
        ("num_hidden_layers", 2.5, ConfigError, "num_hidden_layers is 2.5.*positive integer"),
        ("rope_parameters", {"rope_type": "yarn", "factor": 4}, CheckpointError, "rope_type is 'yarn'.*only 'default'"),
    ],
)
def test_impossible_config_values(directory, tiny_changes, key, value, error, message):
    values = json.loads((directory / "llm_config.json").read_text())
    (directory / "llm_config.json").write_text(json.dumps({**values, key: value}))
    with pytest.raises(error, match=message):
        load_model(directory, **tiny_changes)


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("hidden_act", "relu", CheckpointError, "hidden_act is 'relu'"),
        ("num_hidden_layers", "3", ConfigError, "num_hidden_layers is '3'"),
    ],
)
def test_impossible_vision_values(directory, tiny_changes, key, value, error, message):
    values = json.loads((directory / "vit_config.json").read_text())
    (directory / "vit_config.json").write_text(json.dumps({**values, key: value}))
    with pytest.raises(error, match=message):
        load_model(directory, **tiny_changes)


def test_absent_rotary_settings_are_the_defaults(directory, tiny_changes, tiny_config):
    values = json.loads((directory / "llm_config.json").read_text())
    (directory / "llm_config.json").write_text(json.dumps({**values, "rope_parameters": None}))
    assert read_config(directory, **tiny_changes) == tiny_config


def test_unknown_own_setting(directory, tiny_config):
    values = {**dataclasses.asdict(tiny_config), "latent_size": 3}
    (directory / OWN_CONFIG).write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"unknown setting latent_size \(.*unimedvl_config.json\)"):
        load_model(directory)


def test_absent_parts(directory, tiny_changes, tmp_path):
    (directory / "ae.safetensors").unlink()
    with pytest.raises(CheckpointError, match="ae.safetensors is missing.*to make images"):
        load_autoencoder(directory, **tiny_changes)
    (directory / "ema.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no ema.safetensors or model.safetensors \(safetensors there: none\)"):
        load_model(directory, **tiny_changes)
    with pytest.raises(CheckpointError, match="is not a directory"):
        load_model(tmp_path / "nowhere")


def test_absent_shard(tiny_model, tmp_path):
    save_checkpoint(tmp_path / "saved", tiny_model, max_shard_size="500KB")
    shard = sorted((tmp_path / "saved").glob("ema-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"1 of \d shards are missing: {re.escape(shard.name)}"):
        load_model(tmp_path / "saved")


def test_hub_ids_resolve_through_the_hub_library(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def found(name, revision, allow_patterns):
        asked.append((name, revision, tuple(allow_patterns)))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", found)
    assert resolve_directory("owner/name", revision="main") == tmp_path
    assert asked == [("owner/name", "main", ("*.json", "*.txt", "*.safetensors"))]

    def unreachable(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match="owner/name is neither a local directory nor a repository"):
        resolve_directory("owner/name")
