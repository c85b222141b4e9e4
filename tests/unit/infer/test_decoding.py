"""Text decoding: batches, sampling, stops, streams, and the static step."""

from __future__ import annotations

import pytest
import torch

from unimedvl.errors import ConfigError, DataError
from unimedvl.infer.decoding import Answer, TextOptions, _Stream, decode, join
from unimedvl.infer.session import Session
from unimedvl.infer.static import fits

PROMPTS = ["What imaging modality is shown?", "Brain.", "Describe the lungs and the heart in detail."]


def contexts(pipe, images, prompts, capacity=200):
    """Sessions with an image and a prompt each, of different lengths."""
    engine, processor = pipe.engine, pipe.processor
    cache = engine.cache(capacity * len(prompts))
    sessions = [Session(cache.open(capacity)) for _ in prompts]
    parts = [
        [processor.to_understand(images[number % 3]), processor.text(prompt)] for number, prompt in enumerate(prompts)
    ]
    engine.append(sessions, parts)
    return sessions


def speak(pipe, images, prompts, options, **more):
    sessions = contexts(pipe, images, prompts)
    return decode(pipe.engine, pipe.processor.codec, sessions, options, **more), sessions


@pytest.mark.parametrize(
    "options",
    [
        TextOptions(8),
        TextOptions(8, temperature=0.9, top_p=0.8, seed=3),
        TextOptions(8, repetition_penalty=1.5),
    ],
)
def test_batched_equals_alone(pipe, images, options):
    together, _ = speak(pipe, images, PROMPTS, [options] * 3)
    for number, prompt in enumerate(PROMPTS):
        sessions = contexts(pipe, images, PROMPTS)[number : number + 1]
        (alone,) = decode(pipe.engine, pipe.processor.codec, sessions, [options])
        assert alone.ids == together[number].ids, prompt
        assert len(alone.ids) == 8


@pytest.mark.parametrize("options", [TextOptions(8), TextOptions(8, temperature=1.0, seed=1)])
def test_static_step_equals_the_packed_one(pipe, images, options):
    """The fixed-shape step, run without its graph; sessions end at different times."""
    several = [TextOptions(**{**vars(options), "max_new_tokens": count}) for count in (8, 3, 6)]
    packed, packed_sessions = speak(pipe, images, PROMPTS, several, static=False)
    static, static_sessions = speak(pipe, images, PROMPTS, several, static=True)
    assert [answer.ids for answer in static] == [answer.ids for answer in packed]
    assert [session.mark() for session in static_sessions] == [session.mark() for session in packed_sessions]
    # The contexts are the same too: what follows gives the same logits.
    follow = [[pipe.processor.text("And now?")]] * 3
    logits = [pipe.engine.append(s, follow, logits="last").logits for s in (packed_sessions, static_sessions)]
    # float32 logits of order 1; masked attention over a whole row sums in another order.
    torch.testing.assert_close(logits[1], logits[0], atol=2e-5, rtol=1e-4)


@pytest.mark.gpu
def test_graph_equals_the_packed_step_on_cuda(saved_tiny, images):
    from unimedvl.infer.pipeline import UniMedVLPipeline

    pipe = UniMedVLPipeline.from_pretrained(saved_tiny, device="cuda", attention="sdpa")
    options = [TextOptions(count) for count in (8, 3, 6)]
    packed, _ = speak(pipe, images, PROMPTS, options, static=False)
    graph, _ = speak(pipe, images, PROMPTS, options, static=True)
    assert [answer.ids for answer in graph] == [answer.ids for answer in packed]


def test_static_needs_rows_side_by_side(pipe):
    cache = pipe.engine.cache(100)
    first, second, third = (Session(cache.open(20)) for _ in range(3))
    assert fits(pipe.engine, [first, second, third], [19] * 3)
    assert not fits(pipe.engine, [first, second, third], [19, 20, 19])
    assert not fits(pipe.engine, [first, third], [5] * 2)
    pipe.engine.append([first], [[pipe.processor.text("x")]])
    assert not fits(pipe.engine, [first.fork(20)], [5])
    assert not fits(pipe.engine, [first, Session(cache.open(10))], [5] * 2)


def test_ids_past_the_tokenizer_never_come_out(pipe, images):
    size = len(pipe.processor.codec.tokenizer)
    free, _ = speak(pipe, images, PROMPTS, [TextOptions(20, any_id=True)] * 3)
    assert any(token >= size for answer in free for token in answer.ids), "the test model would give them"
    held, _ = speak(pipe, images, PROMPTS, [TextOptions(20)] * 3)
    drawn, _ = speak(pipe, images, PROMPTS, [TextOptions(20, temperature=2.0, seed=n) for n in range(3)])
    assert all(token < size for answer in (*held, *drawn) for token in answer.ids)


def test_stop_strings_end_each_sequence_on_its_own(pipe, images):
    plain, _ = speak(pipe, images, PROMPTS, [TextOptions(12)] * 3)
    text = plain[0].text
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    pieces = {0: "", 1: "", 2: ""}

    def collect(number, piece):
        pieces[number] += piece

    stopped, sessions = speak(pipe, images, PROMPTS, [TextOptions(12, stop=(stop,))] * 3, on_text=collect)
    assert stopped[0].finish == "stop"
    assert stopped[0].text == text[: text.find(stop)]
    for number, (answer, other) in enumerate(zip(stopped, plain, strict=True)):
        assert pieces[number] == answer.text
        if stop not in other.text:
            assert answer.ids == other.ids
    # The joined context holds the text as shown, not what was cut off.
    mark = sessions[0].mark()
    join(pipe.engine, pipe.processor.codec, sessions[:1], stopped[:1])
    codec, ids = pipe.processor.codec, stopped[0].ids
    kept = max(n for n in range(len(ids)) if len(codec.decode(ids[:n])) <= len(stopped[0].text))
    assert len(sessions[0]) == mark.length - (len(ids) - 1) + kept + 1


def test_streams_hold_back_what_may_become_a_stop_string(pipe, images):
    """Nothing is shown that the final text does not hold."""
    plain, _ = speak(pipe, images, PROMPTS[:1], [TextOptions(12)])
    text = plain[0].text
    stop = text[-3:]
    assert text.find(stop) == len(text) - 3, "the case stops at its very end"
    shown = []

    def collect(_, piece):
        shown.append(piece)
        assert text.startswith("".join(shown))
        assert len("".join(shown)) <= len(text) - 3

    stopped, _ = speak(pipe, images, PROMPTS[:1], [TextOptions(12, stop=(stop,))], on_text=collect)
    assert "".join(shown) == stopped[0].text == text[:-3]


def test_seeds_and_penalties_change_the_text(pipe, images):
    drawn = [speak(pipe, images, PROMPTS[:1], [TextOptions(10, temperature=1.5, seed=n)])[0][0].ids for n in range(3)]
    assert len({tuple(ids) for ids in drawn}) == 3
    plain = speak(pipe, images, PROMPTS[:1], [TextOptions(30)])[0][0].ids
    penalized = speak(pipe, images, PROMPTS[:1], [TextOptions(30, repetition_penalty=5.0)])[0][0].ids
    assert len(set(penalized)) > len(set(plain))


@pytest.mark.parametrize("seed", range(6))
def test_joining_after_a_stop_never_needs_more_room(pipe, images, seed):
    """Half characters and stop strings inside tokens: the context never grows beyond what was decoded."""
    options = TextOptions(30, temperature=1.5, seed=seed, stop=("a", "e"))
    engine, codec = pipe.engine, pipe.processor.codec
    cache = engine.cache(80)
    session = Session(cache.open(12 + 30 + 2))
    engine.append([session], [[pipe.processor.text("Describe pneumonia.")]])
    before = session.mark()
    (answer,) = decode(engine, codec, [session], [options])
    join(engine, codec, [session], [answer])
    assert len(session) - before.length <= len(answer.ids) + 2
    if answer.finish == "stop":
        assert "a" not in answer.text
        assert "e" not in answer.text


def test_the_position_limit_is_checked_before_the_first_token(pipe):
    engine = pipe.engine
    for static in (False, True):
        session = Session(engine.cache(50).open(50), position=4090)
        with pytest.raises(DataError, match="position 4090 and 20 new tokens exceed the 4096"):
            decode(engine, pipe.processor.codec, [session], [TextOptions(20)], static=static)
        assert len(session) == 0


def test_joined_answers_equal_the_same_text_appended(pipe, images):
    answers, sessions = speak(pipe, images, PROMPTS, [TextOptions(5)] * 3)
    join(pipe.engine, pipe.processor.codec, sessions, answers)
    fresh = contexts(pipe, images, PROMPTS)
    special = pipe.engine.special
    from unimedvl.types import TextSegment

    pipe.engine.append(fresh, [[TextSegment((special.bos, *a.ids, special.eos))] for a in answers])
    assert [s.mark() for s in fresh] == [s.mark() for s in sessions]
    follow = [[pipe.processor.text("And now?")]] * 3
    logits = [pipe.engine.append(s, follow, logits="last").logits for s in (fresh, sessions)]
    torch.testing.assert_close(logits[1], logits[0], atol=2e-5, rtol=1e-4)


def test_eos_ends_and_is_not_part(pipe, images, monkeypatch):
    """The head is made to prefer eos at the third token of the second sequence."""
    from unimedvl.infer import decoding

    calls = []
    original = decoding._Chooser.choose

    def choose(self, logits, ids):
        calls.append(len(ids))
        return pipe.engine.special.eos if self.options.seed == 7 and len(ids) == 2 else original(self, logits, ids)

    monkeypatch.setattr(decoding._Chooser, "choose", choose)
    answers, _ = speak(pipe, images, PROMPTS, [TextOptions(6, seed=seed) for seed in (0, 7, 0)])
    assert [(len(answer.ids), answer.finish) for answer in answers] == [(6, "length"), (2, "eos"), (6, "length")]
    assert len(calls) == 6 + 3 + 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0.*at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"stop": ("",)}, "not empty"),
    ],
)
def test_bad_options(values, message):
    with pytest.raises(ConfigError, match=message):
        TextOptions(**values)


def test_prompt_past_the_context(pipe):
    with pytest.raises(DataError, match="4096.*shorten the text"):
        pipe.understand([], "word " * 3000, max_new_tokens=2)


@pytest.mark.parametrize("static", [False, True])
def test_a_session_that_is_done_stays_in_its_slots(pipe, static):
    """The first ends after two tokens with one slot to spare; the second, right behind it, goes on for ten."""
    engine, processor = pipe.engine, pipe.processor
    prompts = [processor.text("Describe the lungs and the heart in detail."), processor.text("Hi.")]
    capacity = len(prompts[0].token_ids) + 3
    assert len(prompts[1].token_ids) + 11 <= capacity

    def answers(order, **options):
        cache = engine.cache(capacity * len(order))
        sessions = [Session(cache.open(capacity)) for _ in order]
        engine.append(sessions, [[prompts[number]] for number in order])
        budgets = [TextOptions((2, 10)[number]) for number in order]
        return [answer.ids for answer in decode(engine, processor.codec, sessions, budgets, **options)]

    together = answers([0, 1], static=static)
    assert together == [*answers([0], static=False), *answers([1], static=False)]


def test_a_stop_string_that_grows_letter_by_letter_is_never_shown():
    shown = []
    stream = _Stream(3, ("END", "STOP!"), lambda number, piece: shown.append((number, piece)))
    answer = Answer()
    for text in ("a", "aE", "aEN", "aENd", "aENd\ufffd", "aENd\u00e9", "aENd\u00e9S", "aENd\u00e9ST"):
        answer.text = text
        stream.show(answer)
        assert "".join(piece for _, piece in shown) in ("a", "aENd", "aENd\u00e9")
    assert shown == [(3, "a"), (3, "ENd"), (3, "\u00e9")]
    stream.show(answer, final=True)
    assert shown[-1] == (3, "ST")
