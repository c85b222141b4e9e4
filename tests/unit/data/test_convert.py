"""Conversion to Parquet: the same records come back, the same bytes come again, and nothing half-written stays."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unimedvl.data import convert as module
from unimedvl.data.convert import convert
from unimedvl.data.records import ImageRef, Record, parse_record
from unimedvl.data.sources import Source
from unimedvl.errors import ConfigError, DataError


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 3), shade).save(buffer, "PNG")
    return buffer.getvalue()


IMAGES = {f"img/{shade}.png": png(shade) for shade in range(3)}


def chat(text="What?", path="img/0.png"):
    turns = [{"from": "human", "value": f"<image>{text}"}, {"from": "gpt", "value": "A lung."}]
    return {"conversations": turns, "image": path}


def opened(folder: Path, *rows) -> Source:
    (folder / "img").mkdir(exist_ok=True)
    for path, data in IMAGES.items():
        (folder / path).write_bytes(data)
    (folder / "rows.jsonl").write_text("".join(f"{r if isinstance(r, str) else json.dumps(r)}\n" for r in rows))
    return Source("test", [folder / "rows.jsonl"], cache=folder / "cache")


def read_back(paths, folder: Path) -> list[Record]:
    source = Source("back", [str(path) for path in paths], root=folder / "nowhere", cache=folder / "cache")
    return [source.record(row) for row in range(len(source))]


def embedded(record: Record) -> Record:
    """The record with the bytes of its image files."""

    def inside(refs):
        return tuple(replace(ref, path=None, data=IMAGES[ref.path] if ref.data is None else ref.data) for ref in refs)

    return replace(record, inputs=inside(record.inputs), outputs=inside(record.outputs))


TEXTS = st.text(min_size=1, max_size=20).map(lambda text: f"x{text.replace('<image>', '')}")
NAMES = st.none() | st.text(max_size=5)
SIDES = st.none() | st.integers(0, 10_000)
FILES = st.sampled_from(sorted(IMAGES))
REFS = FILES | st.fixed_dictionaries({"path": FILES}, optional={"height": SIDES, "width": SIDES})


@st.composite
def own_rows(draw):
    task = draw(st.sampled_from(["vqa", "text", "t2i", "edit", "counterfactual", "reconstruction"]))
    inputs = draw(st.lists(REFS, min_size=1, max_size=3)) if task not in ("text", "t2i") else []
    marks = "<image>" * len(inputs) if task == "vqa" else ""
    message = [{"from": "human", "value": marks + draw(TEXTS)}, {"from": "gpt", "value": draw(TEXTS)}]
    row = {"main_task_type": task, "message": message, "sub_task_type": draw(NAMES), "modality": draw(NAMES)}
    outputs = [draw(REFS)] if task in ("t2i", "edit", "counterfactual") else None
    return {**row, "dataset": draw(NAMES), "input_img": inputs, "output_img": outputs}


@st.composite
def llava_rows(draw):
    images = draw(st.lists(REFS, max_size=3))
    first = {"from": "human", "value": "<image>" * len(images) + draw(TEXTS)}
    more = [{"from": side, "value": draw(TEXTS)} for side in draw(st.lists(st.sampled_from(["human", "gpt"])))]
    turns = [first, {"from": "gpt", "value": draw(TEXTS)}, *more]
    return {"conversations": turns, "image": images or None, "dataset": draw(NAMES), "modality": draw(NAMES)}


@st.composite
def caption_rows(draw):
    texts = draw(st.lists(TEXTS, min_size=1, max_size=3))
    captions = draw(st.sampled_from([texts, {f"c{number}": text for number, text in enumerate(texts)}]))
    return {
        "image": draw(REFS),
        "captions": draw(st.sampled_from([captions, json.dumps(captions)])),
        "modality": draw(NAMES),
    }


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(own_rows() | llava_rows() | caption_rows(), min_size=1, max_size=7), st.integers(1, 4))
def test_the_same_records_come_back(rows, rows_per_shard):
    with TemporaryDirectory() as name:
        folder = Path(name)
        source = opened(folder, *rows)
        converted = convert(source, folder / "out", rows_per_shard=rows_per_shard)
        assert converted.report.bad == 0
        assert len(converted.shards) == -(-len(rows) // rows_per_shard)
        wanted = [embedded(source.record(row)) for row in range(len(source))]
        assert wanted == [embedded(parse_record(json.loads(json.dumps(row)))) for row in rows]
        assert read_back(converted.shards, folder) == wanted


def test_shards(tmp_path):
    converted = convert(opened(tmp_path, *(chat(f"{n}?") for n in range(5))), tmp_path / "out", rows_per_shard=2)
    names = [f"part-0000{number}-of-00003.parquet" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert [path.name for path in converted.shards] == names
    assert "3 shards" in str(converted)
    assert converted.values()["shards"] == [str(path) for path in converted.shards]
    tables = [pyarrow.parquet.read_table(path) for path in converted.shards]
    assert [len(table) for table in tables] == [2, 2, 1]
    assert all(table.schema.equals(module.SCHEMA) for table in tables)
    image = tables[0]["input_img"][0][0].as_py()
    assert image == {"bytes": IMAGES["img/0.png"], "path": "img/0.png", "height": None, "width": None}


def test_a_second_conversion_gives_the_same_bytes(tmp_path):
    source = opened(tmp_path, *(chat(f"{number}?") for number in range(150)))
    first, second = (convert(source, tmp_path / name, rows_per_shard=100).shards for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_converting_what_was_converted(tmp_path):
    first = convert(opened(tmp_path, chat(), chat("Why?")), tmp_path / "one").shards
    again = convert(Source("again", first, cache=tmp_path / "cache"), tmp_path / "two").shards
    assert read_back(first, tmp_path) == read_back(again, tmp_path)


def test_bad_rows_are_left_out(tmp_path):
    lone = json.dumps(chat("\ud800"))
    large = chat(path={"path": "img/1.png", "height": 2**70})
    (tmp_path / "folder.png").mkdir()
    rows = [chat("1"), "{", chat(path="img/9.png"), lone, large, chat(path="folder.png"), chat(path="\0"), chat("2")]
    converted = convert(opened(tmp_path, *rows), tmp_path / "out")
    assert converted.report.counts == {"bad JSON": 1, "missing image": 3, "not UTF-8": 1, "wrong type": 1}
    assert converted.report.first["not UTF-8"][0].where.endswith("rows.jsonl:4")
    assert [record.turns[0].text for record in read_back(converted.shards, tmp_path)] == ["<image>1", "<image>2"]


def test_nothing_is_left_when_no_row_is_good(tmp_path):
    with pytest.raises(DataError, match="no row can be used: 2 bad JSON"):
        convert(opened(tmp_path, "{", "{"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "img", "rows.jsonl"]


def test_an_image_that_needs_the_name_of_its_file(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    shutil.copy(pydicom.data.get_testdata_file("CT_small.dcm"), tmp_path / "whole.dcm")
    # Without its preamble, only the name says that it is DICOM.
    (tmp_path / "bare.dcm").write_bytes((tmp_path / "whole.dcm").read_bytes()[132:])
    source = opened(tmp_path, chat(path="whole.dcm"), chat(path="bare.dcm"))
    converted = convert(source, tmp_path / "out")
    assert converted.report.counts == {"damaged image": 1}
    assert "bare.dcm" in converted.report.first["damaged image"][0].problem
    (record,) = read_back(converted.shards, tmp_path)
    assert record.inputs[0].read(None).size == source.record(0).inputs[0].read(tmp_path).size


def test_what_is_there_stays(tmp_path):
    source, out = opened(tmp_path, chat()), tmp_path / "out"
    out.mkdir()
    convert(source, out)  # an empty folder is no obstacle
    with pytest.raises(DataError, match="not empty"):
        convert(source, out)
    (before,) = out.iterdir()
    more = opened(tmp_path, chat(), chat())
    assert len(convert(more, out, rows_per_shard=1, overwrite=True).shards) == 2
    assert not before.exists()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        convert(source, out, overwrite=True)
    with pytest.raises(DataError, match="is a file"):
        convert(source, tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="cannot be written"):
        convert(source, tmp_path / "rows.jsonl" / "out")
    with pytest.raises(ConfigError, match="0 rows"):
        convert(source, tmp_path / "other", rows_per_shard=0)


def test_a_folder_is_not_converted_into_itself(tmp_path):
    shards = convert(opened(tmp_path, chat()), tmp_path / "out").shards
    with pytest.raises(DataError, match="holds the rows"):
        convert(Source("again", shards, cache=tmp_path / "cache"), tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("No space left on device")])
def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch, error):
    source, out = opened(tmp_path, *(chat() for _ in range(6))), tmp_path / "out"
    convert(opened(tmp_path, chat()), out)
    before = {path: path.read_bytes() for path in out.iterdir()}
    flush, calls = module._Shard._flush, iter([None, None])

    def failing(shard):
        if next(calls, "end") == "end":
            raise error
        flush(shard)

    monkeypatch.setattr(module._Shard, "_flush", failing)
    with pytest.raises(DataError if isinstance(error, OSError) else KeyboardInterrupt):
        convert(source, out, rows_per_shard=1, overwrite=True)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert not list(tmp_path.glob(".out*"))


def test_images_in_rows_stay_as_they_are(tmp_path):
    table = pyarrow.table({"image": [IMAGES["img/1.png"]], "captions": ['{"a": "A lung"}'], "other": [1]})
    pyarrow.parquet.write_table(table, tmp_path / "t2i.parquet")
    source = Source("test", [tmp_path / "t2i.parquet"], cache=tmp_path / "cache")
    (record,) = read_back(convert(source, tmp_path / "out").shards, tmp_path)
    assert record == Record("t2i", outputs=(ImageRef(data=IMAGES["img/1.png"]),), captions=("A lung",))
