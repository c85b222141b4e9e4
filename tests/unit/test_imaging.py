"""Images as people have them, read without silent clipping."""

from __future__ import annotations

import io

import nibabel
import numpy as np
import pytest
from PIL import Image

from unimedvl.errors import DataError
from unimedvl.imaging import ReadOptions, find_images, read_image, to_rgb


def gray_of(read):
    values = np.asarray(read.image)
    assert values.ndim == 3
    assert (values == values[..., :1]).all()
    return values[..., 0]


def png(array, tmp_path, mode=None):
    path = tmp_path / "image.png"
    (Image.fromarray(array) if mode is None else Image.fromarray(array, mode)).save(path)
    return path


def dicom(tmp_path, pixels, **tags):
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(tmp_path / "x.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
    frames = pixels.shape[0] if pixels.ndim == 3 else 1
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(pixels.dtype == np.int16)
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    path = tmp_path / "x.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 1000], [2000, 4000]], dtype=np.uint16)
    read = read_image(png(values, tmp_path))
    assert gray_of(read).tolist() == [[0, 64], [128, 255]]
    assert read.steps == ("range 0 to 4000 scaled to 8 bits",)
    windowed = read_image(png(values, tmp_path), ReadOptions(window=(1000, 2000)))
    assert gray_of(windowed).tolist() == [[0, 128], [255, 255]]
    assert windowed.steps == ("window center 1000, width 2000",)


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((1, 2, 4), dtype=np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    read = read_image(png(rgba, tmp_path))
    assert np.asarray(read.image).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert read.steps == ("RGBA to RGB, transparency on white",)
    assert to_rgb(Image.new("LA", (1, 1), (7, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_palette_and_gray(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png")
    assert np.asarray(read_image(tmp_path / "p.png").image).tolist() == [[[255, 0, 0], [0, 255, 0]]]
    assert gray_of(read_image(png(np.array([[3, 200]], dtype=np.uint8), tmp_path))).tolist() == [[3, 200]]


def test_exif_orientation(tmp_path):
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 6))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    read = read_image(tmp_path / "turned.jpg")
    assert read.image.size == (2, 6)
    assert "EXIF" in read.steps[0]


def test_pillow_images_and_bytes(tmp_path):
    image = Image.new("RGB", (4, 3), (1, 2, 3))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    for source in (image, buffer.getvalue()):
        assert read_image(source).image.getpixel((0, 0)) == (1, 2, 3)


def test_dicom_modality_lut_and_window_of_the_file(tmp_path):
    """Stored 1024 is 0 HU; the file's window of 0 to 100 HU spans the grays."""
    pixels = np.array([[974, 1024], [1074, 1200]], dtype=np.int16)
    path = dicom(tmp_path, pixels, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=50, WindowWidth=100)
    read = read_image(path)
    assert "modality LUT" in read.steps
    assert read.steps[-1] == "window of the file, center 50, width 100, linear"
    # The standard: ((0 - 49.5) / 99 + 0.5) * 255 = 0 at 0 HU, and 129 at 50 HU.
    assert gray_of(read).tolist() == [[0, 0], [129, 255]]
    own = read_image(path, ReadOptions(window=(0, 400)))
    assert gray_of(own).tolist() == [[96, 128], [159, 240]]
    assert own.steps == ("DICOM frame 0 of 1", "modality LUT", "window center 0, width 400")


def test_dicom_windows_are_absolute(tmp_path):
    """Values that do not fill the window are not stretched to it."""
    pixels = np.array([[40, 60]], dtype=np.uint16)
    linear = read_image(dicom(tmp_path, pixels, WindowCenter=[50, 9], WindowWidth=[101, 9]))
    assert gray_of(linear).tolist() == [[103, 154]]
    exact = dicom(tmp_path, pixels, WindowCenter=50, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
    assert gray_of(read_image(exact)).tolist() == [[102, 153]]
    sigmoid = dicom(tmp_path, pixels, WindowCenter=50, WindowWidth=100, VOILUTFunction="SIGMOID")
    expected = [round(255 / (1 + np.exp(-4 * (x - 50) / 100))) for x in (40, 60)]
    assert gray_of(read_image(sigmoid)).tolist() == [expected]


def test_dicom_lut_of_the_file(tmp_path):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [3, 10, 8])
    lut.add_new("LUTData", "US", [0, 200, 100])
    read = read_image(dicom(tmp_path, np.array([[10, 11, 12, 99]], dtype=np.uint16), VOILUTSequence=Sequence([lut])))
    assert gray_of(read).tolist() == [[0, 200, 100, 100]]
    assert read.steps[-1] == "VOI LUT of the file"
    # It looks up what the modality LUT gives, not what is stored.
    stored = np.array([[1034, 1035]], dtype=np.uint16)
    path = dicom(tmp_path, stored, VOILUTSequence=Sequence([lut]), RescaleSlope=1, RescaleIntercept=-1024)
    assert gray_of(read_image(path)).tolist() == [[0, 200]]


def test_dicom_padding_is_no_measurement(tmp_path):
    pixels = np.array([[-2000, 0], [50, 100]], dtype=np.int16)
    read = read_image(dicom(tmp_path, pixels, PixelPaddingValue=-2000))
    assert gray_of(read).tolist() == [[0, 0], [128, 255]]


def test_enhanced_dicom_frames_have_their_own_window(tmp_path):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    def group(center):
        window = Dataset()
        window.WindowCenter, window.WindowWidth, window.VOILUTFunction = center, 100, "LINEAR_EXACT"
        item = Dataset()
        item.FrameVOILUTSequence = Sequence([window])
        return item

    groups = Sequence([group(50), group(100)])
    path = dicom(tmp_path, np.full((2, 2, 2), 50, dtype=np.uint16), PerFrameFunctionalGroupsSequence=groups)
    assert gray_of(read_image(path))[0, 0] == 128
    assert gray_of(read_image(path, ReadOptions(frame=1)))[0, 0] == 0


def test_dicom_palette():
    from pydicom.data import get_testdata_file

    read = read_image(get_testdata_file("examples_palette.dcm", download=False))
    assert "palette to RGB" in read.steps
    values = np.asarray(read.image).astype(int)
    assert np.abs(values[..., 0] - values[..., 2]).max() > 50, "it has colors"


def test_undefined_values(tmp_path):
    volume = np.full((4, 4, 3), 5.0, dtype=np.float32)
    volume[0, 0, 1], volume[1, 1, 1] = np.nan, 9.0
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii")
    read = read_image(tmp_path / "v.nii")
    assert sorted(set(gray_of(read).ravel().tolist())) == [0, 255]
    assert "1 undefined values set to the lowest" in read.steps
    nibabel.save(nibabel.Nifti2Image(volume, np.eye(4)), tmp_path / "v2.nii")
    assert np.array_equal(gray_of(read_image(tmp_path / "v2.nii")), gray_of(read))
    nibabel.save(nibabel.Nifti1Image(volume * np.nan, np.eye(4)), tmp_path / "v.nii")
    with pytest.raises(DataError, match="no pixel has a value"):
        read_image(tmp_path / "v.nii")


def test_dicom_monochrome1_is_inverted(tmp_path):
    read = read_image(dicom(tmp_path, np.array([[0, 100]], dtype=np.uint16), PhotometricInterpretation="MONOCHROME1"))
    assert gray_of(read).tolist() == [[255, 0]]
    assert read.steps[-1] == "MONOCHROME1 inverted"


def test_dicom_frames(tmp_path):
    path = dicom(tmp_path, np.stack([np.full((2, 2), n * 10 + np.arange(2), np.uint16) for n in range(3)]))
    assert read_image(path, ReadOptions(frame=2)).steps[0] == "DICOM frame 2 of 3"
    with pytest.raises(DataError, match="frame 3 of 3.*0 to 2"):
        read_image(path, ReadOptions(frame=3))


def test_nifti_slices(tmp_path):
    """Canonical axes: the first runs to the right, and a picture's first row is the front."""
    volume = np.zeros((3, 4, 5), dtype=np.int16)
    volume[2, 3, 2] = 100  # right, front
    for name in ("v.nii", "v.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / name)
        read = read_image(tmp_path / name)
        gray = gray_of(read)
        assert gray.shape == (4, 3)
        assert gray[0, 2] == 255
        assert gray.sum() == 255
        assert read.steps[0] == "axial slice 2 of 5"
    sagittal = read_image(tmp_path / "v.nii", ReadOptions(slice=(0, 2)))
    assert sagittal.steps[0] == "sagittal slice 2 of 3"
    assert gray_of(sagittal).shape == (5, 4)
    # A file stored from right to left shows the same picture.
    nibabel.save(nibabel.Nifti1Image(volume[::-1].copy(), np.diag([-1, 1, 1, 1])), tmp_path / "flipped.nii")
    assert np.array_equal(gray_of(read_image(tmp_path / "flipped.nii")), gray)
    with pytest.raises(DataError, match="slice 2,9 of a volume of 3 x 4 x 5.*index within"):
        read_image(tmp_path / "v.nii", ReadOptions(slice=(2, 9)))


def test_bad_files(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("not pixels")
    with pytest.raises(DataError, match=r"not an image \(.*text.png\)"):
        read_image(tmp_path / "text.png")
    path = png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="the image is damaged.*truncated"):
        read_image(path)
    dcm = dicom(tmp_path, np.zeros((8, 8), dtype=np.uint16))
    dcm.write_bytes(dcm.read_bytes()[:-60])
    with pytest.raises(DataError, match="the DICOM file is damaged"):
        read_image(dcm)
    (tmp_path / "x.dcm").write_bytes(b"nothing")
    with pytest.raises(DataError, match="the DICOM file is damaged"):
        read_image(tmp_path / "x.dcm")
    for name, junk in (("x.nii.gz", b"\x1f\x8bnothing"), ("x.nii", b"junk" * 200)):
        (tmp_path / name).write_bytes(junk)
        with pytest.raises(DataError, match="the NIfTI file is damaged"):
            read_image(tmp_path / name)
    empty = dicom(tmp_path, np.zeros((2, 2), dtype=np.uint16), RescaleSlope=None, RescaleIntercept=0)
    with pytest.raises(DataError, match="the DICOM file is damaged"):
        read_image(empty)
    with pytest.raises(DataError, match="window width"):
        read_image(Image.new("L", (2, 2)), ReadOptions(window=(float("nan"), 4)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    big = png(np.zeros((12, 12), dtype=np.uint8), tmp_path)
    with pytest.raises(DataError, match="decompression bomb.*crop or shrink"):
        read_image(big)
    with pytest.raises(DataError, match="window width 0"):
        read_image(Image.new("L", (2, 2)), ReadOptions(window=(1, 0)))


def test_folders_and_globs(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "c.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_images(tmp_path)] == ["a.JPG", "b.png", "c.nii.gz"]
    assert [path.name for path in find_images(tmp_path / "*.png")] == ["b.png"]
    with pytest.raises(DataError, match="no image found"):
        find_images(tmp_path / "*.tif")
