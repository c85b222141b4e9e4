"""Template texts in a language model's words, if no fact is lost on the way; else the template stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from unimedvl.data.curation import prompts
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.facts import lost, own_words
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.templates import missing, values_of
from unimedvl.endpoint import Messages, Reply
from unimedvl.replies import Problem, ask_checked

STAGE = "refine"
_KINDS = {"question": "instruction", "text": "response"}


def noted(before: Pair, worded: Pair) -> Pair:
    """A pair that templates worded, with those of its texts that it had not before in ``more["templates"]``."""
    drawn = {name: getattr(worded, name) for name in _KINDS if getattr(worded, name) and not getattr(before, name)}
    return replace(worded, more={**worded.more, "templates": drawn}) if drawn else worded


def from_templates(pair: Pair) -> bool:
    """Whether a text of a pair is to be refined: one that still is what templates gave."""
    return bool(_drawn(pair))


def refine(pair: Pair, ask: Callable[[Messages], Reply], rounds: int = 3) -> tuple[Pair, Decision]:
    """A pair whose texts of templates are in a language model's words.

    Each is taken only if :func:`refinement_fault` finds nothing; otherwise it stays. What templates gave remains in
    ``more["templates"]``, and the model's name goes to ``more["refined"]``.

    Args:
        ask: as :meth:`unimedvl.replies.KeptReplies.ask`.
        rounds: replies for each text, at most; one that fails is asked for again with the fault named.

    Returns:
        The pair, kept if all its texts are new, flagged if one had to stay.

    Raises:
        ConfigError: the endpoint refuses whatever is asked.
        UnreachedError: no reply came.
    """
    new: dict[str, str] = {}
    reasons, details, model = [], [], ""
    for name, old in _drawn(pair).items():
        kind, check = _KINDS[name], partial(refinement_fault, old, values=values_of(pair))
        reply = ask_checked(ask, prompts.to_refine(kind, old), check, rounds)
        if isinstance(reply, Problem):
            reasons.append(f"{kind} {reply.kind}")
            details.append(f"{kind}: {reply.text}")
        else:
            new[name], model = prompts.bare(reply.text), reply.model
    made = replace(pair, **new, more={**pair.more, "refined": {"model": model}}) if new else pair
    if reasons:
        return made, Decision(pair.id, STAGE, "flag", ", ".join(reasons), "; ".join(details))
    return made, Decision(pair.id, STAGE, "keep", "refined", f"by {model}")


def _drawn(pair: Pair) -> dict[str, str]:
    texts = pair.more.get("templates", {})
    return {name: texts[name] for name in _KINDS if texts.get(name) and texts[name] == getattr(pair, name)}


def refinement_fault(old: str, text: str, values: Mapping[str, str] | None = None) -> str:
    """What is wrong with a rewriting, as a clause; empty if nothing is.

    Args:
        values: facts of the pair, see :func:`unimedvl.data.curation.templates.values_of`. Those that stand in the old
            text must stand in the new one, in the same words unless :mod:`unimedvl.data.curation.facts` knows others.
    """
    new = prompts.bare(text)
    if not new:
        return "it is empty"
    if words := prompts.refusal(new):
        return f"it declines ({words!r})"
    if "\n" in new and "\n" not in old:
        return "it has several paragraphs"
    if old.count("<image>") != new.count("<image>"):
        return "the marks <image> are not the same"
    return (
        prompts.length_fault("it", new, len(old) // 3, 3 * len(old) + 100) or lost(old, new) or _gone(old, new, values)
    )


def _gone(old: str, new: str, values: Mapping[str, str] | None) -> str:
    for name, value in (values or {}).items():
        stands = name != "change" and not missing(old, {name: value})
        if stands and own_words(value) - own_words(new):
            return f"the {name.replace('_', ' ')} {value!r} is lost"
    return ""
