"""Stages with a language model: through a bad server, without one, and what each pair becomes."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.unit.data.curation.fake_author import DESCRIPTION, NEVER, answer
from tests.unit.data.curation.fake_endpoint import FAULTS, serving, settings, text_of
from unimedvl.data.curation import curate, prompts
from unimedvl.data.curation.alignment import AlignmentSettings, Measured
from unimedvl.data.curation.authoring import AuthoringSettings, _guarded, author, captioning, spent
from unimedvl.data.curation.backends import EndpointCaptioner
from unimedvl.data.curation.curate import _selected
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.pairs import Pair, in_parts, write_part
from unimedvl.data.curation.refine import noted
from unimedvl.data.curation.settings import BackendSettings, CurateSettings
from unimedvl.data.curation.stages import enter
from unimedvl.endpoint import UnreachedError
from unimedvl.errors import ConfigError
from unimedvl.replies import Cost
from unimedvl.settings import override

ROOT = Path(__file__).parents[4]
COUNT = 12


@contextlib.contextmanager
def silent(_what, _total):
    yield lambda: None


@pytest.fixture
def server():
    with serving(answer) as server:
        yield server


@pytest.fixture
def pairs(tmp_path):
    """Drawings, questions and edits in turn; an image each."""
    made = []
    for n in range(3 * COUNT):
        file = str(tmp_path / f"{n}.png")
        Image.new("RGB", (40, 40), (n, 9, 9)).save(file)
        number, kind = n // 3, n % 3
        if kind == 0:
            made.append(Pair(f"t{number}", "s", "t2i", text=f"Left effusion #{number}", modality="CXR", target=file))
        elif kind == 1:
            truth = "yes" if number % 2 == 0 and number != 10 else "no"  # of 10 the model says another
            asked = f"Is there an effusion? #{number}"
            made.append(Pair(f"u{number}", "s", "understanding", question=asked, text=truth, images=(file,)))
        else:
            pair = Pair(f"e{number}", "s", "edit", images=(file,), target=file, text="Given by the source.")
            made.append(noted(pair, replace(pair, question=f"Sharpen this image #{number}.")))
    return made


class Build:
    """One stage over parts of six pairs."""

    def __init__(self, folder, pairs, server, **more):
        own = settings(server)
        self.settings = AuthoringSettings(**{"threads": 4, **own, **more})
        self.folder = folder
        self.first = enter(folder, "before", 0, {}, None)
        for number, part in enumerate(in_parts(pairs, 6)):
            write_part(self.first.folder / f"part-{number:05d}.parquet", part)
        self.told = []

    def run(self, use, withheld=frozenset()):
        stage = enter(self.folder, use, 1, self.settings.decisive(use, 3), self.first)
        own = {"seed": 3, "withheld": withheld, "folder": self.folder / "replies", "bar": silent}
        own["tell"] = self.told.append
        author(stage, self.first.parts, use, self.settings, **own)
        return list(stage.pairs()), {each.pair: each for each in stage.decisions()}


@pytest.mark.parametrize("use", ["augment", "reason", "refine"])
def test_a_bad_server_loses_nothing_and_is_asked_nothing_twice(server, pairs, tmp_path, use):
    # Two faults of all kinds before each good answer; three attempts.
    server.fault = lambda text, before: FAULTS[(len(text) + before) % len(FAULTS)] if before < 2 else None
    results = [Build(tmp_path / "a", pairs, server).run(use)]
    assert set(server.answered.values()) == {1}
    asked = server.asked.total()
    assert asked == 3 * server.answered.total()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "replies").rename(tmp_path / "b" / "replies")
    again = Build(tmp_path / "b", pairs, server, threads=1, key_variable="OTHER", input_price=1.0, output_price=1.0)
    results.append(again.run(use))
    assert results[0] == results[1]
    assert server.asked.total() == asked
    assert [pair.id for pair in results[0][0]] == [pair.id for pair in pairs]
    assert spent(tmp_path / "b" / "replies") == {
        use: Cost(
            asked=server.answered.total(),
            prompt_tokens=100 * server.answered.total(),
            completion_tokens=20 * server.answered.total(),
        )
    }


def test_what_becomes_of_drawings(server, pairs, tmp_path):
    made, decisions = Build(tmp_path, pairs, server).run("augment")
    assert set(decisions) == {f"t{n}" for n in range(COUNT)}
    for before, after in zip(pairs, made, strict=True):
        if before.family != "t2i" or before.id == f"t{NEVER}":
            assert after == before
        else:
            assert after.question.startswith(f"Please generate a realistic chest X-ray image showing {before.text},")
            assert after.text.startswith("<think>")
            assert after.more["cag"] == {"description": DESCRIPTION, "model": "fake-1"}
    flagged = decisions.pop(f"t{NEVER}")
    assert (flagged.action, flagged.reason) == ("flag", "instruction faulty")
    assert {(each.action, each.reason, each.stage) for each in decisions.values()} == {("keep", "augmented", "augment")}


def test_what_becomes_of_questions(server, pairs, tmp_path):
    pairs = [replace(pair, split="test") if pair.id == "u2" else pair for pair in pairs]
    made, decisions = Build(tmp_path, pairs, server).run("reason")
    assert set(decisions) == {f"u{n}" for n in range(COUNT) if n != 2}
    changed = {after.id for before, after in zip(pairs, made, strict=True) if after != before}
    assert changed == {f"u{n}" for n in range(COUNT) if n not in (2, 10)}
    assert decisions["u10"].reason == "another answer"
    assert decisions["u10"].detail == "'Yes'"
    assert all(pair.text.endswith(("</think> yes", "</think> no")) for pair in made if pair.id in changed)


def test_what_becomes_of_templates(server, pairs, tmp_path):
    made, decisions = Build(tmp_path, pairs, server).run("refine")
    assert set(decisions) == {f"e{n}" for n in range(COUNT)}
    for before, after in zip(pairs, made, strict=True):
        assert after.text == before.text
        assert after.question == (f"Please, {before.question}" if before.family == "edit" else before.question)


def test_a_part_with_pairs_without_a_reply_is_not_finished(server, pairs, tmp_path):
    server.fault = lambda text, before: "503" if "#4" in text and "that draws" in text else None
    build = Build(tmp_path, pairs, server)
    with pytest.raises(UnreachedError) as caught:
        build.run("augment")
    told = str(caught.value)
    assert told.startswith("1 of 2 pairs got no reply: the language model does not answer after 3 attempts: HTTP 503")
    assert server.url in told
    assert "start the same again" in told
    assert "\n" not in told
    done = [path.name for path in (tmp_path / "01-augment").glob("part-*.parquet")]
    assert sorted(done) == ["part-00000.parquet", "part-00001.parquet"]  # pair 4 stands in the third
    assert build.told[-1].startswith("augment: ")
    server.fault = lambda text, before: None
    made, decisions = Build(tmp_path, pairs, server).run("augment")
    assert set(server.answered.values()) == {1}
    whole = Build(tmp_path / "whole", pairs, server).run("augment")
    assert (made, decisions) == whole


def test_a_server_that_is_gone_costs_few_requests(server, pairs, tmp_path):
    server.fault = lambda text, before: "503"
    many = [replace(pairs[2], id=str(n), question=f"{n}") for n in range(60)]
    many = [replace(pair, more={"templates": {"question": pair.question}}) for pair in many]
    build = Build(tmp_path, [], server)
    write_part(build.first.folder / "part-00000.parquet", many)
    with pytest.raises(UnreachedError, match="60 of 60 pairs got no reply: the language model does not answer"):
        build.run("refine")
    assert server.asked.total() <= 3 * 23  # twenty in a row, and what three more threads had begun
    assert not list((tmp_path / "01-refine").glob("part-*"))


def test_a_refused_key_ends_the_run(server, pairs, tmp_path):
    server.fault = lambda text, before: "401"
    with pytest.raises(ConfigError, match=r"the language model refuses: HTTP 401.*the key in OPENAI_API_KEY"):
        Build(tmp_path, pairs, server).run("reason")


def test_a_pair_that_is_refused_is_flagged(server, pairs, tmp_path):
    server.fault = lambda text, before: "400" if "#5" in text else None
    made, decisions = Build(tmp_path, pairs, server).run("reason")
    assert (decisions["u5"].action, decisions["u5"].reason) == ("flag", "reasoning refused")
    assert made == [
        pair if pair.id == "u5" else other
        for pair, other in zip(pairs, Build(tmp_path / "b", pairs, server).run("reason")[0], strict=True)
    ]


@pytest.mark.parametrize("use", ["augment", "reason", "refine"])
def test_a_part_of_which_everything_is_refused_is_not_finished(server, pairs, tmp_path, use):
    """Too few for the limit of requests that ends a run."""
    chosen = [pair for pair in pairs if {"augment": "t", "reason": "u", "refine": "e"}[use] == pair.id[0]][:6]
    server.fault = lambda text, before: "400"
    with pytest.raises(ConfigError) as caught:
        Build(tmp_path, chosen, server).run(use)
    assert str(caught.value).startswith("all requests for 6 pairs were refused: the language model refuses: HTTP 400")
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / f"01-{use}").glob("part-*"))
    server.fault = lambda text, before: None
    assert Build(tmp_path, chosen, server).run(use) == Build(tmp_path / "whole", chosen, server).run(use)


def test_refusals_among_others_and_few_alone_are_of_the_pairs(server, pairs, tmp_path):
    asked = [pair for pair in pairs if pair.id[0] == "u"]
    server.fault = lambda text, before: None if "#2" in text else "400"
    _, decisions = Build(tmp_path / "a", asked[:6], server).run("reason")
    assert [each.action for each in decisions.values()] == ["flag"] * 2 + ["keep"] + ["flag"] * 3
    _, decisions = Build(tmp_path / "b", asked[6:10], server).run("reason")
    assert [each.reason for each in decisions.values()] == ["reasoning refused"] * 4
    # Replies that were kept count: the endpoint takes such requests.
    server.fault = lambda text, before: None
    Build(tmp_path / "c", asked[:1], server).run("reason")
    (tmp_path / "d").mkdir()
    (tmp_path / "c" / "replies").rename(tmp_path / "d" / "replies")
    server.fault = lambda text, before: "400"
    _, decisions = Build(tmp_path / "d", asked[:6], server).run("reason")
    assert [each.action for each in decisions.values()] == ["keep"] + ["flag"] * 5


def test_what_the_guard_of_privacy_has_flagged_is_not_sent(server, pairs, tmp_path):
    made, decisions = Build(tmp_path, pairs, server).run("reason", withheld={"u3", "u6", "t0"})
    assert [made[pairs.index(pair)] for pair in pairs if pair.id in ("u3", "u6")] == [
        pair for pair in pairs if pair.id in ("u3", "u6")
    ]
    assert [(decisions[name].action, decisions[name].reason) for name in ("u3", "u6")] == [("flag", "not sent")] * 2
    assert "t0" not in decisions  # which this use is not about
    sent = json.dumps(server.bodies)
    assert "effusion? #2" in sent
    assert not any(f"effusion? #{number}" in sent for number in (3, 6))


def test_new_texts_that_name_a_patient_are_not_taken(tmp_path):
    bare = Pair("0", "s", "edit", images=("x.png",))
    dated = replace(bare, id="1", text="Made on 3 May 2019.")
    pairs = [noted(pair, replace(pair, question="Sharpen this image.")) for pair in (bare, dated)]
    pairs[1] = noted(dated, replace(dated, question="Sharpen that image."))
    said = {"this": "Sharpen this image of Dr. Jones.", "that": "Sharpen that image."}
    with serving(lambda messages: said["this" if "this image." in text_of(messages[0]) else "that"]) as server:
        made, decisions = Build(tmp_path, pairs, server).run("refine")
    assert made[0] == pairs[0]
    assert (decisions["0"].reason, decisions["0"].detail) == ("personal facts", "name in the new text")
    assert decisions["1"].action == "keep"  # the date was there before


def test_a_decision_does_not_repeat_what_names_a_patient(tmp_path, pairs):
    with serving(lambda messages: f"<think>{'It is written there. ' * 3}</think> Mr. Jones") as server:
        made, decisions = Build(tmp_path, pairs[1:2], server).run("reason")
    assert made == pairs[1:2]
    assert decisions["u0"].reason == "another answer"
    assert decisions["u0"].detail == "withheld: name"


def test_the_name_of_a_model_is_no_date(pairs):
    made, decision = _guarded(pairs[0], pairs[0], Decision("t0", "augment", "keep", "augmented", "by m-2024-08-06"))
    assert decision.detail == "by m-2024-08-06"
    assert made is pairs[0]


def test_only_what_changes_replies_begins_a_stage_again(monkeypatch):
    plain = AuthoringSettings("http://localhost", "m")
    other = replace(
        plain, url="http://elsewhere", key_variable="K", timeout=1.0, attempts=1, pause=0.0, threads=1,
        input_price=1.0, output_price=1.0, refine=True,
    )  # fmt: skip
    assert other.decisive("refine", 1) == plain.decisive("refine", 0)
    for change in ({"model": "n"}, {"temperature": None}, {"max_tokens": 9}, {"rounds": 1}):
        assert replace(plain, **change).decisive("refine", 0) != plain.decisive("refine", 0)
    warm = replace(plain, temperature=0.5)
    assert warm.decisive("refine", 1) != warm.decisive("refine", 0)
    before = {use: plain.decisive(use, 0) for use in ("augment", "reason", "refine")}
    monkeypatch.setitem(prompts._OF_STAGE, "reason", ("other words",))
    assert {use for use in before if plain.decisive(use, 0) != before[use]} == {"reason"}


@pytest.mark.parametrize(("temperature", "requests"), [(0.0, 1), (None, 1), (0.5, COUNT)])
def test_equal_templates_are_asked_for_once_or_with_a_seed_each(server, pairs, tmp_path, temperature, requests):
    equal = [noted(replace(pair, question=""), replace(pair, question="Sharpen it.")) for pair in pairs[2::3]]
    made, _ = Build(tmp_path, equal, server, temperature=temperature).run("refine")
    assert {pair.question for pair in made} == {"Please, Sharpen it."}
    assert server.asked.total() == requests
    assert len({body.get("seed") for body in server.bodies}) == requests


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["augment=true", "refine=true"], "augment, refine without a language model (authoring); give authoring.url"),
        (["augment=true", "url=http://localhost"], "give authoring.url and authoring.model"),
        (["url=localhost:8000"], "'localhost:8000' is no web address (authoring.url)"),
        (["threads=0"], "threads is 0 (authoring)"),
        (["rounds=0"], "rounds is 0 (authoring)"),
        (["attempts=0"], "0 attempts"),
        (["max_tokens=0"], "0 tokens (authoring.max_tokens)"),
        (["input_price=3"], "give both"),
        (["input_price=-3", "output_price=1"], "give both, 0 or more"),
        (["augment=yes please"], "give bool"),
    ],
)
def test_settings_that_cannot_work(words, told):
    with pytest.raises(ConfigError) as caught:
        override(CurateSettings(), [f"authoring.{word}" for word in words])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_on_by_default():
    assert AuthoringSettings().uses == ()
    assert AuthoringSettings("http://x", "m", refine=True, augment=True).uses == ("augment", "refine")


def test_costs_are_told_with_prices_of_the_model_that_has_them(server, pairs, tmp_path):
    build = Build(tmp_path, pairs, server, input_price=1000.0, output_price=10000.0)
    build.run("refine")
    line = "12 asked, 0 known before, 0 failed; 1,200 tokens in, 240 out"
    assert build.told == [f"refine: {line}; 3.6000 at 1000 and 10000 a million"]
    build.run("refine")
    assert len(build.told) == 1  # nothing was left to ask
    with captioning(f"endpoint:{server.url}#other", build.settings, tmp_path, build.told.append) as asked:
        assert isinstance(asked, EndpointCaptioner)
        asked.captions([Image.new("RGB", (40, 40))], ["k"], 2, 0)
    assert build.told[1:] == ["captions: 2 asked, 0 known before, 0 failed; 200 tokens in, 40 out"]
    assert spent(tmp_path) == {"captions": Cost(asked=2, prompt_tokens=200, completion_tokens=40)}
    with captioning("unimedvl:bundled", build.settings, tmp_path, build.told.append) as asked:
        assert asked is None


def test_the_key_stays_out_of_what_is_written(server, pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "sk-1234")
    Build(tmp_path, pairs, server, key_variable="SECRET").run("refine")
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-1234" not in content
    assert json.loads((tmp_path / "01-refine" / "stage.json").read_text())["settings"]["model"] == "fake"


def test_pairs_whose_captions_were_refused_are_flagged_and_bend_no_scores():
    own = ("c", "e", "")
    found = [Measured(str(n), "CT", similarity, None, "said", own) for n, similarity in enumerate((0.2, 0.4, 0.6, 0.8))]
    lost = Measured("lost", "CT", -1.0, None, "", own)
    pairs = [Pair(one.pair, "s", "t2i") for one in (*found, lost)]

    def judged(measured):
        facts = ((pair, one.facts()) for pair, one in zip(pairs, measured, strict=False))
        return {each.pair: each for each in _selected(CurateSettings(), facts)}

    with_it, without = judged([*found, lost]), judged(found)
    flagged = with_it.pop("lost")
    assert (flagged.action, flagged.reason) == ("flag", "no captions")
    assert with_it == without
    assert [each.score for each in without.values()] == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2])


def test_only_training_pairs_are_captioned(server, tmp_path, monkeypatch):
    """Of others scores would decide nothing, but captions are paid for."""
    embedder = SimpleNamespace(name="e", embed=lambda texts: np.ones((len(texts), 1), np.float32))
    monkeypatch.setattr(curate, "_opened", lambda backends: (None, embedder, None))
    pairs = []
    for number, split in enumerate(("", "train", "validation", "test")):
        Image.new("RGB", (40, 40), (number, 9, 9)).save(tmp_path / f"{number}.png")
        image = str(tmp_path / f"{number}.png")
        pairs += [Pair(f"{name}{number}", "s", "t2i", split=split, text="A lung", target=image) for name in "ab"]
    own, backends = AuthoringSettings(**settings(server)), BackendSettings(f"endpoint:{server.url}#m")
    with captioning(backends.captioner, own, tmp_path, print) as asked:
        withheld = {"b1", "b2", "b3"}
        outcome = curate._measured(backends, AlignmentSettings(captions=2), asked, withheld, pairs)
    assert outcome.pairs == pairs
    assert set(outcome.facts) == {"a0", "b0", "a1"}
    assert [each.pair for each in outcome.decisions] == ["b1"]
    assert server.asked.total() == 2 * 2


def test_the_config_that_ships_can_be_read():
    settings = override(CurateSettings(), (), ROOT / "configs" / "curation" / "language_model.yaml").authoring
    assert settings.uses == ("augment", "reason", "refine")
    assert settings.endpoint.url.startswith("http://localhost")
