"""The class for VLMEvalKit against the interface that VLMEvalKit documents, on the bundled model."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from PIL import Image, ImageDraw

from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.bridges import report, shown
from unimedvl.infer.requests import Request

MODULE = "unimedvl.eval.bridges.vlmevalkit"
LOADED = {"model_path": "bundled", "device": "cpu", "dtype": "float32"}
QUESTION = "How was this image made?"


class BaseModel:
    """As documented: what VLMEvalKit gives to its models."""

    INTERLEAVE = False
    allowed_types = ("text", "image", "video")

    def __init__(self) -> None:
        self.dump_image_func = None

    def set_dump_image(self, dump_image_func):
        self.dump_image_func = dump_image_func

    def dump_image(self, line, dataset):
        assert self.dump_image_func is not None
        return self.dump_image_func(line)

    def generate(self, message, dataset=None):
        message = [{"type": "text", "value": message}] if isinstance(message, str) else message
        assert all(part["type"] in self.allowed_types for part in message)
        return self.generate_inner(message, dataset)  # pyright: ignore[reportAttributeAccessIssue]


def dataset_type(dataset: str) -> str:
    """VLMEvalKit's table of its benchmarks."""
    return {"GMAI_mm_bench_VAL": "MCQ", "MMMU_DEV_VAL": "MCQ", "MME": "Y/N"}.get(dataset, "VQA")


class Absent:
    """A finder for which VLMEvalKit is not installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "vlmeval":
            raise ModuleNotFoundError("No module named 'vlmeval'", name="vlmeval")


def imported(patch: pytest.MonkeyPatch, modules: dict[str, Any]) -> Any:
    """Our module, imported anew beside these modules."""
    for name, module in modules.items():
        patch.setitem(sys.modules, name, module)
    sys.modules.pop(MODULE, None)
    return importlib.import_module(MODULE)


@pytest.fixture(scope="module")
def plain():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "meta_path", [Absent, *sys.meta_path])
        patch.delitem(sys.modules, "vlmeval", raising=False)
        yield imported(patch, {})
        sys.modules.pop(MODULE, None)


@pytest.fixture
def inside(monkeypatch):
    """Our module inside a stand-in of VLMEvalKit."""
    modules: dict[str, Any] = {
        name: ModuleType(name) for name in ("vlmeval", "vlmeval.vlm", "vlmeval.vlm.base", "vlmeval.dataset")
    }
    modules["vlmeval.vlm.base"].BaseModel = BaseModel
    modules["vlmeval.dataset"].DATASET_TYPE = dataset_type
    yield imported(monkeypatch, modules)
    sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module")
def model(plain):
    return plain.UniMedVL(**LOADED)


@pytest.fixture(autouse=True)
def _nothing_reported_yet():
    report.cache_clear()


@pytest.fixture
def paths(tmp_path) -> list[str]:
    """Three pictures that do not look alike."""
    made = []
    for number in range(3):
        image = Image.new("RGB", (96, 80), (60 * number, 40, 200 - 80 * number))
        ImageDraw.Draw(image).ellipse((8, 8, 40 + 20 * number, 60), fill=(220, 30 + 90 * number, 30))
        image.save(tmp_path / f"{number}.png")
        made.append(str(tmp_path / f"{number}.png"))
    return made


def image_of(path: Any) -> dict[str, Any]:
    return {"type": "image", "value": path}


def text_of(text: str) -> dict[str, Any]:
    return {"type": "text", "value": text}


def expected(model, *inputs) -> str | None:
    """What the pipeline says to these inputs."""
    return model.pipe.run([Request(inputs, ("text",), text=model.options)])[0].text


def test_one_image_and_a_question(model, paths):
    said = model.generate([image_of(paths[0]), text_of(QUESTION)], dataset="GMAI_mm_bench_VAL")
    assert said == model.pipe.understand([paths[0]], QUESTION)
    assert said == model.generate([image_of(Image.open(paths[0])), text_of(QUESTION)])
    assert said


def test_several_images_between_texts_keep_their_order(model, paths, monkeypatch):
    asked = []
    monkeypatch.setattr(model.pipe, "run", lambda requests, run=model.pipe.run: asked.extend(requests) or run(requests))
    message = [
        text_of("First:"), image_of(paths[0]), text_of("Then:"), image_of(paths[1]), image_of(paths[2]),
        text_of("What changed?"), text_of("Answer briefly."),
    ]  # fmt: skip
    model.generate(message)
    (request,) = asked
    seen = [item if isinstance(item, str) else item.source for item in request.inputs]
    assert seen == ["First:", paths[0], "Then:", paths[1], paths[2], "What changed?\nAnswer briefly."]


def test_the_answer_to_interleaved_parts_is_the_pipelines(model, paths):
    said = model.generate([text_of("First:"), image_of(paths[0]), text_of("Then:"), image_of(paths[2])])
    assert said == expected(model, "First:", shown(paths[0]), "Then:", shown(paths[2]))


def test_a_text_alone(model):
    said = model.generate("What is the retina?")
    assert said
    assert said == expected(model, "What is the retina?") == model.generate([text_of("What is the retina?")])


@pytest.mark.parametrize(
    ("message", "match"),
    [
        ([{"type": "video", "value": "film.mp4"}, text_of("What?")], "a part of type 'video' \\(Video-MME\\)"),
        ([image_of("nowhere.png"), text_of("What?")], "nowhere.png"),
        ([text_of(" ")], "neither text nor image"),
        ([], "neither text nor image"),
    ],
)
def test_a_message_that_cannot_be_answered(model, message, match):
    with pytest.raises(DataError, match=match):
        model.generate(message, dataset="Video-MME")


@pytest.fixture
def choice(paths):
    """A line of a multiple-choice TSV, and the function that gives the paths of its images."""
    line = {"index": 7, "question": "Which organ?", "A": "Lung", "B": "Heart", "C": float("nan"), "D": "Liver",
            "E": None, "hint": float("nan"), "answer": "A", "image": "aGVsbG8="}  # fmt: skip
    return line, lambda row: {7: paths[:2]}[row["index"]]


@pytest.mark.parametrize("as_row", [False, True])
def test_multiple_choice_lines(model, paths, choice, as_row):
    line, dump = choice
    if as_row:
        line = pytest.importorskip("pandas").Series(line)
    model.set_dump_image(dump)
    images, text = model.build_prompt(line, dataset="GMAI_mm_bench_VAL")[:2], model.build_prompt(line)[2]
    assert images == [image_of(path) for path in paths[:2]]
    assert text == text_of(
        "Which organ?\nA. Lung\nB. Heart\nD. Liver\nAnswer with the option's letter from the given choices directly."
    )
    said = model.generate([*images, text])
    assert said == expected(model, shown(paths[0]), shown(paths[1]), text["value"])


def test_a_hint_comes_first_and_an_open_question_stays_as_it_is(model, paths):
    model.set_dump_image(lambda _: paths[0])
    line = {"index": 1, "question": "Which organ?", "hint": "A chest X-ray."}
    assert model.build_prompt(line) == [image_of(paths[0]), text_of("A chest X-ray.\nWhich organ?")]


def test_an_own_wording(plain, paths, choice):
    model = plain.UniMedVL(**LOADED, wording="{options} | {question}")
    model.set_dump_image(choice[1])
    assert model.build_prompt(choice[0])[2] == text_of("A. Lung\nB. Heart\nD. Liver | Which organ?")


def test_images_need_a_way_to_them(plain, choice):
    with pytest.raises(ConfigError, match="call set_dump_image first"):
        plain.UniMedVL(**LOADED).build_prompt(choice[0], dataset="GMAI_mm_bench_VAL")


def test_options_are_given_when_the_model_is_registered(plain, paths, caplog):
    supported = {"UniMedVL": partial(plain.UniMedVL, **LOADED, max_new_tokens=1, temperature=0, num_beams=3)}
    model = supported["UniMedVL"]()
    assert model.options.max_new_tokens == 1
    whole = plain.UniMedVL(**LOADED).generate([image_of(paths[0]), text_of(QUESTION)])
    first = model.generate([image_of(paths[0]), text_of(QUESTION)])
    assert whole.startswith(first)
    assert len(first) < len(whole)
    (record,) = caplog.records
    assert record.getMessage().startswith("the generation option num_beams=3 has no counterpart")


def test_without_vlmevalkit_no_benchmark_is_known(model):
    assert not model.use_custom_prompt("GMAI_mm_bench_VAL")


@pytest.mark.parametrize(
    ("dataset", "own"), [("GMAI_mm_bench_VAL", True), ("MMMU_DEV_VAL", False), ("MME", False), (None, False)]
)
def test_inside_vlmevalkit_multiple_choice_is_put_our_way(inside, dataset, own):
    assert inside.UniMedVL(**LOADED).use_custom_prompt(dataset) is own


def test_inside_vlmevalkit_it_is_one_of_its_models(inside, paths, choice):
    model = inside.UniMedVL(**LOADED)
    assert issubclass(inside.UniMedVL, BaseModel)
    assert model.INTERLEAVE
    model.set_dump_image(choice[1])
    assert model.build_prompt(choice[0], dataset="GMAI_mm_bench_VAL")[0] == image_of(paths[0])
    message = [image_of(paths[0]), text_of(QUESTION), image_of(paths[1])]
    assert model.generate(message, dataset="MME") == expected(model, shown(paths[0]), QUESTION, shown(paths[1]))


def test_what_vlmevalkit_itself_lacks_is_not_hidden(monkeypatch):
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(ModuleNotFoundError, match="vlmeval.vlm"):
        imported(monkeypatch, {"vlmeval": ModuleType("vlmeval")})
