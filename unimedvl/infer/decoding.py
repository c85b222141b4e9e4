"""Text, token by token, for many sessions in step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from unimedvl.errors import ConfigError, DataError
from unimedvl.infer.session import Engine, Mark, Session
from unimedvl.infer.static import StaticDecoder, fits
from unimedvl.processor import TextCodec
from unimedvl.types import TextSegment

FinishReason = Literal["eos", "stop", "length"]
# What a tokenizer shows for bytes that do not yet make a character.
_INCOMPLETE = "\ufffd"


@dataclass(frozen=True)
class TextOptions:
    """How text is chosen.

    Attributes:
        max_new_tokens: at most so many, eos included.
        temperature: 0 is greedy.
        top_p: smallest set of tokens with this probability.
        repetition_penalty: above 1 makes tokens that were already given less likely.
        stop: strings that end the answer; they are not part of it.
        seed: of the sampling; each sequence has its own stream, so a batch gives what each alone gives.
        any_id: allow ids past the tokenizer's end, as the published code does.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    any_id: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        checks = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < float("inf"), "0 for greedy, or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0; 1 changes nothing"),
            "stop": (all(self.stop), "strings that are not empty"),
            "seed": (0 <= self.seed < 2**63, "0 or more, below 2^63"),
        }
        for name, (good, remedy) in checks.items():
            if not good:
                raise ConfigError(f"{name} is {getattr(self, name)!r}", where="text options", remedy=f"give {remedy}")


@dataclass
class Answer:
    """What one session said: its ids without bos and eos, their text, and why it ended."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish: FinishReason | None = None


OnText = Callable[[int, str], None]
"""Called with the number of a sequence and the text that was added to it."""


def decode(
    engine: Engine,
    codec: TextCodec,
    sessions: Sequence[Session],
    options: Sequence[TextOptions],
    *,
    on_text: OnText | None = None,
    on_token: Callable[[], None] | None = None,
    static: bool | None = None,
) -> list[Answer]:
    """Let every session speak until its eos, a stop string, or its limit.

    The sessions then hold bos and all ids but the last, which was never fed; see :func:`join`.

    Args:
        static: fixed shapes and a CUDA graph (:mod:`unimedvl.infer.static`); by default on CUDA, where the sessions
            allow it.
    """
    answers = [Answer() for _ in sessions]
    choosers = [_Chooser(codec, each) for each in options]
    streams = [_Stream(number, each.stop, on_text) for number, each in enumerate(options)]
    budgets = [each.max_new_tokens for each in options]
    _check_positions(engine, sessions, budgets)
    if static is None:
        static = engine.model.device.type == "cuda" and fits(engine, sessions, budgets)
    with torch.inference_mode():
        feeder = StaticDecoder(engine, sessions) if static else _Growing(engine, sessions)
        feed = [codec.special.bos] * len(sessions)
        while active := [number for number, answer in enumerate(answers) if answer.finish is None]:
            logits = feeder.step(feed, [answer.finish is None for answer in answers])
            for number, row in zip(active, _to_host(logits[active], choosers, active), strict=True):
                feed[number] = _accept(answers[number], choosers[number], row, codec.special.eos, streams[number])
            if on_token is not None:
                on_token()
        feeder.finish()
    for stream, answer in zip(streams, answers, strict=True):
        if answer.finish != "stop":
            answer.text = codec.decode(answer.ids)
        stream.show(answer, final=True)
    return answers


def _check_positions(engine: Engine, sessions: Sequence[Session], budgets: Sequence[int]) -> None:
    """Refuse before the first token what would outgrow the model after the last."""
    limit = engine.model.config.llm.max_position_embeddings
    for session, budget in zip(sessions, budgets, strict=True):
        if session.position + budget + 1 > limit:
            raise DataError(
                f"position {session.position} and {budget} new tokens exceed the {limit} the model was made for",
                where="max_new_tokens",
                remedy="shorten the text or ask for fewer new tokens",
            )


class _Growing:
    """Feeds tokens through the packed forward; sessions that are done take no part."""

    def __init__(self, engine: Engine, sessions: Sequence[Session]) -> None:
        self.engine, self.sessions = engine, sessions

    def step(self, tokens: Sequence[int], active: Sequence[bool]) -> Tensor:
        """As :meth:`StaticDecoder.step`; rows of inactive sessions are empty."""
        numbers = [number for number, is_active in enumerate(active) if is_active]
        parts = [[TextSegment((tokens[number],))] for number in numbers]
        output = self.engine.append([self.sessions[number] for number in numbers], parts, logits="last")
        assert output is not None
        assert output.logits is not None
        if len(numbers) == len(active):
            return output.logits
        return output.logits.new_empty(len(active), output.logits.shape[1]).index_copy_(
            0, torch.tensor(numbers, device=output.logits.device), output.logits
        )

    def finish(self) -> None:
        """Nothing is left to do: sessions went on as they were fed."""


def join(engine: Engine, codec: TextCodec, sessions: Sequence[Session], answers: Sequence[Answer]) -> None:
    """Complete the answers in the sessions' contexts, as segments from bos to eos.

    Only what is missing is fed. An answer cut at a stop string has more in the cache than in its text: the tokens that
    reach into what was cut off are taken back first.
    """
    parts = []
    for session, answer in zip(sessions, answers, strict=True):
        if answer.finish == "stop":
            kept = len(answer.ids)
            while len(codec.decode(answer.ids[:kept])) > len(answer.text):
                kept -= 1
            extra = len(answer.ids) - 1 - kept  # bos and all ids but the last are in the context
            mark = session.mark()
            session.truncate(Mark(mark.length - extra, mark.position - extra))
            parts.append([TextSegment((codec.special.eos,))])
        else:
            tail = answer.ids[-1:] if answer.finish == "length" else []
            parts.append([TextSegment((*tail, codec.special.eos))])
    engine.append(sessions, parts)


def _to_host(logits: Tensor, choosers: list[_Chooser], active: list[int]) -> list[Tensor]:
    """Rows of logits; greedy ones are reduced to their largest entry on the device, so that little is copied."""
    if all(choosers[number].plain for number in active):
        limits = {choosers[number].limit for number in active}
        if len(limits) == 1:
            return list(logits[:, : limits.pop()].argmax(dim=-1).cpu())
    return list(logits.float().cpu())


def _accept(answer: Answer, chooser: _Chooser, logits: Tensor, eos: int, stream: _Stream) -> int:
    """Take one token into the answer; return it, to be fed next."""
    token = chooser.choose(logits, answer.ids)
    if token == eos:
        answer.finish = "eos"
        return token
    answer.ids.append(token)
    if chooser.options.stop or stream.on_text is not None:  # else the text is made once, at the end
        answer.text = chooser.codec.decode(answer.ids)
    ends = [place for stop in chooser.options.stop if (place := answer.text.find(stop)) >= 0]
    if ends:
        answer.text, answer.finish = answer.text[: min(ends)], "stop"
    elif len(answer.ids) >= chooser.options.max_new_tokens:
        answer.finish = "length"
    stream.show(answer)
    return token


class _Chooser:
    """Picks the next token of one sequence."""

    def __init__(self, codec: TextCodec, options: TextOptions) -> None:
        self.codec = codec
        self.options = options
        self.limit = None if options.any_id else len(codec.tokenizer)
        self.plain = options.temperature == 0 and options.repetition_penalty == 1
        self.generator = torch.Generator().manual_seed(options.seed)
        self.processors = [] if self.plain else self._processors()

    def _processors(self) -> list[Callable[[Tensor, Tensor], Tensor]]:
        from transformers.generation import logits_process as library

        options, chosen = self.options, []
        if options.repetition_penalty != 1:
            chosen.append(library.RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if options.temperature not in (0, 1):
            chosen.append(library.TemperatureLogitsWarper(options.temperature))
        if options.top_p < 1:
            chosen.append(library.TopPLogitsWarper(options.top_p))
        return chosen

    def choose(self, logits: Tensor, ids: list[int]) -> int:
        """The next token from a row of logits, or from the token that the device chose already."""
        if logits.ndim == 0:
            return int(logits)
        scores = logits[None, : self.limit]
        said = torch.tensor([ids], dtype=torch.int64)
        for process in self.processors:
            scores = process(said, scores)
        if self.options.temperature == 0:
            return int(scores.argmax())
        return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=self.generator))


class _Stream:
    """Hands on what was added to a text, holding back what may still change or begin a stop string."""

    def __init__(self, number: int, stop: tuple[str, ...], on_text: OnText | None) -> None:
        self.number = number
        self.stop = stop
        self.on_text = on_text
        self.shown = 0

    def show(self, answer: Answer, *, final: bool = False) -> None:
        if self.on_text is None:
            return
        text = answer.text if final else answer.text.rstrip(_INCOMPLETE)
        if not final:
            begun = (len(start) for stop in self.stop for start in _starts(stop) if text.endswith(start))
            text = text[: len(text) - max(begun, default=0)]
        if len(text) > self.shown:
            self.on_text(self.number, text[self.shown :])
            self.shown = len(text)


def _starts(stop: str) -> list[str]:
    """All beginnings of a string."""
    return [stop[:end] for end in range(1, len(stop))]
