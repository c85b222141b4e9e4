"""Slices of volumes against nibabel's own reorientation, their scaling, and what is refused."""

from __future__ import annotations

import gzip
import sys
import tracemalloc
from itertools import pairwise
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from unimedvl.data.curation.ingest import READERS, ReaderSettings, Skipped, volumes
from unimedvl.data.curation.ingest.volumes import cut, opened, render, render_labels, slice_numbers
from unimedvl.data.curation.pairs import pair_id
from unimedvl.errors import ConfigError, DataError
from unimedvl.imaging import ReadOptions, read_image

read = READERS["nifti"]
GENERATOR = np.random.default_rng(0)


def shown(*arguments, **options):
    found = cut(*arguments, **options)
    assert found is not None
    return found


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL", "IRP"])
def test_planes_are_those_of_the_canonical_volume(codes, suffix, tmp_path, volume):
    values = GENERATOR.normal(size=(4, 5, 6)).astype(np.float32)
    affine = np.diag([1, 2, 3, 1.0])
    turn: Any = nibabel.orientations.ornt_transform(*map(nibabel.orientations.axcodes2ornt, ("RAS", codes)))
    stored = nibabel.Nifti1Image(values, affine).as_reoriented(turn)
    path = volume(tmp_path / f"x{suffix}", np.asarray(stored.dataobj), stored.affine)
    with opened(path) as found:
        assert found.shape == (4, 5, 6)
        assert found.spacing == pytest.approx((1, 2, 3))
        for axis in range(3):
            for index in range(values.shape[axis]):
                assert (found.plane(axis, index) == values.take(index, axis)).all()


def test_a_slice_is_what_the_image_reader_shows(tmp_path, volume):
    path = volume(tmp_path / "x.nii.gz", GENERATOR.normal(size=(7, 8, 9)), np.diag([-1.0, 1, 1, 1]))
    with opened(path) as found:
        for axis in range(3):
            mine = shown(found, axis, 3, render(found, ReaderSettings(), (0.5, 2.0)))
            theirs = read_image(path, ReadOptions(window=(0.5, 2.0), slice=(axis, 3)))
            assert (np.asarray(mine.image) == np.asarray(theirs.image)).all()
            assert mine.steps == theirs.steps


def test_stored_numbers_are_scaled_as_the_header_says(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2.0, -1000.0)
    nibabel.save(image, tmp_path / "x.nii")
    stored: Any = nibabel.load(tmp_path / "x.nii")
    with opened(tmp_path / "x.nii") as found:
        assert (found.plane(2, 1) == np.asarray(stored.dataobj)[:, :, 1]).all()


def test_the_first_of_several_volumes(tmp_path, volume):
    values = GENERATOR.normal(size=(3, 3, 3, 2))
    with opened(volume(tmp_path / "x.nii", values)) as found:
        assert found.steps == ("volume 0 of 2",)
        assert (found.plane(0, 1) == values[1, :, :, 0]).all()


def test_percentiles_hold_for_the_whole_volume(tmp_path, volume):
    values = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    values[0, 0, 0] = np.nan
    path = volume(tmp_path / "x.nii", values)
    with opened(path) as found:
        low, high = found.percentiles(10, 90)
    # A volume of at most 64 slices is taken whole.
    assert (low, high) == pytest.approx(tuple(np.nanpercentile(values, [10, 90])))
    pairs = list(read(path, ReaderSettings(images_out=tmp_path / "out", axes=(0,), percentiles=(0.0, 100.0))))
    grays = [np.asarray(Image.open(pair.images[0]))[..., 0] for pair in pairs]
    assert all(first.mean() < second.mean() for first, second in pairwise(grays))
    assert pairs[1].steps[:2] == ("sagittal slice 1 of 10", "percentiles 0 and 100 of the volume")


def test_a_window_is_recorded(tmp_path, volume):
    path = volume(tmp_path / "x.nii", np.full((2, 2, 2), 40.0))
    first, second = read(path, ReaderSettings(images_out=tmp_path / "out", window=(40, 400), modality="CT"))
    assert first.steps == ("axial slice 0 of 2", "window center 40, width 400")
    assert np.asarray(Image.open(second.images[0])).ravel().tolist() == [128] * 12
    assert (first.modality, first.more["slice"], first.more["subject"]) == ("CT", "axial-0000", pair_id("x", "x.nii"))


@given(st.integers(1, 300), st.integers(0, 40))
@settings(max_examples=100)
def test_slices_are_spread_over_the_volume(count, step):
    numbers = slice_numbers(count, 1.0, ReaderSettings(step=step))
    assert len(numbers) == -(-count // max(1, step))
    # What is left over lies at both ends alike.
    assert 0 <= (count - 1 - numbers[-1]) - numbers[0] <= 1


def test_spacing_in_millimeters():
    assert slice_numbers(100, 0.5, ReaderSettings(spacing=5.0)).step == 10
    assert slice_numbers(100, 9.0, ReaderSettings(spacing=5.0)).step == 1


def test_pixels_become_square(tmp_path, volume):
    path = volume(tmp_path / "x.nii", GENERATOR.normal(size=(8, 6, 4)), np.diag([1.0, 1.0, 3.0, 1.0]))
    with opened(path) as found:
        axial, coronal = (shown(found, axis, 2, render(found, ReaderSettings(), (0, 1))) for axis in (2, 1))
    assert axial.image.size == (8, 6)
    assert coronal.image.size == (8, 12)
    assert coronal.steps[-1] == "8 x 4 to 8 x 12 for square pixels of 1 mm"


def test_labels_are_never_mixed(tmp_path, volume):
    path = volume(tmp_path / "x.nii", GENERATOR.integers(0, 4, (8, 6, 4)).astype(np.uint8), np.diag([1.0, 1, 2.5, 1]))
    with opened(path) as found:
        seen = shown(found, 1, 2, render_labels(found, 3), labels=True)
        assert set(np.unique(np.asarray(seen.image))) <= {0, 85, 170, 255}
        for region in ((), (1,)):
            with pytest.raises(DataError, match="class numbers"):
                shown(found, 1, 2, render_labels(found, 2, region), labels=True)


def test_a_region_is_white_and_all_else_black(tmp_path, volume):
    labels = GENERATOR.integers(0, 4, (8, 6, 4)).astype(np.uint8)
    path = volume(tmp_path / "x.nii", labels)
    with opened(path) as found:
        seen = shown(found, 2, 1, render_labels(found, 3, (1, 3)), labels=True)
    # A picture's rows run down, from back to front of the canonical axes.
    expected = np.rot90(np.isin(labels[:, :, 1], (1, 3))) * 255
    assert (np.asarray(seen.image)[..., 0] == expected).all()
    assert seen.steps[-1] == "labels 1, 3 of 0 to 3 as white"


def test_empty_slices_are_left_out_and_counted(tmp_path, volume):
    values = np.zeros((4, 4, 3))
    values[:, :, 1] = 100
    values[0, 0, 2] = 100
    path, skipped = volume(tmp_path / "x.nii", values), Skipped()
    given = ReaderSettings(images_out=tmp_path / "out", least_filled=0.5, percentiles=(0, 100))
    assert [pair.more["slice"] for pair in read(path, given, skipped)] == ["axial-0001"]
    assert skipped.counts == {"a slice with too little in it": 2}
    assert len(list((tmp_path / "out").rglob("*.png"))) == 1


def test_a_slice_without_values_is_left_out(tmp_path, volume):
    values = np.arange(27.0).reshape(3, 3, 3)
    values[:, :, 1] = np.nan
    path, skipped = volume(tmp_path / "x.nii", values), Skipped()
    found = list(read(path, ReaderSettings(images_out=tmp_path / "out"), skipped))
    assert [pair.more["slice"] for pair in found] == ["axial-0000", "axial-0002"]
    assert skipped.counts == {"a slice with too little in it": 1}


def test_a_tree_is_read_again_without_writing(tmp_path, volume):
    for name in ("b/2.nii.gz", "a/1.nii"):
        volume(tmp_path / "in" / name, GENERATOR.normal(size=(4, 4, 4)))
    given = ReaderSettings(images_out=tmp_path / "out", source="s")
    first = list(read(tmp_path / "in", given))
    files = sorted((tmp_path / "out").rglob("*.png"))
    times = [file.stat().st_mtime_ns for file in files]
    files[0].unlink()
    assert list(read(tmp_path / "in", given)) == first
    assert [file.stat().st_mtime_ns for file in files][1:] == times[1:]
    assert [pair.more["subject"] for pair in first] == [pair_id("s", "a/1.nii")] * 4 + [pair_id("s", "b/2.nii.gz")] * 4
    assert len({pair.id for pair in first}) == len(files) == 8
    assert not any("DOE" in repr(pair) for pair in first)
    assert not any(b"DOE" in file.read_bytes() for file in files)


def test_what_is_told_of_things_left_out_names_no_file(tmp_path, volume):
    """Files may be named after patients."""
    root = tmp_path / "in"
    empty = np.zeros((4, 4, 3))
    empty[0, 0, 1] = 1
    volume(root / "DOE_JANE" / "DOE_1.nii.gz", empty)
    volume(root / "DOE_JANE" / "DOE_2.nii.gz", np.ones((4, 4, 4)))
    volume(root / "DOE_JANE" / "DOE_3.nii.gz", np.ones((4, 4)))
    (root / "DOE_JANE" / "DOE_4.nii.gz").write_bytes(b"damaged")
    skipped = Skipped()
    given = ReaderSettings(images_out=tmp_path / "out", on_missing="skip", least_filled=0.5, source="s")
    assert list(read(root, given, skipped)) == []
    assert list(read(root / "DOE_JANE" / "DOE_2.nii.gz", given, skipped)) == []
    assert sum(skipped.counts.values()) == 7
    assert skipped.first["a slice with too little in it"] == [
        f"file 1 in the order of names, volume, axial-{number:04d}" for number in range(3)
    ]
    assert skipped.first["a volume of one value"] == ["file 2 in the order of names", "file 1 in the order of names"]
    assert "DOE" not in repr(skipped)


def test_a_volume_is_not_held_whole(tmp_path, volume):
    """32 MiB of voxels, slices of 512 KiB as float64."""
    path = volume(tmp_path / "x.nii", np.zeros((256, 256, 256), dtype=np.int16))
    with opened(path) as found:
        tracemalloc.start()
        for index in range(0, 256, 16):
            for axis in range(3):
                found.plane(axis, index)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    # A few copies of one slice while it is scaled.
    assert peak < 4 * 2**20


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
@pytest.mark.parametrize("content", [b"", b"no volume at all", b"\x1f\x8b\x08\x00damaged"])
def test_damaged_volumes_stop_or_count(name, content, tmp_path, volume):
    (tmp_path / name).write_bytes(content)
    volume(tmp_path / "y.nii", np.arange(8.0).reshape(2, 2, 2))
    given = ReaderSettings(images_out=tmp_path / "out")
    with pytest.raises(DataError, match=f"cannot be read.*{name}") as caught:
        list(read(tmp_path, given))
    assert "\n" not in str(caught.value)
    skipped = Skipped()
    found = list(read(tmp_path, ReaderSettings(images_out=tmp_path / "out", on_missing="skip"), skipped))
    assert len(found) == 2
    assert skipped.counts == {"the volume cannot be read": 1}


def test_a_volume_that_was_cut_short(tmp_path, volume):
    path = volume(tmp_path / "x.nii", GENERATOR.normal(size=(8, 8, 8)))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="cannot be read"):
        list(read(path, ReaderSettings(images_out=tmp_path / "out")))


def test_volumes_that_cannot_be(tmp_path, volume, monkeypatch):
    given = ReaderSettings(images_out=tmp_path / "out")
    flat = volume(tmp_path / "flat.nii", np.zeros((4, 4)))
    with pytest.raises(DataError, match="2 axes"):
        list(read(flat, given))
    constant = volume(tmp_path / "constant.nii", np.ones((4, 4, 4)))
    with pytest.raises(DataError, match="one value"):
        list(read(constant, given))
    monkeypatch.setattr(volumes, "_MOST_BYTES", 1 << 19)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(bytes(1 << 21)))
    with pytest.raises(DataError, match="bytes unpacked"):
        list(read(tmp_path / "bomb.nii.gz", given))


def test_without_nibabel_nothing_is_skipped_in_silence(tmp_path, volume, monkeypatch):
    path = volume(tmp_path / "x.nii", np.zeros((2, 2, 2)))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ConfigError, match=r"nibabel.*unimedvl\[io\]"):
        list(read(path, ReaderSettings(images_out=tmp_path / "out", on_missing="skip")))
