from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.errors import ConfigError
from unimedvl.train.ema import Ema
from unimedvl.train.metrics import Metrics, flattened, peak_tflops
from unimedvl.train.optim import learning_rate
from unimedvl.train.settings import LogSettings, OptimizerSettings


@given(warmup=st.integers(0, 50), steps=st.integers(51, 200), step=st.integers(0, 199))
def test_rates_stay_between_zero_and_their_peak(warmup, steps, step):
    for schedule in ("constant", "cosine"):
        settings = OptimizerSettings(1e-3, warmup=warmup, schedule=schedule, final_ratio=0.1)
        rate = learning_rate(settings, min(step, steps - 1), steps)
        assert 0 < rate <= 1e-3


def test_schedules():
    settings = OptimizerSettings(1.0, warmup=4, schedule="cosine", final_ratio=0.2)
    assert [learning_rate(settings, step, 24) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(settings, 4, 24) == 1.0
    assert learning_rate(settings, 14, 24) == pytest.approx(0.6)
    assert learning_rate(settings, 24, 24) == pytest.approx(0.2)
    constant = OptimizerSettings(1.0, warmup=4)
    assert learning_rate(constant, 20, 24) == 1.0


def test_ema_follows_its_formula():
    weights = {"a": torch.zeros(3), "b": torch.ones(2)}
    ema = Ema(weights, 0.9)
    for _ in range(2):
        weights["a"] += 1
        ema.update(weights)
    torch.testing.assert_close(ema.pieces["a"], torch.full((3,), 0.9 * 0.1 + 0.2))
    assert torch.equal(ema.pieces["b"], torch.ones(2))
    weights["b"] += 5
    assert torch.equal(ema.pieces["b"], torch.ones(2))  # a copy


def test_metrics_of_steps_done_again_are_replaced(tmp_path):
    metrics = Metrics(tmp_path, LogSettings(), run="r", steps=9, resumed=0)
    for step in range(1, 6):
        metrics.write(step, {"ce": float(step)})
    metrics.close()
    with metrics.path.open("a") as file:
        file.write('{"step": 6, "ce"')  # cut off by a kill
    again = Metrics(tmp_path, LogSettings(), run="r", steps=9, resumed=3)
    again.write(4, {"ce": 40.0, "norm": {"all": 1.0}})
    again.close()
    assert [line.split(",")[0] for line in metrics.path.read_text().splitlines()] == [
        f'{{"step": {step}' for step in (1, 2, 3, 4)
    ]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    metrics = Metrics(tmp_path, LogSettings(tensorboard=True), run="r", steps=9, resumed=0)
    metrics.write(1, {"ce": 1.0, "norm": {"all": 2.0}})
    metrics.close()
    assert list((tmp_path / "tensorboard").iterdir())


def test_nested_numbers_and_peaks():
    assert flattened({"a": 1, "b": {"c": 2, "d": {"e": 3}}}) == {"a": 1, "b/c": 2, "b/d/e": 3}
    assert peak_tflops("NVIDIA A800-SXM4-80GB") == 312.0
    assert peak_tflops("NVIDIA H200") == 989.0
    assert peak_tflops("abacus") is None


@pytest.mark.parametrize(
    "changes", [{"clip": 0.0}, {"betas": (0.9, 1.0)}, {"warmup": -1}, {"learning_rate": -1.0}, {"clip": float("nan")}]
)
def test_optimizers_that_cannot_work(changes):
    with pytest.raises(ConfigError):
        OptimizerSettings(**changes)
