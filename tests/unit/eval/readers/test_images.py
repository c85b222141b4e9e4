from __future__ import annotations

import base64

import pytest

from unimedvl.data.records import ImageRef
from unimedvl.errors import DataError
from unimedvl.eval.readers.images import image_file, image_refs
from unimedvl.eval.readers.tables import Entry

HERE = Entry({}, "here, row 7", 6)


def test_files_in_the_first_folder_that_has_them(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").touch()
    assert image_file("a.png", tmp_path, HERE, ("", "images")) == ImageRef("images/a.png")
    assert image_file(str(tmp_path / "images/a.png"), tmp_path, HERE).location(tmp_path).is_file()


@pytest.mark.parametrize("name", ["b.png", "images", "", "a\0b.png", "x" * 5000])
def test_files_that_are_absent(tmp_path, name):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"no image file .*\(here, row 7\); put it there") as caught:
        image_file(name, tmp_path, HERE)
    assert len(str(caught.value)) < 500


def test_an_archive_that_was_not_unpacked(tmp_path):
    (tmp_path / "imgs.zip").touch()
    with pytest.raises(DataError, match=r"unpack .*imgs\.zip where it lies"):
        image_file("x1/source.jpg", tmp_path / "imgs", HERE)


def test_equal_bytes_are_held_once(tmp_path):
    kept = {}
    encoded = base64.b64encode(b"picture" * 20).decode()
    first = image_refs({"bytes": b"picture" * 20, "path": "a.png"}, tmp_path, HERE, kept)
    second = image_refs([{"base64": encoded}, b"another"], tmp_path, HERE, kept)
    assert first[0].data is second[0].data
    assert [ref.data for ref in second] == [b"picture" * 20, b"another"]
    assert len(kept) == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "has neither path, bytes nor base64"),
        ("", "has neither path"),
        ([], "a question without an image"),
        ({"bytes": None, "path": None}, "has neither path"),
        ({"base64": "abc%"}, "is not base64"),
        ({"base64": "abcde"}, "is not base64"),
        (["absent.png"], "no image file"),
        (3, "has neither path"),
    ],
)
def test_values_that_are_no_image(tmp_path, value, message):
    with pytest.raises(DataError, match=rf"{message}.*\(here, row 7\)"):
        image_refs(value, tmp_path, HERE, {})
