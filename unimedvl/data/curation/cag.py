"""Caption Augmented Generation: short captions become full instructions to generate, with a plan in the response.

Three steps, each asked of a language model and checked: the image is described on four levels, the description is
fused with the caption to an instruction, and a response with a plan is written to the instruction. A pair is a pure
function of itself and the replies; with :class:`unimedvl.replies.KeptReplies` a build goes on where it was killed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from unimedvl.data.curation import prompts
from unimedvl.data.curation.decisions import Decision
from unimedvl.data.curation.facts import sides
from unimedvl.data.curation.pairs import Pair
from unimedvl.endpoint import Messages, Reply
from unimedvl.errors import DataError
from unimedvl.replies import Problem, ask_checked

STAGE = "augment"

_LEVEL_LEAST = 10  # characters of a level
_DESCRIPTION = (120, 3000)  # characters, as the others
_SHOWN = (20, 1024)  # behind the start phrase; the coarse filter's longest text
_PLAN = (60, 3000)
_CLOSING = (10, 600)


def captioned(pair: Pair) -> bool:
    """Whether a pair is to be augmented: text-to-image by a caption, without an instruction of its own."""
    return pair.family == "t2i" and not pair.question.strip() and "turns" not in pair.more


def augment(pair: Pair, ask: Callable[[Messages], Reply], rounds: int = 3) -> tuple[Pair, Decision]:
    """A pair whose ``question`` is the instruction and whose ``text`` is the response with its plan.

    The caption goes to ``more["caption"]``, the description and the model's name to ``more["cag"]``.

    Args:
        ask: as :meth:`unimedvl.replies.KeptReplies.ask`.
        rounds: replies for each step, at most; a reply that fails its check is asked for again with the fault named.

    Returns:
        The new pair, kept; or the pair as it was, flagged for the step that failed.

    Raises:
        ConfigError: the endpoint refuses whatever is asked.
        UnreachedError: no reply came.
    """

    def failed(reason: str, detail: str = "") -> tuple[Pair, Decision]:
        return pair, Decision(pair.id, STAGE, "flag", reason, detail)

    if lacking := _lacking(pair):
        return failed(f"no {lacking}")
    try:
        messages = prompts.to_describe(pair.modality, pair.picture)
    except DataError as error:
        return failed("unreadable image", str(error))
    described = ask_checked(ask, messages, description_fault, rounds)
    if isinstance(described, Problem):
        return failed(f"description {described.kind}", described.text)
    description = prompts.bare(described.text)
    check = partial(instruction_fault, modality=pair.modality, caption=pair.text)
    fused = ask_checked(ask, prompts.to_fuse(pair.modality, description, pair.text), check, rounds)
    if isinstance(fused, Problem):
        return failed(f"instruction {fused.kind}", fused.text)
    start = prompts.start_phrase(pair.modality)
    instruction = start + prompts.bare(fused.text)[len(start) :]
    response = ask_checked(ask, prompts.to_respond(instruction), response_fault, rounds)
    if isinstance(response, Problem):
        return failed(f"response {response.kind}", response.text)
    plan, closing, _ = prompts.planned(response.text)
    made = {"description": description, "model": response.model}
    more = {**pair.more, "caption": pair.text, "cag": made}
    new = replace(pair, question=instruction, text=f"<think>{plan}</think> {closing}", more=more)
    return new, Decision(pair.id, STAGE, "keep", "augmented", f"by {response.model}")


def _lacking(pair: Pair) -> str:
    """The first thing that a pair needs to be augmented and has not; empty if it has all."""
    needed = {"caption": pair.text.strip(), "image": pair.picture, "modality": pair.modality.strip()}
    return next((name for name, value in needed.items() if not value), "")


def description_fault(text: str) -> str:
    """What is wrong with a description on four levels, as a clause; empty if nothing is."""
    text = prompts.bare(text)
    if words := prompts.refusal(text):
        return f"it declines ({words!r})"
    names = "|".join(prompts.LEVELS)
    parts = re.split(rf"^[\s\d.)*#-]*({names})\s*\**\s*:", text, flags=re.M)
    if tuple(parts[1::2]) != prompts.LEVELS:
        return f"its lines do not begin with {', '.join(f'{name}:' for name in prompts.LEVELS)} in this order"
    for name, said in zip(parts[1::2], parts[2::2], strict=True):
        if len(said.strip(" *\n")) < _LEVEL_LEAST:
            return f"{name} says nothing"
    return prompts.length_fault("it", text, *_DESCRIPTION) or prompts.said_badly(text)


def instruction_fault(text: str, modality: str, caption: str) -> str:
    """What is wrong with an instruction, as a clause; empty if nothing is.

    Letters of the start phrase may be of another case; of the caption's sides, left and right, none may be lost.
    """
    text, start = prompts.bare(text), prompts.start_phrase(modality)
    if not text.casefold().startswith(start.casefold()):
        return prompts.said_badly(text[:200]) or f"it does not begin with {start!r}"
    shown = text[len(start) :]
    if not re.match(r":?\s+\S", shown):
        return f"nothing follows {start!r}"
    if "\n" in shown.strip() or re.search(r"</?think>", shown):
        return "it is not one paragraph of plain text"
    if lost := sorted(sides(caption) - sides(shown)):
        return f"the caption's {lost[0]!r} is lost"
    return prompts.length_fault("its content", shown.strip(), *_SHOWN) or prompts.said_badly(shown)


def response_fault(text: str) -> str:
    """What is wrong with a response that has a plan, as a clause; empty if nothing is."""
    plan, closing, fault = prompts.planned(text)
    if fault:
        return prompts.said_badly(text) if prompts.refusal(text) else fault
    return (
        prompts.length_fault("the plan", plan, *_PLAN)
        or prompts.length_fault("what follows the plan", closing, *_CLOSING)
        or prompts.said_badly(plan)
        or prompts.said_badly(closing)
    )
