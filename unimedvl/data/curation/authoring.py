"""A language model's part in a corpus: stages that write instructions, reasoning and other words for what stays.

Each use is a stage of its own, switched on apart, behind any endpoint that speaks OpenAI's chat protocol::

    python -m unimedvl.data curate config=configs/curation/language_model.yaml authoring.url=http://localhost:8000/v1

One process asks, in threads, since endpoints are waited for; ``workers`` change nothing here. Replies are kept in
``work/replies`` of the corpus, a journal for each use, and no run asks for them again, whatever other settings have
become. They were paid for: keep that folder when the rest of ``work`` is removed. Images and texts of pairs are sent to
the address, but of those that the guard of privacy has flagged only where ``send_flagged`` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from unimedvl.data.curation import prompts
from unimedvl.data.curation.backends import EndpointCaptioner, address_of
from unimedvl.data.curation.cag import augment, captioned
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.own_model import seed_of
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.privacy import found_in
from unimedvl.data.curation.refine import from_templates, refine
from unimedvl.data.curation.refusals import Trial, check_taken
from unimedvl.data.curation.stages import Bar, Outcome, Stage, work
from unimedvl.data.curation.thinking import answered, think
from unimedvl.endpoint import Endpoint, Messages, Reply
from unimedvl.errors import ConfigError
from unimedvl.replies import Cost, KeptReplies, all_answered, kept_cost

Use = Literal["augment", "reason", "refine"]
Tell = Callable[[str], Any]
_Ask = Callable[[Messages], Reply]

REPLIES, CAPTIONS = "replies", "captions"
_LIVELY = 0.7  # temperature at which the captions of one image differ
# Which pairs a use is about, and what makes one anew.
_USES: dict[Use, tuple[Callable[[Pair], bool], Callable[[Pair, _Ask, int], tuple[Pair, Decision]]]] = {
    "augment": (captioned, augment),
    "reason": (answered, think),
    "refine": (from_templates, refine),
}


@dataclass(frozen=True)
class AuthoringSettings:
    """Which language model writes, and what.

    Attributes:
        url: of an endpoint, up to the version, such as ``http://localhost:8000/v1``.
        model: as the endpoint calls it; one that sees images for ``augment`` and ``reason``.
        key_variable: environment variable with the key; also of an endpoint that writes captions for the alignment,
            as are ``timeout``, ``attempts``, ``pause`` and ``threads``.
        timeout: seconds without a byte from the endpoint before a request is given up.
        attempts: requests for one reply, at most.
        pause: seconds before the second request, doubled before each further one.
        temperature: None leaves it to the endpoint. At 0 equal templates get equal words, asked for once; above, each
            pair is asked with a seed of its own.
        max_tokens: of a reply; None leaves it to the endpoint.
        threads: requests at once.
        rounds: replies for each text, at most; one that fails its check is asked for again with the fault named.
        input_price, output_price: per million tokens, in any currency, for the line of costs; both or none.
        augment: Caption Augmented Generation of text-to-image pairs that have a caption, an image and a modality.
        reason: reasoning before the short answers to questions, in training pairs only; an answer of the model that is
            not the truth leaves the pair as it was.
        refine: other words for texts that templates gave.
        send_flagged: also pairs that the guard of privacy has flagged, to this endpoint and to one that writes
            captions; else they stay as they are.
    """

    url: str = ""
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    attempts: int = 5
    pause: float = 1.0
    temperature: float | None = 0.0
    max_tokens: int | None = None
    threads: int = 8
    rounds: int = 3
    input_price: float | None = None
    output_price: float | None = None
    augment: bool = False
    reason: bool = False
    refine: bool = False
    send_flagged: bool = False

    def __post_init__(self) -> None:
        for name in ("threads", "rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}", where="authoring", remedy="give 1 or more")
        prices = [price for price in (self.input_price, self.output_price) if price is not None]
        if len(prices) == 1 or any(not price >= 0 for price in prices):
            problem = f"input_price is {self.input_price}, output_price is {self.output_price}"
            raise ConfigError(problem, where="authoring", remedy="give both, 0 or more, or none")
        if self.uses and not (self.url and self.model):
            problem = f"{', '.join(self.uses)} without a language model"
            raise ConfigError(problem, where="authoring", remedy="give authoring.url and authoring.model")
        # Checks the numbers, with or without an address.
        Endpoint(self.url or "http://localhost", self.model, name="authoring", **self._asked, **self.patience)

    @property
    def uses(self) -> tuple[Use, ...]:
        """What is switched on, in the order of the stages."""
        return tuple(use for use in get_args(Use) if getattr(self, use))

    @property
    def endpoint(self) -> Endpoint:
        """The language model; only where there is a ``url``."""
        return Endpoint(self.url, self.model, name="language model", **self._asked, **self.patience)

    @property
    def patience(self) -> dict[str, Any]:
        """How an endpoint is asked, as its settings; none of them changes replies."""
        return {name: getattr(self, name) for name in ("key_variable", "timeout", "attempts", "pause")}

    @property
    def _asked(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "max_tokens": self.max_tokens}

    def decisive(self, use: Use, seed: int) -> dict[str, Any]:
        """What changes the texts of a use; address, key, patience and prices do not."""
        drawn = {"seed": seed} if self.temperature else {}
        return {
            "model": self.model,
            **self._asked,
            **drawn,
            "rounds": self.rounds,
            "prompts": prompts.version(use),
            "send_flagged": self.send_flagged,
        }


def author(
    stage: Stage,
    before: Sequence[Path],
    use: Use,
    settings: AuthoringSettings,
    *,
    seed: int,
    withheld: Set[str] = frozenset(),
    folder: Path,
    bar: Bar,
    tell: Tell,
) -> None:
    """Carry out the work of the parts that are missing, and tell what it cost.

    Args:
        withheld: ids of pairs that are not sent.
        folder: of the replies, see :func:`asking`.

    Raises:
        ConfigError: the endpoint refuses whatever is asked, if only for a part, which is not finished.
        UnreachedError: no reply came to some pairs of a part; it is not finished, but all other replies are kept.
    """
    if all((stage.folder / part.name).exists() for part in before):
        return
    with asking(settings.endpoint, use, settings, folder, tell) as replies:
        work(stage, before, partial(_authored, use, replies, settings, seed, withheld), workers=1, bar=bar)


@contextmanager
def asking(
    endpoint: Endpoint, name: str, settings: AuthoringSettings, folder: Path, tell: Tell
) -> Iterator[KeptReplies]:
    """An endpoint whose replies are kept in the journal of this name; at the end it is told what was asked."""
    with KeptReplies(endpoint, _journal(folder, name)) as replies:
        try:
            yield replies
        finally:
            prices = (settings.input_price, settings.output_price) if endpoint.model == settings.model else ()
            if replies.cost != Cost():
                tell(f"{name}: {replies.cost.summary(*prices)}")


@contextmanager
def captioning(spec: str, settings: AuthoringSettings, folder: Path, tell: Tell) -> Iterator[EndpointCaptioner | None]:
    """The captioner behind an endpoint; None where the word names one that runs here, in each process its own."""
    address = address_of(spec)
    if address is None:
        yield None
        return
    endpoint = Endpoint(*address, temperature=_LIVELY, name="captioner", **settings.patience)
    with asking(endpoint, CAPTIONS, settings, folder, tell) as replies:
        yield EndpointCaptioner(replies, settings.threads)


def spent(folder: Path) -> dict[str, Cost]:
    """What the replies of a corpus have cost, over all runs, by use and ``captions``; no more than there were.

    Args:
        folder: of the replies, ``work/replies`` of the corpus.
    """
    names = (*get_args(Use), CAPTIONS)
    costs = {name: kept_cost(_journal(folder, name)) for name in names if _journal(folder, name).exists()}
    return {name: cost for name, cost in costs.items() if cost.asked}


def _authored(
    use: Use, replies: KeptReplies, settings: AuthoringSettings, seed: int, withheld: Set[str], pairs: list[Pair]
) -> Outcome:
    """A part, with one decision for each pair that the use is about."""
    concerned, make = _USES[use]

    about = [pair for pair in pairs if concerned(pair)]
    trials = {pair.id: Trial(replies.ask) for pair in about if pair.id not in withheld}

    def one(pair: Pair) -> tuple[Pair, Decision]:
        own = seed_of(seed, pair.id, 0) % 2**31 if settings.temperature else None
        return _guarded(pair, *make(pair, partial(trials[pair.id], seed=own), settings.rounds))

    done = all_answered(one, [pair for pair in about if pair.id in trials], settings.threads, "pairs")
    check_taken(trials.values(), "pairs")
    made = {pair.id: pair for pair, _ in done}
    unsent = [not_sent(pair, use) for pair in about if pair.id in withheld]
    return Outcome([made.get(pair.id, pair) for pair in pairs], [*(decision for _, decision in done), *unsent])


def not_sent(pair: Pair, stage: str) -> Decision:
    """That a pair stays as it is, since the guard of privacy has flagged it."""
    return Decision(pair.id, stage, "flag", "not sent", "the guard of privacy has flagged it")


def _guarded(before: Pair, made: Pair, decision: Decision) -> tuple[Pair, Decision]:
    """No new text may say more about who a patient is than the old ones, such as a name that stands in the image.

    Nor may the record of decisions, where details quote what a model said.
    """
    known = found_in(f"{before.question}\n{before.text}")
    if told := sorted(found_in(f"{made.question}\n{made.text}").keys() - known.keys()):
        detail = f"{', '.join(told)} in the new text"
        return before, Decision(before.id, decision.stage, "flag", "personal facts", detail)
    told = sorted(found_in(decision.detail)) if decision.action == "flag" else []
    return made, replace(decision, detail=f"withheld: {', '.join(told)}") if told else decision


def _journal(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"
