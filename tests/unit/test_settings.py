from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from unimedvl.errors import ConfigError
from unimedvl.settings import build, override


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    count: int = 3
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    on: bool = False


def test_words_win_over_the_file_over_defaults(tmp_path):
    (tmp_path / "s.yaml").write_text("count: 5\ninner: {rate: 2, kind: b}\n")
    words = ["inner.rate=0.25", "pair=[1, 2]", "names=[x, y]", "size=[64, 48]", "on=true"]
    settings = override(Outer(), words, tmp_path / "s.yaml")
    assert settings == Outer(Inner(0.25, "b"), 5, (1.0, 2.0), ("x", "y"), (64, 48), True)
    assert override(Outer()) == Outer()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("inner.speed=1", r"unknown setting speed \(settings, inner\); known are rate, kind"),
        ("count=2.5", r"2.5 \(settings, count\); give int"),
        ("count=true", "True .*give int"),
        ("inner.kind=c", "'c' .*use one of a, b"),
        ("pair=[1]", r"\[1\] .*give a list of 2 float"),
        ("names=x", "'x' .*give a list of str"),
        ("inner=3", "3 .*give Inner"),
        ("count", "'count' is no override.*key=value"),
    ],
)
def test_wrong_words_are_named(word, message):
    with pytest.raises(ConfigError, match=message):
        override(Outer(), [word])


def test_wrong_files(tmp_path):
    with pytest.raises(ConfigError, match="no such settings file"):
        override(Outer(), file=tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML") as caught:
        override(Outer(), file=tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)
    (tmp_path / "bad.yaml").write_text("just words")
    with pytest.raises(ConfigError, match="holds no settings"):
        override(Outer(), file=tmp_path / "bad.yaml")


def test_optional_values():
    assert build(Outer, {"size": None}, "x").size is None


@dataclass(frozen=True)
class Named:
    facts: dict[str, str | float] = field(default_factory=dict)


def test_mappings_and_values_of_several_kinds(tmp_path):
    (tmp_path / "s.yaml").write_text("facts: {organ: lung, scale: 4}\n")
    assert override(Named(), ["facts.organ=liver", "facts.side=left"], tmp_path / "s.yaml") == Named(
        {"organ": "liver", "scale": 4.0, "side": "left"}
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("facts=lung", r"'lung' \(settings, facts\); give a mapping"),
        ("facts.organ=no", r"False \(settings, facts, organ\); give str or float"),
        ("facts={1: lung}", r"1 \(settings, facts\); give str"),
    ],
)
def test_mappings_that_cannot_be(word, message):
    with pytest.raises(ConfigError, match=message):
        override(Named(), [word])
