from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.data.curation.small_corpus import contents, curated, ids_in, pairs_in, rows_in, staged
from unimedvl.data.curation import removals
from unimedvl.data.curation.corpus import MANIFEST, flags_of, pairs_of, remove, write_corpus
from unimedvl.data.curation.decisions import Decision, read_decisions
from unimedvl.data.curation.pairs import write_part
from unimedvl.data.curation.record_files import UNFINISHED
from unimedvl.data.curation.removals import Removal, content_of
from unimedvl.data.curation.settings import CurateSettings
from unimedvl.errors import DataError
from unimedvl.files import locked


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """As without matplotlib, which is slow."""
    monkeypatch.setattr("unimedvl.data.curation.plots._can_plot", lambda: False)


@pytest.fixture
def pairs(tmp_path):
    return pairs_in(tmp_path / "images")


def drops(pairs, stage="audit"):
    return [Decision(pair.id, stage, "drop", "mean", score=1.5) for pair in pairs]


class Killed(BaseException):
    """No exception that anybody handles."""


def kill_at(monkeypatch, number):
    """Let nothing be written after so many files have appeared or gone."""
    left = [number]

    def counted(name):
        real = getattr(Path, name)

        def act(path, *args, **kwargs):
            if path.name.startswith(".part-") and name == "unlink":
                return real(path, *args, **kwargs)
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(path, *args, **kwargs)

        monkeypatch.setattr(Path, name, act)

    counted("replace")
    counted("unlink")


def killed(monkeypatch, number, act):
    """Whether it was before it had ended."""
    with monkeypatch.context() as patch:
        kill_at(patch, number)
        try:
            act()
        except Killed:
            return True
    return False


def test_what_was_removed_stays_out_when_the_corpus_is_written_again(pairs, tmp_path):
    out = tmp_path / "out"
    curated(out, pairs)
    assert remove(out, drops(pairs[:2]) + drops(pairs[10:11], "privacy check")) == Removal(3)
    gone, before = {pairs[0].id, pairs[1].id, pairs[10].id}, contents(out)
    for _ in range(2):
        assert set(ids_in(out)) == {pair.id for pair in pairs} - gone
        assert {pair.id for pair in pairs_of(out)} == set(ids_in(out))
        told = [each for each in read_decisions(out / "decisions.jsonl") if each.stage != "privacy"]
        assert told == drops(pairs[:2]) + drops(pairs[10:11], "privacy check")
        manifest = json.loads((out / MANIFEST).read_text())
        assert manifest["removed"] == sorted(gone)
        assert manifest["removals"] == {"audit": 2, "privacy check": 1}
        assert sum(manifest["rows"].values()) == 9
        corpus = curated(out, pairs)
        assert contents(out) == before
        assert (corpus.removed, corpus.unfit) == (3, 0)
        assert "\n3 pairs stay out, as removed.jsonl says\n" in str(corpus)
    assert remove(out, drops(pairs[:2])) == Removal(0)
    assert contents(out) == before
    (out / removals.NAME).unlink()
    assert len(curated(out, pairs).rows) == 5
    assert set(ids_in(out)) == {pair.id for pair in pairs}


def test_images_and_files_that_no_record_needs_any_more_go(pairs, tmp_path):
    out = tmp_path / "out"
    curated(out, pairs)
    assert json.loads((out / MANIFEST).read_text())["images"] == 4
    assert (out / "test" / "t2i.jsonl").exists()
    # The image 2 is of the pairs 6 and 10, the latter the one picture to make of the test split; 2 is a text.
    remove(out, drops([pairs[6], pairs[10]]))
    manifest = json.loads((out / MANIFEST).read_text())
    assert [Path(row["path"]).name for row in rows_in(out / "images.jsonl")] == ["0.png", "1.png", "3.png"]
    assert manifest["images"] == 3
    assert not (out / "test" / "t2i.jsonl").exists()
    assert set(manifest["files"]) == {*manifest["rows"], "images.jsonl"}
    # Of image 0 the first pair that is left tells: its next one has no age.
    assert rows_in(out / "images.jsonl")[0]["facts"] == {"age": 0}
    remove(out, drops([pairs[0]]))
    assert "facts" not in rows_in(out / "images.jsonl")[0]


def test_a_removal_that_was_killed_anywhere_is_finished_by_the_next(pairs, tmp_path, monkeypatch):
    curated(tmp_path / "whole", pairs)
    card = (tmp_path / "whole" / "README.md").read_text()
    remove(tmp_path / "whole", drops(pairs[:3]))
    wanted, said = contents(tmp_path / "whole"), (tmp_path / "whole" / "README.md").read_text()
    assert "3 records" in said
    for number in range(60):
        out = tmp_path / f"killed{number:02}"
        curated(out, pairs)
        if not killed(monkeypatch, number, lambda out=out: remove(out, drops(pairs[:3]))):
            break
        if number:  # the decision is kept
            assert {pair.id for pair in pairs_of(out)} == {pair.id for pair in pairs[3:]}
        ended = "removed" in json.loads((out / MANIFEST).read_text())
        assert remove(out, drops(pairs[:3])).removed == (0 if ended else 3)
        assert contents(out) == wanted
        assert (out / "README.md").read_text() == said != card
    assert number > 8


def test_a_corpus_written_after_a_killed_removal_has_it_too(pairs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    curated(out, pairs)
    assert killed(monkeypatch, 3, lambda: remove(out, drops(pairs[:3])))
    curated(out, pairs)
    after = contents(out)
    assert remove(out, drops(pairs[:3])).removed == 0
    assert contents(out) == after
    assert json.loads(after[MANIFEST])["removals"] == {"audit": 3}


def test_only_what_was_judged_is_removed(pairs, tmp_path):
    out = tmp_path / "out"
    judged = {pair.id: content_of(pair) for pair in pairs}
    other = [replace(pair, text="Other words.") if number == 1 else pair for number, pair in enumerate(pairs)]
    del other[2]
    curated(out, other)
    found = remove(out, drops(pairs[:3]), judged)
    assert found == Removal(1, absent=(pairs[2].id,), changed=(pairs[1].id,))
    assert set(ids_in(out)) == {pair.id for pair in other[1:]}


def test_an_image_with_other_pixels_is_another_pair(pairs, tmp_path):
    out = tmp_path / "out"
    judged = {pair.id: content_of(pair) for pair in pairs}
    Path(pairs[0].images[0]).write_bytes(Path(pairs[3].images[0]).read_bytes())
    curated(out, pairs)
    assert remove(out, drops([pairs[0], pairs[3]]), judged).changed == (pairs[0].id,)


def test_another_corpus_is_refused_and_stays_as_it_is(pairs, tmp_path):
    out = tmp_path / "out"
    curated(out, [replace(pair, id=pair.id[::-1]) for pair in pairs])
    before = contents(out)
    with pytest.raises(DataError, match="none of 2 pairs to remove is in this corpus"):
        remove(out, drops(pairs[:2]), {pair.id: content_of(pair) for pair in pairs})
    assert contents(out) == before
    with pytest.raises(DataError, match="no corpus"):
        remove(tmp_path / "nowhere", drops(pairs[:2]))
    assert not (tmp_path / "nowhere").exists()


def test_a_removal_does_not_fall_on_whoever_has_the_id_next(pairs, tmp_path):
    out = tmp_path / "out"
    curated(out, pairs)
    remove(out, drops(pairs[:2]))
    # A row came in at the top: contents moved on by one id.
    contents_now = [replace(pairs[0], text="New."), *pairs[:-1]]
    moved = [replace(own, id=pair.id) for own, pair in zip(contents_now, pairs, strict=True)]
    corpus = curated(out, moved)
    assert (corpus.removed, corpus.unfit, len(ids_in(out))) == (0, 2, 12)
    told = "2 removals of removed.jsonl are without effect"
    assert told in str(corpus)
    assert told in (out / "README.md").read_text()
    assert curated(out, pairs).removed == 2  # the removals were kept


def test_a_damaged_file_of_removals_is_named(pairs, tmp_path):
    curated(tmp_path / "out", pairs)
    for text, told in (('{"pair": "x"}\n', "no content of a pair.*line 1"), ("[]\n", "no record.*line 1")):
        (tmp_path / "out" / removals.NAME).write_text(text)
        with pytest.raises(DataError, match=told):
            pairs_of(tmp_path / "out")


def test_no_records_of_a_killed_run_stay(pairs, tmp_path, monkeypatch):
    wanted = set(curated(tmp_path / "whole", pairs).rows)
    for number in range(60):
        out = tmp_path / f"killed{number:02}"
        (out / "train").mkdir(parents=True)
        (out / "train" / "mine.jsonl").write_text("Not of this corpus.")
        curated(out, pairs, files={"understanding": "captions"})
        ended = not killed(monkeypatch, number, lambda out=out: curated(out, pairs, files={"text": "words"}))
        curated(out, pairs)
        there = {path.relative_to(out).as_posix() for path in out.glob("t*/*")}
        assert there == wanted | {"train/mine.jsonl"}
        assert not (out / UNFINISHED).exists()
        if ended:
            break
    assert number > 10


def test_what_a_killed_process_left_beside_the_records_goes(pairs, tmp_path):
    out = tmp_path / "out"
    curated(out, pairs)
    for name in (".part-4711-t2i.jsonl", ".part-4711-mine.jsonl", ".part-x-t2i.jsonl"):
        (out / "train" / name).write_text("{")
    curated(out, pairs)
    assert sorted(path.name for path in (out / "train").glob(".*")) == [".part-4711-mine.jsonl", ".part-x-t2i.jsonl"]


def test_a_killed_process_leaves_the_names_of_what_it_began(pairs, tmp_path, monkeypatch):
    out = tmp_path / "out"
    stages = staged(out, pairs)

    def stop(*_):
        raise Killed

    monkeypatch.setattr("unimedvl.data.curation.corpus.write_index", stop)
    with pytest.raises(Killed):
        write_corpus(out, stages, CurateSettings(out=out, files={"text": "words"}))
    monkeypatch.undo()
    named = json.loads((out / UNFINISHED).read_text())["rows"]
    assert named == sorted(path.relative_to(out).as_posix() for path in out.glob("t*/*.jsonl"))
    assert "train/words.jsonl" in named


@pytest.mark.parametrize("name", [MANIFEST, UNFINISHED])
def test_a_damaged_manifest_is_named(name, pairs, tmp_path):
    out = tmp_path / "out"
    stages = staged(out, pairs)
    (out / name).write_text("{}")
    with pytest.raises(DataError, match=f"no manifest of a corpus.*{name}"):
        write_corpus(out, stages, CurateSettings(out=out))


def test_facts_of_flagged_pairs_are_in_no_index(pairs, tmp_path):
    out = tmp_path / "out"
    curated(out, pairs)
    rows = rows_in(out / "images.jsonl")
    assert [row.get("facts") for row in rows] == [{"age": 0}, None, {"age": 3}, {"age": 6}]
    curated(out, pairs, flagged=(0, 1))
    assert [row.get("facts") for row in rows_in(out / "images.jsonl")] == [None, None, {"age": 3}, {"age": 6}]
    assert [{**row, "facts": None} for row in rows_in(out / "images.jsonl")] == [{**row, "facts": None} for row in rows]
    assert flags_of(out) == {pairs[0].id: ["name in text"], pairs[1].id: ["name in text"]}
    remove(out, drops([pairs[4]]))
    assert "facts" not in rows_in(out / "images.jsonl")[0]


def test_stages_of_a_later_run_are_not_taken_for_those_of_the_corpus(pairs, tmp_path):
    out = tmp_path / "out"
    curated(out, pairs)
    staged(out, pairs[:6], seed=1)  # and then killed
    for act in (pairs_of, flags_of, lambda folder: remove(folder, drops(pairs[:1]))):
        with pytest.raises(DataError, match="of another run than the corpus.*run the curation again"):
            act(out)
    for stage in ("00-ingest", "01-privacy"):
        for part in (out / "work" / stage).glob("part-*"):
            part.unlink()
    with pytest.raises(DataError, match="its pairs are gone"):
        pairs_of(out)


def test_an_image_that_is_gone_is_named(pairs, tmp_path):
    out = tmp_path / "out"
    curated(out, pairs)
    Path(pairs[1].target).unlink()
    with pytest.raises(DataError, match=r"no such file.*1\.png"):
        curated(out, pairs)


def test_nothing_is_removed_while_a_curation_works(pairs, tmp_path):
    out = tmp_path / "out"
    curated(out, pairs)
    with locked(out / "work" / "curation") as free:
        assert free
        with pytest.raises(DataError, match="another curation works here"):
            remove(out, drops(pairs[:1]))
    assert remove(out, drops(pairs[:1])).removed == 1


def test_sources_are_counted_of_all_parts(pairs, tmp_path):
    out = tmp_path / "out"
    stages = staged(out, pairs)
    write_part(stages[0].folder / "part-000002.parquet", [replace(pairs[0], id="f" * 16, source="other")])
    write_corpus(out, stages, CurateSettings(out=out))
    assert "of 13 that were read from 2 sources" in (out / "README.md").read_text()
