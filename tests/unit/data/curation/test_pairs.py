"""Pairs survive their files."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimedvl.data.curation.pairs import Pair, in_parts, pair_id, read_part, write_part
from unimedvl.errors import DataError

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
PAIRS = st.builds(
    Pair,
    id=TEXTS,
    source=TEXTS,
    family=st.sampled_from(["understanding", "t2i"]),
    text=TEXTS,
    images=st.lists(TEXTS, max_size=3).map(tuple),
    steps=st.lists(TEXTS, max_size=2).map(tuple),
    more=st.dictionaries(TEXTS, st.integers() | st.booleans() | TEXTS | st.none(), max_size=3),
)


@settings(deadline=None)  # the first import of pyarrow
@given(st.lists(PAIRS, max_size=5))
def test_what_was_written_is_read(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("parts") / "part.parquet"
    assert write_part(path, pairs) == len(pairs)
    assert list(read_part(path)) == pairs


@given(st.lists(st.integers(), max_size=20), st.integers(1, 7))
def test_parts_hold_everything_in_order(values, size):
    parts = list(in_parts(values, size))
    assert [value for part in parts for value in part] == values
    assert all(len(part) == size for part in parts[:-1])


def test_ids_tell_sources_and_places_apart():
    ids = {pair_id("a", "b", "c"), pair_id("a", "bc"), pair_id("ab", "c"), pair_id("a", "b", "c", "")}
    assert len(ids) == 4
    assert pair_id("a", "b") == pair_id("a", "b")
    assert all(len(each) == 16 for each in ids)


def test_a_damaged_part_is_told(tmp_path):
    path = tmp_path / "part.parquet"
    with pytest.raises(DataError, match="no part of pairs"):
        list(read_part(path))
    write_part(path, [Pair("a", "b", "t2i")])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match="no part of pairs.*remove it"):
        list(read_part(path))


@pytest.mark.parametrize(
    ("pair", "picture"),
    [
        (Pair("1", "s", "t2i", target="t.png"), "t.png"),
        (Pair("1", "s", "edit", images=("a.png",), target="t.png"), "a.png"),
        (Pair("1", "s", "understanding", images=("a.png", "b.png")), "a.png"),
        (Pair("1", "s", "text"), ""),
    ],
)
def test_the_picture_that_the_text_is_about(pair, picture):
    assert pair.picture == picture
