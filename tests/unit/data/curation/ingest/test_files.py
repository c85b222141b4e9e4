"""The order of files, names of splits, and images that are written once."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unimedvl.data.curation.ingest.files import files_under, save_once, split_named
from unimedvl.errors import DataError


def test_files_come_sorted_and_without_hidden_ones(tmp_path):
    for name in ("b/2.png", "b/1.PNG", "a/z.png", "c.png", ".hidden.png", ".git/x.png", "a/note.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = [path.relative_to(tmp_path).as_posix() for path in files_under(tmp_path, (".png",))]
    assert found == ["c.png", "a/z.png", "b/1.PNG", "b/2.png"]


def test_links_to_folders_are_followed_and_each_folder_comes_once(tmp_path):
    root, away = tmp_path / "root", tmp_path / "away"
    for path in (root / "b" / "1.png", away / "deep" / "2.png", root / "z" / "3.png"):
        path.parent.mkdir(parents=True)
        path.touch()
    (root / "linked").symlink_to(away, target_is_directory=True)
    (root / "b" / "loop").symlink_to(root, target_is_directory=True)
    (away / "deep" / "self").symlink_to(away / "deep", target_is_directory=True)
    (root / "again").symlink_to(root / "z", target_is_directory=True)
    (root / "linked.png").symlink_to(away / "deep" / "2.png")
    found = [path.relative_to(root).as_posix() for path in files_under(root)]
    assert found == ["linked.png", "again/3.png", "b/1.png", "linked/deep/2.png"]


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").touch()
    scan = os.scandir

    def closed(folder):
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match="cannot be read: Permission denied .*closed"):
        list(files_under(tmp_path))


@pytest.mark.parametrize(
    ("said", "split"), [("Train", "train"), (" VAL ", "validation"), ("testing", "test"), ("", ""), ("holdout", None)]
)
def test_names_of_splits(said, split):
    assert split_named(said) == split


def test_an_identical_file_is_kept_and_another_replaced(tmp_path):
    image, path = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)), tmp_path / "deep" / "x.png"
    save_once(image, path)
    os.utime(path, (1, 1))
    save_once(image, path)
    assert path.stat().st_mtime == 1
    path.write_bytes(path.read_bytes()[:-7])
    save_once(image, path)
    assert (np.asarray(Image.open(path)) == np.asarray(image)).all()
    assert [file.name for file in path.parent.iterdir()] == ["x.png"]


def test_a_written_image_holds_no_words(tmp_path):
    """Pillow itself would carry a color profile along, in which any words can stand."""
    image = Image.new("RGB", (4, 4))
    image.info["icc_profile"] = b"DOE^JANE"
    image.save(tmp_path / "in.png")
    save_once(image, tmp_path / "out.png")
    assert "icc_profile" in Image.open(tmp_path / "in.png").info
    assert Image.open(tmp_path / "out.png").info == {}
