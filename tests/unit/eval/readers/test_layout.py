from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedvl.errors import DataError
from unimedvl.eval.readers import READERS
from unimedvl.eval.readers.layout import collected, known_split, located, of_split, one_located, shards
from unimedvl.eval.readers.tables import Entry
from unimedvl.eval.rows import Row


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_every_reader_tells_what_is_not_there(tmp_path):
    assert set(READERS) == {
        "vqa_rad", "slake", "path_vqa", "omni_med_vqa", "gmai_mmbench", "vlmevalkit", "records", "reports"}  # fmt: skip
    for read in READERS.values():
        with pytest.raises(DataError, match="no such file or folder.*absent"):
            read(tmp_path / "absent", "test")
        with pytest.raises(DataError, match="the folder holds no"):
            read(tmp_path, "test")


def test_the_first_pattern_wins_here_or_one_folder_down(tmp_path):
    touch(tmp_path, "a.json", "sub/b.json", "sub/._c.json", "sub/c.json")
    assert located(tmp_path, ["b.json", "a.json"]) == [tmp_path / "sub/b.json"]
    assert located(tmp_path, ["x.json", "a.json"]) == [tmp_path / "a.json"]
    assert located(tmp_path / "sub", ["*.json"]) == [tmp_path / "sub/b.json", tmp_path / "sub/c.json"]
    assert located(tmp_path / "a.json", ["b.json"]) == [tmp_path / "a.json"]
    with pytest.raises(DataError, match=r"several files could be meant: b\.json, c\.json"):
        one_located(tmp_path / "sub", ["*.json"])


def test_shards_that_are_absent(tmp_path):
    patterns = shards(["test"])
    touch(tmp_path, "data/test-00000-of-00003-0a1b.parquet", "data/test-00002-of-00003-2c3d.parquet")
    touch(tmp_path, "data/train-00000-of-00001-4e5f.parquet")
    with pytest.raises(DataError, match="file 00001 of 00003 is absent"):
        located(tmp_path, patterns)
    touch(tmp_path, "data/test-00001-of-00003-aaaa.parquet")
    assert [file.name[:10] for file in located(tmp_path, patterns)] == ["test-00000", "test-00001", "test-00002"]


def test_splits():
    assert known_split("Val", "train", "validation")[:2] == ("val", "validation")
    assert known_split("test", "train", "test") == ("test",)
    with pytest.raises(DataError, match="no split is called 'dev'.*use one of train, test"):
        known_split("dev", "train", "test")


def entries(*splits):
    return [Entry({} if split is None else {"split": split}, "", at) for at, split in enumerate(splits)]


def test_rows_of_a_split(tmp_path):
    assert [entry.number for entry in of_split(entries("test", "valid", "Test"), "test", tmp_path)] == [0, 2]
    assert [entry.number for entry in of_split(entries("test", "valid"), "val", tmp_path)] == [1]
    assert len(list(of_split(entries(None, None), "test", tmp_path))) == 2
    with pytest.raises(DataError, match="no row is of the split 'dev'.*use one of test, valid"):
        list(of_split(entries("test", "valid"), "dev", tmp_path))


@given(st.lists(st.sampled_from(["a", "b", "a-2", "b-2", "a-3"]), min_size=1))
def test_names_are_unlike_and_stable(names):
    rows = [Row(name, "vqa") for name in names]
    found = [row.name for row in collected(rows, Path())]
    assert len(set(found)) == len(found)
    assert found == [row.name for row in collected(rows, Path())]
    assert found[0] == names[0]
    assert len(set(names)) < len(names) or found == names


def test_no_row(tmp_path):
    with pytest.raises(DataError, match="no row to ask"):
        collected([], tmp_path)
