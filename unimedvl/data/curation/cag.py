"""Caption Augmented Generation: short captions become full instructions to generate, with a plan in the response.

Three steps, each asked of a language model and checked: the image is described on four levels, the description is
fused with the caption to an instruction, and a response with a plan is written to the instruction. A pair is a pure
function of itself and the replies; with :class:`unimedvl.replies.KeptReplies` a build goes on where it was killed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from unimedvl.data.curation import prompts
from unimedvl.data.curation.pairs import Pair
from unimedvl.data.curation.refine import sides
from unimedvl.endpoint import Messages, Reply
from unimedvl.errors import DataError
from unimedvl.replies import KeptReplies, ask_checked, in_threads

_LEVEL_LEAST = 10  # characters of a level
_DESCRIPTION = (120, 3000)  # characters, as the others
_SHOWN = (20, 1024)  # behind the start phrase; the coarse filter's longest text
_PLAN = (60, 3000)
_CLOSING = (10, 600)


def augment(pair: Pair, ask: Callable[[Messages], Reply], rounds: int = 3) -> tuple[Pair, str]:
    """A pair whose ``question`` is the instruction and whose ``text`` is the response with its plan.

    The caption goes to ``more["caption"]``, the description and the model's name to ``more["cag"]``.

    Args:
        ask: as :meth:`unimedvl.replies.KeptReplies.ask`.
        rounds: replies for each step, at most; a reply that fails its check is asked for again with the fault named.

    Returns:
        The new pair and an empty text; or the pair as it was and the reason, which begins with the step, or with
        ``endpoint`` after it where no reply came and a later run may have more luck.

    Raises:
        ConfigError: the endpoint refuses whatever is asked.
    """
    if missing := _missing(pair):
        return pair, missing
    try:
        messages = prompts.to_describe(pair.modality, pair.picture)
    except DataError as error:
        return pair, f"image: {error}"
    described, reason = ask_checked(ask, messages, description_fault, rounds)
    if described is None:
        return pair, f"description: {reason}"
    description = prompts.bare(described.text)
    check = partial(instruction_fault, modality=pair.modality, caption=pair.text)
    fused, reason = ask_checked(ask, prompts.to_fuse(pair.modality, description, pair.text), check, rounds)
    if fused is None:
        return pair, f"instruction: {reason}"
    start = prompts.start_phrase(pair.modality)
    instruction = start + prompts.bare(fused.text)[len(start) :]
    response, reason = ask_checked(ask, prompts.to_respond(instruction), response_fault, rounds)
    if response is None:
        return pair, f"response: {reason}"
    plan, closing, _ = prompts.planned(response.text)
    made = {"description": description, "model": response.model}
    more = {**pair.more, "caption": pair.text, "cag": made}
    return replace(pair, question=instruction, text=f"<think>{plan}</think> {closing}", more=more), ""


def augment_all(
    pairs: Sequence[Pair], replies: KeptReplies, *, workers: int = 8, rounds: int = 3
) -> list[tuple[Pair, str]]:
    """:func:`augment` for each pair, in their order, several at a time.

    Raises:
        ConfigError: the endpoint refuses whatever is asked; replies that came are kept.
    """
    return in_threads(lambda pair: augment(pair, replies.ask, rounds), pairs, workers)


def _missing(pair: Pair) -> str:
    """What a pair lacks to be augmented; empty if it lacks nothing."""
    if "cag" in pair.more:
        return "is augmented already"
    lacking = {"caption": pair.text.strip(), "image": pair.picture, "modality": pair.modality.strip()}
    return next((f"no {name}" for name, value in lacking.items() if not value), "")


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
