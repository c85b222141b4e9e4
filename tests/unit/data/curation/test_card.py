"""The card: its numbers are those of the stages, whatever names hold, and it comes out the same each time."""

from __future__ import annotations

import html
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unimedvl.data.curation.card import CARD, INGESTED, share, text
from unimedvl.data.curation.coarse import CoarseSettings
from unimedvl.data.curation.corpus import remove, write_corpus
from unimedvl.data.curation.counts import count_pairs, summary_of
from unimedvl.data.curation.decisions import Decision, write_decisions
from unimedvl.data.curation.ingest import ReaderSettings
from unimedvl.data.curation.pairs import Pair, pair_id, write_part
from unimedvl.data.curation.settings import CurateSettings, SourceSettings
from unimedvl.data.curation.stages import enter
from unimedvl.data.stats import summary
from unimedvl.errors import DataError
from unimedvl.files import write_json
from unimedvl.settings import override

WILD = 'A|B\n<b>bold</b> ![x](http://y) `c` _d_ "e"'
COUNT, COARSE, SELECTED = 90, 12, 20
PRIVATE = slice(40, 44)


def pairs_in(images):
    """Of three modalities, in turn questions, captions to images, and edits; every tenth is held out."""
    for n in range(COUNT):
        own: dict[str, Any] = {
            "modality": ("CT", WILD, "MRI")[n // 30],
            "split": "test" if n % 10 == 0 else ("train", "")[n % 2],
            "source": "scans" if n % 3 else WILD,
            "license": "MIT" if n % 3 else "",
            "text": f"Text {n}.",
        }
        file = str(images / f"{n % 20}.png")
        kinds: tuple[dict[str, Any], ...] = (
            {"family": "understanding", "subtask": "plane", "question": "Which plane?", "images": (file,)},
            {"family": "t2i", "target": file},
            {"family": "edit", "question": "Sharpen it.", "images": (file,), "target": str(images / "0.png")},
        )
        yield Pair(pair_id("scans", str(n)), **{**own, **kinds[n % 3]})


def staged(folder, images, found=None):
    """Ingest, coarse and selection, as a curation leaves them: the first pairs are too small, then some fit badly."""
    pairs, stages = list(pairs_in(images) if found is None else found), []
    flagged = [Decision(pair.id, "privacy", "flag", "burned-in text") for pair in pairs[PRIVATE]]
    small = [Decision(pair.id, "coarse", "drop", WILD, "40 pixels") for pair in pairs[:COARSE]]
    scores = {pair.id: n / 100 for n, pair in enumerate(pairs[COARSE:])}
    chosen = [
        Decision(name, "alignment", *(("drop", "poor") if score < SELECTED / 100 else ("keep", "fits")), "", score)
        for name, score in scores.items()
    ]
    for name, decisions in (("ingest", []), ("coarse", small + flagged), ("selection", chosen)):
        stages.append(enter(folder / "work", name, len(stages), {}, stages[-1] if stages else None))
        gone = {each.pair for each in decisions if each.action == "drop"}
        pairs = [pair for pair in pairs if pair.id not in gone]
        for number, part in enumerate((pairs[:50], pairs[50:])):
            write_part(stages[-1].folder / f"part-{number:06d}.parquet", part)
        write_decisions(stages[-1].folder / "decisions-000000.jsonl", decisions)
    write_json(stages[0].folder / INGESTED, {"skipped": {"no image": 1234}, "first": {}})
    return stages


def settings_of(folder):
    reading = ReaderSettings(source=WILD, split="train", images_out=folder / "images")
    sources = (SourceSettings("table", folder.parent / "raw.csv", reading),)
    return CurateSettings(sources=sources, out=folder, seed=3, workers=2, coarse=CoarseSettings(min_characters=4))


def made(folder, images, found=None, **more):
    write_corpus(folder, staged(folder, images, found), settings_of(folder), **more)
    return (folder / CARD).read_text()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for n in range(20):
        Image.linear_gradient("L").resize((30, 20 + n)).rotate(18 * n).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def no_plots(monkeypatch):
    """As without matplotlib."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.fixture(scope="module")
def corpus(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "out"
    return folder, made(folder, images, about="# My scans\n\nFrom *here*.", notes=("It cost\n3 dollars.",))


def rows_of(card, heading):
    """Cells of the table below a heading, by the first."""
    below = card.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_numbers_are_those_of_the_stages(corpus):
    folder, card = corpus
    assert rows_of(card, "Funnel") == [
        ["00-ingest", "90", "0", "100.0%"],
        ["01-coarse", "78", "12", "86.7%"],
        ["02-selection", "58", "20", "64.4%"],
    ]
    assert rows_of(card, "Decisions") == [
        ["ingest", "pass over", "no image", "1,234"],
        ["coarse", "drop", text(WILD), "12"],
        ["alignment", "drop", "poor", "20"],
        ["privacy", "flag", "burned-in text", "4"],
        ["alignment", "keep", "fits", "58"],
    ]
    # The pairs 32 to 89 are left: 28 and 30 of two modalities, of which 40, 50, 60 to 80 are for the test.
    assert rows_of(card, "Pairs by modality") == [["MRI", "27", "3", "30"], [text(WILD), "26", "2", "28"]]
    tasks = {tuple(row[:2]): [int(cell) for cell in row[2:]] for row in rows_of(card, "Pairs by task")}
    assert tasks == {
        ("edit", "not told"): [18, 2, 20],
        ("understanding", "plane"): [18, 1, 19],
        ("t2i", "not told"): [17, 2, 19],
    }
    assert rows_of(card, "Pairs by source and license") == [["scans", "MIT", "39"], [text(WILD), "not told", "19"]]
    assert [row[:2] for row in rows_of(card, "Lengths of texts")] == [["questions", "39"], ["texts", "58"]]
    records = {row[0].strip("`"): int(row[1]) for row in rows_of(card, "Files and hashes") if row[1]}
    assert records == {name: len((folder / name).read_text().splitlines()) for name in records}
    assert sum(count for name, count in records.items() if "/" in name) == 58
    assert "**58 pairs** (53 train, 5 test) of 90 that were read from 2 sources" in card


def test_what_the_author_says_stands_first_and_notes_below_the_funnel(corpus):
    _, card = corpus
    assert card.startswith("# My scans\n")
    assert card.index("From *here*.") < card.index("## In numbers") < card.index("**58 pairs**")
    assert "Curated corpus" not in card
    assert "- It cost 3 dollars." in card.split("## Decisions")[0].split("## Funnel")[1]


def test_plots_and_sheets_are_there_and_linked(corpus):
    folder, card = corpus
    linked = re.findall(r'\]\((plots/\w+\.png)\)|src="(sheets/[^"]+)"', card)
    there = {path.relative_to(folder).as_posix() for path in folder.glob("*s/*.png")}
    assert {plot or sheet for plot, sheet in linked} == there
    assert {f"plots/{name}.png" for name in ("funnel", "scores", "modalities", "tasks", "texts")} <= there
    assert {"sheets/modality-MRI.png", "sheets/task-understanding-plane.png", "sheets/task-t2i.png"} <= there
    for name in there:
        Image.open(folder / name).verify()


def test_private_pairs_are_on_no_sheet(corpus):
    # 28 pairs of the modality are left, and its 4 private ones are among them.
    assert f"modality {text(WILD)}: 24 of 28 pairs; passed over: " in corpus[1]
    assert re.search(r"passed over: \d flagged for privacy</summary>", corpus[1])


def test_the_settings_on_the_card_are_those_that_made_it(corpus, tmp_path):
    folder, card = corpus
    block = re.search(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert block
    (tmp_path / "corpus.yaml").write_text(block[1].replace("FOLDER", str(folder)))
    again = override(CurateSettings(), [f"out={folder}", "workers=2"], tmp_path / "corpus.yaml")
    assert again == settings_of(folder)
    assert set(yaml.safe_load(block[1])) == {"sources", "seed", "coarse"}
    assert yaml.safe_load(block[1])["sources"][0]["settings"]["images_out"] == "FOLDER/images"
    assert "seed 3" in card


def test_two_runs_give_the_same_bytes(corpus, images):
    folder = corpus[0].with_name("again")  # beside the first, for records name images from where they lie
    made(folder, images, about="# My scans\n\nFrom *here*.", notes=("It cost\n3 dollars.",))
    names = [CARD, *(path.relative_to(folder).as_posix() for path in sorted(folder.glob("*s/*.png")))]
    assert len(names) > 10
    for name in names:
        assert (folder / name).read_bytes() == (corpus[0] / name).read_bytes(), name


@pytest.mark.parametrize(("order", "seed", "same"), [(-1, 0, True), (1, 1, False)])
def test_samples_depend_on_seed_and_ids_alone(images, order, seed, same):
    many = [replace(pair, id=pair_id("x", str(n))) for n, pair in enumerate([*pairs_in(images)] * 10)]
    first, second = count_pairs(many, 0), count_pairs(many[::order], seed)
    kind = ("modality", "CT")
    assert len(first.samples[kind]) < first.pictured[kind] == 300
    assert (first.samples[kind] == second.samples[kind]) is same
    assert first.sampled >= {pair.id for pair in first.samples[kind]}


def test_names_stay_in_their_cells_and_make_no_markup(corpus):
    markdown_it = pytest.importorskip("markdown_it", reason="comes with rich")
    page = markdown_it.MarkdownIt("commonmark").enable("table").render(corpus[1])
    cells = [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page)]
    assert cells.count(" ".join(WILD.split())) == 3  # decision, modality, source
    assert not re.search(r"<b>|href|http://y\"", page)
    assert len(re.findall(r'<img src="sheets/[^"]+" alt="[^"]+"></details>', page)) == page.count("<details>")
    assert {len(row) for row in rows_of(corpus[1], "Decisions")} == {4}


@given(st.text())
def test_any_text_is_one_cell(value):
    cell = text(value)
    assert not set("\n\r|<>`*[]\\~$") & set(cell)
    assert len(cell) <= 160 * 6  # a letter becomes six at most, as &#124; or &quot;


@pytest.mark.usefixtures("no_plots")
def test_long_lists_are_cut(images, tmp_path):
    many = [replace(pair, source=f"source {n:03d}") for n, pair in enumerate(pairs_in(images))]
    card = made(tmp_path / "out", images, many)
    assert len(rows_of(card, "Pairs by source and license")) == 30
    assert "\nand 28 more\n" in card.split("## Pairs by source and license")[1].split("## ")[0]


def test_without_matplotlib_there_is_a_card_that_says_so(images, tmp_path, monkeypatch):
    made(tmp_path / "out", images)
    assert (tmp_path / "out" / "plots" / "funnel.png").exists()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    card = made(tmp_path / "out", images)
    assert "need matplotlib: `pip install 'unimedvl[ui]'`" in card
    assert "plots/" not in card
    assert not list((tmp_path / "out" / "plots").iterdir())
    assert (tmp_path / "out" / "sheets" / "modality-MRI.png").exists()
    assert rows_of(card, "Funnel")[-1][1] == "58"


@pytest.mark.usefixtures("no_plots")
def test_images_that_cannot_be_read_are_counted(images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    found = [*pairs_in(images)]
    found[60:64] = [replace(pair, images=(str(broken),), target="") for pair in found[60:64]]
    found = [replace(pair, modality="US", images=(str(broken),)) if n > 80 else pair for n, pair in enumerate(found)]
    card = made(tmp_path / "out", images, found)
    assert "modality MRI: 17 of 21 pairs; passed over: 4 whose image cannot be read" in card
    assert "modality US: 0 of 9 pairs; passed over: 9 whose image cannot be read</summary></details>" in card


@pytest.mark.usefixtures("no_plots")
def test_a_stage_that_adds_pairs_is_told_so(images, tmp_path):
    stages = staged(tmp_path, images)
    more = [replace(pair, id=pair.id[::-1]) for pair in stages[0].pairs()]
    write_part(stages[-1].folder / "part-000002.parquet", more)
    write_corpus(tmp_path, stages, settings_of(tmp_path), "Words without a title.")
    card = (tmp_path / CARD).read_text()
    assert rows_of(card, "Funnel")[1:] == [
        ["01-coarse", "78", "12", "86.7%", "0"],
        ["02-selection", "148", "0", "164.4%", "70"],
    ]
    assert card.startswith("<!-- removed -->\n\n<!-- end of removed -->\n\nWords without a title.\n")


@pytest.mark.usefixtures("no_plots")
def test_a_corpus_of_texts_has_no_sheets(images, tmp_path):
    found = [replace(pair, images=(), target="", family="text") for pair in pairs_in(images)]
    card = made(tmp_path / "out", images, found)
    assert "<details>" not in card
    assert not list((tmp_path / "out").glob("sheets/*"))


def test_an_empty_corpus_has_a_card(images, tmp_path):
    card = made(tmp_path / "out", images, [])
    assert "**0 pairs**" in card
    assert [path.stem for path in (tmp_path / "out" / "plots").iterdir()] == ["funnel"]


@pytest.mark.usefixtures("no_plots")
def test_sheets_of_an_earlier_run_go(images, tmp_path):
    sheets = tmp_path / "out" / "sheets"
    sheets.mkdir(parents=True)
    for name in ("modality-OCT.png", "mine.png"):
        (sheets / name).write_bytes(b"")
    made(tmp_path / "out", images)
    names = {path.name for path in sheets.iterdir()}
    assert "modality-OCT.png" not in names
    assert "mine.png" in names


@pytest.mark.usefixtures("no_plots")
def test_pairs_that_are_taken_out_later_are_told(images, tmp_path):
    folder = tmp_path / "out"
    before = made(folder, images, about="# Mine")
    left = [*pairs_in(images)][COARSE + SELECTED :]
    assert remove(folder, [Decision(pair.id, "audit", "drop", "wrong") for pair in left[:3]]).removed == 3
    assert remove(folder, [Decision(left[4].id, "privacy|2", "drop", "a name")]).removed == 1
    assert remove(folder, [Decision(left[4].id, "privacy|2", "drop", "a name")]).removed == 0
    card = (folder / CARD).read_text()
    told = f"> **4 records were taken out by people**, by decisions of: audit (3), {text('privacy|2')} (1); see "
    assert card.startswith(
        f"# Mine\n\n<!-- removed -->\n{told}`removed.jsonl`. Counts, plots and sheets are from before"
    )
    assert card.count("taken out by people") == 1
    now = {row[0].strip("`"): row[1] for row in rows_of(card, "Files and hashes")}
    for name, count in now.items():
        if count:
            assert int(count) == len((folder / name).read_text().splitlines())
    assert sum(int(count) for name, count in now.items() if "/" in name) == 54
    assert rows_of(card, "Funnel") == rows_of(before, "Funnel")

    again = made(folder, images, about="# Mine")
    assert again.startswith(f"# Mine\n\n<!-- removed -->\n{told}`removed.jsonl`.\n<!-- end of removed -->")
    assert "**54 pairs** (49 train, 5 test) of 90" in again
    assert rows_of(again, "Funnel") == [*rows_of(before, "Funnel"), ["removed by people", "54", "4", "60.0%"]]
    assert ["audit", "drop", "wrong", "3"] in rows_of(again, "Decisions")
    assert rows_of(again, "Files and hashes") == rows_of(card, "Files and hashes")


@pytest.mark.parametrize("left", [None, "Words of somebody, without any mark.\n"])
@pytest.mark.usefixtures("no_plots")
def test_a_card_that_was_changed_or_deleted_is_no_obstacle(images, tmp_path, left):
    folder = tmp_path / "out"
    made(folder, images)
    (folder / CARD).unlink() if left is None else (folder / CARD).write_text(left)
    gone = [*pairs_in(images)][-1]
    assert remove(folder, [Decision(gone.id, "audit", "drop", "wrong")]).removed == 1
    assert (folder / CARD).exists() == (left is not None)
    if left is not None:
        card = (folder / CARD).read_text()
        assert "> **1 record was taken out" in card.split(left)[0]


@pytest.mark.usefixtures("no_plots")
def test_a_source_of_which_nothing_is_left_was_read_too(images, tmp_path):
    found = [replace(pair, source="tiny" if n < COARSE else pair.source) for n, pair in enumerate(pairs_in(images))]
    card = made(tmp_path / "out", images, found)
    assert "tiny" not in str(rows_of(card, "Pairs by source and license"))
    assert "of 90 that were read from 3 sources" in card


@pytest.mark.parametrize(
    ("count", "of", "told"),
    [
        (90, 90, "100.0%"), (0, 90, "0.0%"), (0, 0, "0.0%"), (78, 90, "86.7%"), (10_520, 10_522, "99.98%"),
        (1, 10_000_000, "0.00001%"), (10_522, 10_520, "100.02%"), (3, 2, "150.0%"),
    ],
)  # fmt: skip
def test_all_and_nothing_are_said_of_nothing_else(count, of, told):
    assert share(count, of) == told


def test_a_damaged_part_is_named(images, tmp_path):
    stages = staged(tmp_path, images)
    part = stages[0].parts[1]
    Path(part).write_bytes(b"no table")
    with pytest.raises(DataError, match=rf"no part of pairs: .*{part.name}.*remove it"):
        write_corpus(tmp_path, stages, settings_of(tmp_path))


@given(st.lists(st.integers(1, 500), min_size=1))
def test_counted_lengths_sum_up_as_single_ones(values):
    told, wanted = summary_of(Counter(values)), summary(values)
    for key in ("n", "min", "max"):
        assert told[key] == wanted[key]
    assert told["mean"] == pytest.approx(wanted["mean"])
    # A quantile of counted numbers is one of them; that of the others may lie between two neighbors.
    ordered = sorted(values)
    for key, part in (("median", 0.5), ("p95", 0.95)):
        place = ordered.index(int(told[key]))
        assert place < part * len(values) <= place + values.count(int(told[key])) + 1e-9
