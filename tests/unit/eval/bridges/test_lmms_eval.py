"""The class for lmms-eval against the interface that lmms-eval documents, on the bundled model."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.bridges import report, shown
from unimedvl.infer.pipeline import UniMedVLPipeline
from unimedvl.infer.requests import Request
from unimedvl.infer.session import Session
from unimedvl.types import TextSegment

MODULE = "unimedvl.eval.bridges.lmms_eval"
GREEDY = {"max_new_tokens": 12, "temperature": 0, "do_sample": False}
QUESTIONS = (
    "How was this image made?",
    "Which organ or region is imaged?",
    "Was this image made by MRI?",
    "Does this image show the retina?",
    "Which modality?",
)


class lmms:  # noqa: N801 (lmms-eval's own name)
    """As documented: what the harness gives to its models."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size, self.task_dict = 0, 1, {}

    @property
    def rank(self) -> int:
        return self._rank

    def clean(self) -> None:
        self.cleaned = True


@dataclass
class Instance:
    """One request."""

    args: tuple[Any, ...]


@pytest.fixture(scope="module")
def module():
    """Our module, imported beside a stand-in of lmms-eval."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
            patch.setitem(sys.modules, name, ModuleType(name))
        sys.modules["lmms_eval.api.model"].lmms = lmms  # pyright: ignore[reportAttributeAccessIssue]
        sys.modules.pop(MODULE, None)
        yield importlib.import_module(MODULE)
        sys.modules.pop(MODULE, None)


@pytest.fixture(scope="module")
def pipe() -> UniMedVLPipeline:
    return UniMedVLPipeline.from_pretrained("bundled", dtype="float32", device="cpu", und_only=True)


@pytest.fixture(autouse=True)
def _nothing_reported_yet():
    report.cache_clear()


def picture(number: int) -> Image.Image:
    """No two numbers look alike."""
    image = Image.new("RGB", (96, 80), (9 * number, 40, 200 - 20 * number))
    ImageDraw.Draw(image).ellipse((8, 8, 30 + 9 * number, 60), fill=(220, 90 + 15 * number, 30))
    return image


DOCS = [{"image": picture(number), "question": question} for number, question in enumerate(QUESTIONS)]


def visuals(doc):
    return [doc["image"]]


@pytest.fixture
def model(module) -> Any:
    made = module.UniMedVL("bundled", batch_size=2, device="cpu", dtype="float32")
    made.task_dict = {"vqa": {"test": DOCS}}
    return made


def asked(number: int, text: str | None = None, given: dict | None = None, to_visual=visuals) -> Instance:
    """A request as a task of output type generate_until makes it."""
    text = QUESTIONS[number] if text is None else text
    return Instance((text, GREEDY if given is None else given, to_visual, number, "vqa", "test"))


@pytest.mark.parametrize("batch_size", ["1", 2, 8])
def test_answers_are_those_of_the_pipeline_in_order(module, pipe, batch_size):
    model = module.UniMedVL("bundled", batch_size=batch_size, device="cpu", dtype="float32")
    model.task_dict = {"vqa": {"test": DOCS}}
    numbers = [3, 0, 4, 1, 2]
    said = model.generate_until([asked(number) for number in numbers])
    alone = [pipe.understand([picture(n)], QUESTIONS[n], max_new_tokens=12) for n in numbers]
    assert said == alone
    assert len(set(said)) > 1


def test_the_harness_sees_a_simple_model_and_its_device(model):
    assert issubclass(type(model), lmms)
    assert model.is_simple
    assert model.device == torch.device("cpu")
    assert not model.pipe.engine.model.config.visual_gen


def test_images_by_path_none_and_between_texts(model, pipe, tmp_path):
    picture(2).save(tmp_path / "two.png")
    said = model.generate_until(
        [
            asked(0, to_visual=lambda _: [str(tmp_path / "two.png")]),
            asked(0, "What is a kidney?", to_visual=lambda _: None),
            asked(0, "First <image> then <image> which?", to_visual=lambda _: [picture(0), picture(3)]),
        ]
    )
    contexts = (
        (shown(picture(2)), QUESTIONS[0]),
        ("What is a kidney?",),
        ("First", shown(picture(0)), "then", shown(picture(3)), "which?"),
    )
    options = replace(pipe.settings.text, max_new_tokens=12)
    assert said == [result.text for result in pipe.run([Request(own, ("text",), text=options) for own in contexts])]
    assert all(said)


def test_generation_options_hold_for_each_request(model):
    whole, cut, short = model.generate_until(
        [asked(0), asked(0, given={**GREEDY, "until": ["."]}), asked(0, given={**GREEDY, "max_new_tokens": 1})]
    )
    assert "." in whole
    assert cut == whole[: whole.index(".")]
    assert whole.startswith(short)
    assert len(short) < len(whole)


def test_a_document_asked_again_is_sampled_anew(model):
    sampled = {"max_new_tokens": 12, "do_sample": True, "temperature": 3.0}
    requests = [asked(1, given=sampled)] * 4
    said = model.generate_until(requests)
    assert len(set(said)) > 1
    assert said == model.generate_until(requests)
    assert said[:1] == model.generate_until(requests[:1])


def test_an_unusable_visual_names_its_document(model):
    with pytest.raises(DataError, match="a dict where an image should be \\(document 2 of vqa, test\\)"):
        model.generate_until([asked(0), asked(2, to_visual=lambda _: [{"array": [0]}])])


def test_rounds_go_on_until_the_task_says_so(model, pipe):
    calls = []

    def next_round(doc, previous_output, round_idx, previous_round_info):
        calls.append((doc["question"], list(previous_output), round_idx, previous_round_info))
        if round_idx == 2:
            return None, None, True, previous_output, None
        return [picture(4)], f"{QUESTIONS[1]}", False, previous_output, {"told": round_idx}

    request = Instance((QUESTIONS[0], GREEDY, visuals, next_round, 3, "vqa", "test"))
    ((first, second),) = model.generate_until_multi_round([request])
    assert first == pipe.understand([picture(3)], QUESTIONS[0], max_new_tokens=12)
    assert second == pipe.understand([picture(4)], QUESTIONS[1], max_new_tokens=12)
    question = DOCS[3]["question"]
    assert calls == [(question, [first], 1, None), (question, [first, second], 2, {"told": 1})]


def wanted(number: int, target: Any) -> Instance:
    """A request as a task of output type multiple_choice or loglikelihood makes it."""
    return Instance((QUESTIONS[number], target, visuals, number, "vqa", "test"))


def step_by_step(pipe: UniMedVLPipeline, number: int, answer: str) -> tuple[float, bool]:
    """Loss and greediness from a cached context, one token after the other, as decoding goes."""
    engine, processor = pipe.engine, pipe.processor
    session = Session(engine.cache(512).open(512))
    engine.append([session], [[processor.to_understand(picture(number)), processor.text(QUESTIONS[number])]])
    ids = [*processor.codec.encode(answer), engine.special.eos]
    losses, greedy = [], True
    for fed, following in zip([engine.special.bos, *ids], ids, strict=False):
        output = engine.append([session], [[TextSegment((fed,))]], logits="last")
        assert output is not None
        assert output.logits is not None
        row = output.logits[0].float()
        losses.append(-float(row.log_softmax(dim=0)[following]))
        greedy &= int(row[: len(processor.codec.tokenizer)].argmax()) == following
    return sum(losses) / len(losses), greedy


def test_losses_are_those_of_decoding_step_by_step(model, pipe):
    answers = ["Fundus photography.", "No.", "Yes.", "A longer answer than the others."]
    got = model.loglikelihood([wanted(number, f" {answer}") for number, answer in enumerate(answers)])
    for number, (answer, (loss, greedy)) in enumerate(zip(answers, got, strict=True)):
        expected, expected_greedy = step_by_step(pipe, number, answer)
        # float32, the same sums in another order: four samples packed in one sequence against one token at a time.
        assert loss == pytest.approx(expected, abs=1e-4)
        assert greedy == expected_greedy


def test_what_the_model_says_itself_is_greedy_and_the_best_choice(model, pipe):
    said = pipe.understand([picture(0)], QUESTIONS[0])
    choices = [said, "Histology of the spleen.", "zebra"]
    results = model.loglikelihood([wanted(0, f" {choice}") for choice in choices])
    assert [greedy for _, greedy in results] == [True, False, False]
    assert min(results)[0] == results[0][0]


def test_a_target_may_be_a_function_of_the_document(model):
    by_text, by_function = model.loglikelihood([wanted(1, QUESTIONS[1]), wanted(1, lambda doc: doc["question"])])
    assert by_text[0] == pytest.approx(by_function[0], abs=1e-5)  # two places of one packed float32 sequence


def test_an_empty_answer_has_no_likelihood(model):
    with pytest.raises(DataError, match="an empty answer"):
        model.loglikelihood([wanted(0, " ")])


@pytest.mark.parametrize("batch_size", ["auto", 0, "-1", "auto:4"])
def test_a_batch_size_must_be_a_number(module, batch_size):
    with pytest.raises(ConfigError, match="give a number"):
        module.UniMedVL("bundled", batch_size=batch_size)


def test_a_largest_batch_size_is_reported(module, caplog):
    module.UniMedVL("bundled", device="cpu", max_batch_size=64)
    assert "max_batch_size=64 changes nothing" in caplog.text


def test_memory_is_given_back_and_the_model_comes_again(model):
    before = model.generate_until([asked(0)])
    first = model.pipe
    model.clean()
    assert "pipe" not in vars(model)
    assert model.cleaned
    assert model.generate_until([asked(0)]) == before
    assert model.pipe is not first


@pytest.mark.parametrize(
    ("device", "world", "gpu", "expected"),
    [
        (None, "4", True, "cuda:2"),
        ("cuda", "4", True, "cuda:2"),
        ("cuda:0", "4", True, "cuda:0"),
        ("cpu", "4", True, "cpu"),
        (None, "4", False, None),
        (None, "1", True, None),
    ],
)
def test_every_process_has_its_own_gpu(module, monkeypatch, device, world, gpu, expected):
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert module._own_gpu(device) == expected


def test_without_lmms_eval_the_import_says_what_to_do(monkeypatch):
    for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    with pytest.raises(ConfigError, match="pip install lmms-eval"):
        importlib.import_module(MODULE)
