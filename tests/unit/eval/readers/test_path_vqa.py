from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image
from PIL import Image as Pillow

from unimedvl.errors import DataError
from unimedvl.eval.readers.path_vqa import read

ROWS = {
    "question": ["what is present?", "is fibrosis present?", "where is it?"],
    "answer": ["liver", "no", "in the canals"],
}


def as_hub(path, rows=slice(None), size=(8, 6)):
    """Written by ``datasets``, as the hub's files are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: values[rows] for name, values in ROWS.items()}
    images = [Pillow.new("RGB", size)] * len(columns["question"])
    Dataset.from_dict({"image": images, **columns}).cast_column("image", Image()).to_parquet(path)


def test_shards_of_the_hub(tmp_path):
    as_hub(tmp_path / "data/test-00000-of-00002-e9adadb4799f44d3.parquet", slice(0, 2))
    as_hub(tmp_path / "data/test-00001-of-00002-7ea98873fc919813.parquet", slice(2, 3), (5, 4))
    as_hub(tmp_path / "data/validation-00000-of-00001-aaaa.parquet", slice(0, 1))
    rows = read(tmp_path)
    assert [(row.name, row.prompt, row.truths, row.closed) for row in rows] == [
        ("path-vqa-test-00000", "what is present?", ("liver",), False),
        ("path-vqa-test-00001", "is fibrosis present?", ("no",), True),
        ("path-vqa-test-00002", "where is it?", ("in the canals",), False),
    ]
    assert [row.inputs[0].size for row in rows] == [(8, 6), (8, 6), (5, 4)]
    assert rows[0].images[0].data is rows[1].images[0].data
    assert [row.name for row in read(tmp_path, "val")] == ["path-vqa-val-00000"]
    assert len(read(tmp_path / "data/test-00001-of-00002-7ea98873fc919813.parquet")) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": None}, "'answer' is empty"),
        ({"question": ""}, "'question' is empty"),
        ({"image": {"bytes": None, "path": None}}, "image has neither path, bytes nor base64"),
        ({"image": {"bytes": None, "path": "train_0.jpg"}}, r"no image file .*train_0\.jpg"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, change, message):
    row = {"image": {"bytes": b"x", "path": None}, "question": "what?", "answer": "liver"}
    rows = [row] * 99 + [{**row, **change}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match=rf"{message}.*parquet, row 100\)"):
        read(tmp_path)


def test_files_that_cannot_be_used(tmp_path):
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), tmp_path / "test.parquet")
    with pytest.raises(DataError, match="no column 'image' among question, answer"):
        read(tmp_path)
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "test.parquet")
    with pytest.raises(DataError, match="no row to ask"):
        read(tmp_path)
    with pytest.raises(DataError, match="no split is called 'dev'"):
        read(tmp_path, "dev")
