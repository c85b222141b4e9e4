"""Whether an endpoint that refuses requests takes any at all: if not, pairs are not to be marked for its sake."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from unimedvl.endpoint import Messages, RefusedError, Reply, UnusableError
from unimedvl.errors import ConfigError

_FEW = 5  # items that may all be refused, each for what stands in it


class Trial:
    """Asks for one of several items, and remembers whether the endpoint took any of its requests.

    Args:
        ask: as :meth:`unimedvl.replies.KeptReplies.ask`.
    """

    def __init__(self, ask: Callable[..., Reply]) -> None:
        self._ask = ask
        self.taken = False
        self.refusal: RefusedError | None = None

    def __call__(self, messages: Messages, *, seed: int | None = None) -> Reply:
        """The reply; raises what ``ask`` raises."""
        try:
            reply = self._ask(messages, seed=seed)
        except RefusedError as error:
            self.refusal = error
            raise
        except UnusableError:
            self.taken = True
            raise
        self.taken = True
        return reply


def check_taken(trials: Iterable[Trial], what: str) -> None:
    """Refuse to go on where some items were asked for and each was refused: that is no fault of theirs.

    Args:
        what: the items are called.

    Raises:
        ConfigError: there are five such items or more, and no other of which a request was taken.
    """
    trials = list(trials)
    refusals = [trial.refusal for trial in trials if trial.refusal is not None]
    if len(refusals) < _FEW or any(trial.taken for trial in trials):
        return
    problem = f"all requests for {len(refusals)} {what} were refused: {refusals[0].problem}"
    remedy = "check that the model takes what is asked, such as images, and start the same again"
    raise ConfigError(problem, where=refusals[0].where, remedy=remedy)
