"""Every file in configs/ composes into checked settings; mistakes are told before anything is loaded."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import yaml

from unimedvl.config import PRESETS
from unimedvl.errors import ConfigError
from unimedvl.train.compose import CONFIGS, compose
from unimedvl.train.settings import TrainSettings

STAGES = ("foundation", "instruction", "unified")
# What only makes sense with some stage or model.
NEEDS = {
    "one_stage": ("stage=unified",),
    "nano_one_stage": ("stage=unified", "model=nano"),
    "nano_reading": ("stage=unified", "model=nano"),
    "gen_expert_only": ("stage=unified", "model=7b_mot", "data=own"),
    "without_interleaved": ("stage=unified",),
}


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.mark.parametrize(("model", "data", "runtime", "stage"), product(
    names("model"), names("data"), names("runtime"), STAGES))  # fmt: skip
def test_every_combination_composes(model, data, runtime, stage):
    settings = compose([f"model={model}", f"data={data}", f"runtime={runtime}", f"stage={stage}"]).settings()
    assert isinstance(settings, TrainSettings)
    assert settings.model.config == PRESETS[model]
    assert settings.runtime.zero == (runtime == "zero3")
    # The nano model's few images ask for a vision encoder that goes on learning.
    learns = stage == "foundation" or (model, stage) == ("nano", "unified")
    assert settings.frozen == (() if learns else ("vit",))


@pytest.mark.parametrize("experiment", names("experiment"))
@pytest.mark.parametrize("stage", STAGES)
def test_every_experiment_composes(experiment, stage):
    settings = compose([f"stage={stage}", *NEEDS.get(experiment, ()), f"experiment={experiment}"]).settings()
    plain = compose([f"stage={stage}", *NEEDS.get(experiment, ())]).settings()
    if stage != "foundation" or experiment != "without_interleaved":
        assert settings != plain


def test_experiments_have_outputs_of_their_own():
    """An ablation must not go on from the finished run that it is compared with."""
    folders = {compose([*NEEDS.get(name, ()), f"experiment={name}"]).values["output"] for name in names("experiment")}
    folders.discard(compose([]).values["output"])
    assert len(folders) == len(names("experiment"))


def test_the_composed_config_is_kept(tmp_path):
    plan = compose(["steps=7"])
    plan.save(tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == plan.values
    assert plan.values["steps"] == 7


def test_every_file_is_covered():
    files = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")}
    groups = ("model", "data", "runtime", "stage", "experiment", "scale", "infer", "curation")
    assert files == {Path("train.yaml"), *(Path(group) / f"{name}.yaml" for group in groups for name in names(group))}
    assert set(names("scale")) == {f"nano_{stage}" for stage in STAGES}


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("foundation", (85_000, 5e-5, (), (5, 25, 75, 0), (378, 980), (512, 1024), 18_500)),
        ("instruction", (120_000, 2.5e-5, ("vit",), (5, 45, 40, 10), (224, 518), (512, 1024), 20_000)),
        ("unified", (70_000, 1e-5, ("vit",), (3, 35, 37, 25), (378, 980), (32, 1024), 27_000)),
    ],
)
def test_the_published_recipe(stage, expected):
    """Paper, Table 12."""
    settings = compose(["model=7b_mot", "data=own", "runtime=zero3", f"stage={stage}"]).settings()
    weights, vit, vae = settings.data.weights, settings.data.transforms.vit, settings.data.transforms.vae
    assert (
        settings.steps,
        settings.optimizer.learning_rate,
        settings.frozen,
        (weights.text, weights.t2i, weights.i2t, weights.interleaved),
        (vit.min_side, vit.max_side),
        (vae.min_side, vae.max_side),
        settings.data.max_sample_tokens,
    ) == expected
    optimizer = settings.optimizer
    assert (optimizer.betas, optimizer.eps, optimizer.weight_decay, optimizer.clip) == ((0.9, 0.95), 1e-15, 0.0, 1.0)
    assert optimizer.schedule == "constant"
    assert settings.ema == 0.995
    assert (settings.loss.ce, settings.loss.mse) == (0.25, 1.0)
    dropout = settings.data.dropout
    assert (dropout.text, dropout.vit, dropout.vae, dropout.edits) == (0.3, 0.05, 0.05, False)


def test_autoencoder_stage():
    own, vae, out, device = compose(["stage=autoencoder", "output=x", "autoencoder.steps=7"]).autoencoder()
    assert (own.steps, vae, out, device) == (7, PRESETS["nano"].vae, Path("x"), "cpu")
    for word, message in (("stpes=3", "unknown setting stpes"), ("dry_run=true", "no dry run of this stage")):
        with pytest.raises(ConfigError, match=message):
            compose(["stage=autoencoder", word]).autoencoder()


def test_held_out_rows_are_read_as_training_rows_are():
    settings = compose(["data.max_tokens=1500"]).settings()
    held_out = settings.validation.data
    assert held_out is not None
    assert held_out.max_tokens == 1500
    assert held_out.transforms == settings.data.transforms
    assert (held_out.dropout.text, held_out.dropout.vit, held_out.dropout.vae) == (0, 0, 0)
    assert not set(held_out.sources) & set(settings.data.sources)


def test_values_that_no_file_names():
    settings = compose(["model.config.llm.num_hidden_layers=2", "data.shift=3.0", "accumulation=4"]).settings()
    assert settings.model.config.llm.num_hidden_layers == 2
    assert settings.model.config.llm.hidden_size == PRESETS["nano"].llm.hidden_size
    assert (settings.data.shift, settings.accumulation) == (3.0, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stage=first"], "Could not find 'stage/first'.*foundation"),
        (["stesp=3"], "unknown setting stesp"),
        (["data.wieghts.t2i=3"], r"unknown setting wieghts \(config, data\)"),
        (["steps=many"], "'many'.*steps"),
        (["steps=0"], "steps is 0"),
        (["frozen=[lm]"], "unknown part lm"),
        (["ema=1.0"], "ema is 1.0"),
        (["model.preset=13b"], "preset '13b'.*7b_mot"),
        (["data.sources=[]"], "the mix wants 5 of text, and no source has any"),
        (["stage=unified", "data.sources=[{name: a, family: text, files: [a]}]"], "the mix wants 25 of t2i"),
        (["data.max_sample_tokens=50"], r"smallest sample of t2i has 66 tokens, the limit is 50|of i2t has 66"),
        (["data.max_tokens=500"], "a sample must fit in a batch"),
        (["model.config.visual_gen=false"], "the mix has t2i, and the model no visual_gen"),
        (["runtime.offload_optimizer=true"], "offload without ZeRO"),
        (["runtime=zero3", "runtime.offload_parameters=true"], "offload_parameters without offload_optimizer"),
        (["runtime.checkpointing=some"], "'some'.*none, selective, full"),
        (["optimizer.clip=0"], "clip is 0"),
        (["loss={ce: 0, mse: 0}"], "both loss weights are 0"),
        (["validation.every=10", "held_out=[]", "~validation.every", "+validation.every=10", "data=own"], "^$"),
        (["gpus=0"], "gpus=0"),
        (["steps=${nothing}"], "nothing"),
    ],
)
def test_mistakes_are_told_in_one_line(words, message):
    if message == "^$":
        assert compose(words).settings().validation.every == 0
        return
    with pytest.raises(ConfigError, match=message) as caught:
        compose(words).settings()
    assert "\n" not in str(caught.value)
