"""Replies of an endpoint, kept in a journal so that nothing is asked twice; counted, checked, and several at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from unimedvl.endpoint import Endpoint, Messages, RefusedError, Reply, UnreachedError, UnusableError, user
from unimedvl.errors import ConfigError, DataError
from unimedvl.files import append, locked, read_journal

T = TypeVar("T")
U = TypeVar("U")
Trouble = Literal["unreached", "garbled", "refused", "faulty"]

_STREAK = 20  # requests in a row without a reply that can be used, after which none is expected
CORRECTION = "Your reply cannot be used: {fault}. Write the whole reply again, without this fault."


@dataclass(frozen=True)
class Cost:
    """What one run has asked.

    Attributes:
        asked: replies that were asked for and came; ``reused``: that were known before; ``failed``: that did not come.
        prompt_tokens, completion_tokens: of the replies that came; ``unmetered``: replies without these numbers.
    """

    asked: int = 0
    reused: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    unmetered: int = 0

    def price(self, input_price: float, output_price: float) -> float:
        """What the tokens cost, at prices per million tokens."""
        return (self.prompt_tokens * input_price + self.completion_tokens * output_price) / 1e6

    def summary(self, input_price: float | None = None, output_price: float | None = None) -> str:
        """One line; with the price if both prices per million tokens are given."""
        line = (
            f"{self.asked:,} asked, {self.reused:,} known before, {self.failed:,} failed; "
            f"{self.prompt_tokens:,} tokens in, {self.completion_tokens:,} out"
        )
        line += f" ({self.unmetered:,} replies do not tell)" if self.unmetered else ""
        if input_price is None or output_price is None:
            return line
        return f"{line}; {self.price(input_price, output_price):,.4f} at {input_price:g} and {output_price:g} a million"


@dataclass(frozen=True)
class Problem:
    """Why there is no reply that can be used.

    Attributes:
        kind: ``unreached``: none came, and a later run may have more luck; ``garbled``: what came holds no text;
            ``refused``: the endpoint does not take this request; ``faulty``: the text did not pass its check.
    """

    text: str
    kind: Trouble


class KeptReplies:
    """An endpoint that is asked nothing twice: not in this run, not in a later one, not by two threads at once.

    Every reply is a line of a journal and on disk before it is handed out; failures are not kept. Of a line that a
    kill cut off the question is asked again. Any number of threads may ask, but only one process. Replies are held
    in memory.

    Args:
        path: the journal; is made, with its folders, if it does not exist.

    Raises:
        DataError: a line of the journal is no reply, or another process writes there.
    """

    def __init__(self, endpoint: Endpoint, path: Path) -> None:
        self.endpoint = endpoint
        self.path = path
        with ExitStack() as held:
            if not held.enter_context(locked(path)):
                remedy = "wait for it, or give each process a journal of its own"
                raise DataError("another process keeps its replies here", where=str(path), remedy=remedy)
            self._kept = _kept(path)
            self._file = held.enter_context(path.open("a", encoding="utf-8"))
            self._held = held.pop_all()
        self._asking: dict[str, Future[Reply]] = {}
        self._lock = threading.Lock()
        self._streak = 0
        self._refused = 0
        self._cost = Cost()

    @property
    def cost(self) -> Cost:
        """Of this run so far."""
        return self._cost

    def ask(self, messages: Messages, *, seed: int | None = None) -> Reply:
        """As :meth:`Endpoint.ask`, or what was said before.

        Raises:
            ConfigError: as there, or the journal cannot be written; or there never was a reply, and so many requests
                were refused that all are expected to be.
            DataError: as there; or so many requests in a row got no usable reply that this one was not sent.
        """
        key = self.endpoint.key(messages, seed=seed)
        with self._lock:
            if reply := self._kept.get(key):
                self._cost = replace(self._cost, reused=self._cost.reused + 1)
                return reply
            other = self._asking.get(key)
            mine: Future[Reply] = Future()
            if other is None:
                self._asking[key] = mine
        if other is not None:
            return other.result()
        try:
            self._check_hope()
            reply = self.endpoint.ask(messages, seed=seed)
            self._keep(key, reply)
        except BaseException as error:
            self._fail(key, error)
            mine.set_exception(error)
            raise
        mine.set_result(reply)
        return reply

    def ask_all(self, requests: Sequence[Messages], workers: int = 8) -> list[Reply | Problem]:
        """Replies in the order of the requests, several asked at a time; a problem where there is none.

        Raises:
            ConfigError: the endpoint refuses whatever is asked; replies that came are kept.
        """

        def one(messages: Messages) -> Reply | Problem:
            try:
                return self.ask(messages)
            except (UnreachedError, UnusableError, RefusedError) as error:
                return _problem(error)

        return in_threads(one, requests, workers)

    def close(self) -> None:
        """Let go of the journal."""
        self._held.close()

    def __enter__(self) -> KeptReplies:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_hope(self) -> None:
        """Refused requests end nothing where others are answered, since each is refused for what stands in it."""
        if self._streak >= _STREAK:
            problem = f"not asked: {_STREAK} requests in a row got no usable reply"
            raise UnreachedError(problem, where=self.endpoint.url, remedy="run it again when the endpoint answers")
        if self._refused >= _STREAK and not self._kept:
            problem = f"all of the first {_STREAK} requests were refused"
            remedy = "check that the model takes what is asked, such as images"
            raise ConfigError(problem, where=f"{self.endpoint.model} at {self.endpoint.url}", remedy=remedy)

    def _keep(self, key: str, reply: Reply) -> None:
        with self._lock:
            try:
                append(self._file, {"key": key, **asdict(reply)})
            except OSError as error:
                problem = f"a reply cannot be kept: {error.strerror}"
                raise ConfigError(problem, where=str(self.path), remedy="make room, and run it again") from error
            self._kept[key] = reply
            del self._asking[key]
            self._streak = 0
            cost, told = self._cost, (reply.prompt_tokens, reply.completion_tokens)
            self._cost = replace(
                cost,
                asked=cost.asked + 1,
                prompt_tokens=cost.prompt_tokens + (told[0] or 0),
                completion_tokens=cost.completion_tokens + (told[1] or 0),
                unmetered=cost.unmetered + (None in told),
            )

    def _fail(self, key: str, error: BaseException) -> None:
        with self._lock:
            self._asking.pop(key, None)
            self._cost = replace(self._cost, failed=self._cost.failed + 1)
            self._streak += isinstance(error, UnreachedError | UnusableError)
            self._refused += isinstance(error, RefusedError)


def ask_checked(
    ask: Callable[[Messages], Reply], messages: Messages, fault: Callable[[str], str], rounds: int = 3
) -> Reply | Problem:
    """Ask, and ask again with the fault named, until a reply has none.

    Args:
        fault: what is wrong with a text, as a clause; empty if nothing is.
        rounds: replies, at most.

    Returns:
        The reply; or why the request, which the endpoint answers, has none that can be used.

    Raises:
        ConfigError: the endpoint refuses whatever is asked.
        UnreachedError: no reply came, which says nothing about this request.
    """
    said, problem = list(messages), ""
    for _ in range(rounds):
        try:
            reply = ask(said)
        except (UnusableError, RefusedError) as error:
            return _problem(error)
        problem = "it is cut off at the limit of tokens" if reply.finish == "length" else fault(reply.text)
        if not problem:
            return reply
        correction = user(CORRECTION.format(fault=problem))
        said = [*said, {"role": "assistant", "content": reply.text or "(nothing)"}, correction]
    return Problem(f"{problem} (after {rounds} replies)", "faulty")


def _problem(error: UnreachedError | UnusableError | RefusedError) -> Problem:
    kinds: dict[type[Exception], Trouble] = {UnreachedError: "unreached", UnusableError: "garbled"}
    return Problem(str(error), kinds.get(type(error), "refused"))


def in_threads(work: Callable[[T], U], items: Iterable[T], workers: int) -> list[U]:
    """What ``work`` makes of the items, in their order, several at a time.

    An exception of ``work`` ends it: what has begun is finished, the rest is left.

    Raises:
        ConfigError: ``workers`` is under 1.
    """
    if workers < 1:
        raise ConfigError(f"{workers} workers", where="workers", remedy="give 1 or more")
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def all_answered(work: Callable[[T], U], items: Sequence[T], workers: int, what: str) -> list[U]:
    """As :func:`in_threads`; but items to which no reply came end it only when all others are done.

    Args:
        what: the items are called.

    Raises:
        UnreachedError: no reply came for some; told are how many and why.
    """

    def one(item: T) -> U | UnreachedError:
        try:
            return work(item)
        except UnreachedError as error:
            return error

    done, missing = [], []
    for result in in_threads(one, items, workers):
        (missing if isinstance(result, UnreachedError) else done).append(result)
    if missing:
        problem = f"{len(missing)} of {len(items)} {what} got no reply: {missing[0].problem}"
        remedy = "start the same again when it answers; it goes on there, and no reply that came is asked for twice"
        raise UnreachedError(problem, where=missing[0].where, remedy=remedy)
    return done


def kept_cost(path: Path) -> Cost:
    """What the replies of a journal have cost, whichever run they came in; ``asked`` is their number.

    Raises:
        DataError: a line of the journal is no reply.
    """
    replies = _kept(path, mend=False).values()
    return Cost(
        asked=len(replies),
        prompt_tokens=sum(reply.prompt_tokens or 0 for reply in replies),
        completion_tokens=sum(reply.completion_tokens or 0 for reply in replies),
        unmetered=sum(None in (reply.prompt_tokens, reply.completion_tokens) for reply in replies),
    )


def _kept(path: Path, *, mend: bool = True) -> dict[str, Reply]:
    """Replies of a journal by key; a torn last line is cut off, or passed over."""
    kept = {}
    for number, record in enumerate(read_journal(path, mend=mend), 1):
        try:
            key = record.pop("key")
            kept[key] = Reply(**record)
        except (TypeError, KeyError) as error:
            where = f"{path}, line {number}"
            raise DataError("no reply", where=where, remedy="take the line out, or name another file") from error
    return kept
