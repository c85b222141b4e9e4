from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from tests.unit.data.curation.small_corpus import contents, curated, ids_in, pairs_in
from unimedvl.data.__main__ import main
from unimedvl.data.curation.audit.dimensions import DIMENSIONS
from unimedvl.data.curation.audit.page import FORMAT


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """As without matplotlib, which is slow."""
    monkeypatch.setattr("unimedvl.data.curation.plots._can_plot", lambda: False)


@pytest.fixture
def pairs(tmp_path):
    return pairs_in(tmp_path / "images")


def asked(out, *more, code=0):
    page = out.with_name("audit.html")
    assert main(["audit", "page", str(out), "--out", str(page), *more]) == code
    return page


def shown_on(page):
    data = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert data
    return {sample["id"]: sample for sample in json.loads(data[1])["samples"]}


def rated(page, bad):
    """Ratings of all samples, those of these ids the worst; the words of a command that reads them."""
    sheet = json.loads(page.with_suffix(".json").read_text())
    rows = {
        name: {"scores": {each.key: 0 if name in bad else each.highest for each in DIMENSIONS}, "comment": ""}
        for name in sheet["modalities"]
    }
    file = page.with_name("a.json")
    file.write_text(json.dumps({"format": FORMAT, "audit": sheet["audit"], "rater": "A", "ratings": rows}))
    return ["audit", "read", str(page.with_suffix(".json")), str(file), "--remove-from"]


def test_flagged_pairs_are_not_shown_unless_asked_for_and_then_marked(pairs, tmp_path, capsys):
    out = tmp_path / "out"
    curated(out, pairs, flagged=(0, 5))
    hidden = {pairs[0].id, pairs[5].id}
    samples = shown_on(asked(out))
    assert "2 pairs; --flagged" in capsys.readouterr().out
    assert samples.keys() == {pair.id for pair in pairs} - hidden
    assert not any(sample["flags"] for sample in samples.values())
    samples = shown_on(asked(out, "--flagged"))
    assert "not shown" not in capsys.readouterr().out
    assert {name for name, sample in samples.items() if sample["flags"] == ["name in text"]} == hidden
    assert len(samples) == 12


def test_a_corpus_of_flagged_pairs_alone(pairs, tmp_path, capsys):
    out = tmp_path / "out"
    curated(out, pairs, flagged=range(12))
    page = asked(out, code=2)
    assert "all 12 pairs were flagged for privacy" in capsys.readouterr().err
    assert not page.exists()


def test_all_turns_of_a_dialogue_are_shown(pairs, tmp_path):
    turns = [["human", "<image>\nWhich plane?"], ["gpt", "Axial."], ["human", "Sure?"], ["gpt", "No."]]
    dialogue = replace(pairs[0], text="Axial.", more={"turns": turns})
    curated(tmp_path / "out", [dialogue, *pairs[1:]])
    samples = shown_on(asked(tmp_path / "out"))
    sample = samples[pairs[0].id]
    assert (sample["question"], sample["text"]) == (
        "",
        "human: Which plane?\n\ngpt: Axial.\n\nhuman: Sure?\n\ngpt: No.",
    )
    sample = samples[pairs[3].id]
    assert (sample["question"], sample["text"]) == ("Which plane?", "Text 3.")


def test_removed_pairs_are_on_no_later_page(pairs, tmp_path, capsys):
    out = tmp_path / "out"
    curated(out, pairs)
    words = rated(asked(out), {pairs[0].id, pairs[1].id})
    for count in (2, 0):
        assert main([*words, str(out)]) == 0
        assert f"{count} records removed" in capsys.readouterr().out
    assert shown_on(asked(out)).keys() == {pair.id for pair in pairs[2:]} == set(ids_in(out))


def test_ratings_of_one_corpus_change_no_other(pairs, tmp_path, capsys):
    out, other = tmp_path / "out", tmp_path / "other"
    curated(out, pairs)
    curated(other, [replace(pair, id=pair.id[::-1]) for pair in pairs])
    before = contents(other)
    words = rated(asked(out), {pairs[0].id})
    assert main([*words, str(other)]) == 2
    assert "none of 1 pairs to remove is in this corpus as it was judged" in capsys.readouterr().err
    assert contents(other) == before


def test_rows_that_moved_since_the_rating_are_told_and_stay(pairs, tmp_path, capsys):
    out = tmp_path / "out"
    curated(out, pairs)
    words = rated(asked(out), {pairs[0].id, pairs[2].id, pairs[4].id})
    moved = [replace(pair, text="Other words.") if pair is pairs[2] else pair for pair in pairs]
    del moved[4]
    curated(out, moved)
    assert main([*words, str(out)]) == 0
    said = capsys.readouterr().out
    assert "1 records removed" in said
    assert f"not removed, as they are not there any more: {pairs[4].id}\n" in said
    assert f"not removed, as they are not what was rated any more: {pairs[2].id}\n" in said
    assert set(ids_in(out)) == {pair.id for pair in moved} - {pairs[0].id}
