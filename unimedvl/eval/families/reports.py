"""Reports and captions against references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unimedvl.errors import DataError
from unimedvl.eval import texts
from unimedvl.eval.families.context import Context
from unimedvl.eval.predict import Prediction
from unimedvl.eval.scores import ALL, Item, Score, Scored, groups_of, interval_of
from unimedvl.eval.settings import EvalSettings


def check(settings: EvalSettings) -> None:
    """What the text scores need is there.

    Raises:
        ConfigError: Java, a package or the plug-in is missing.
    """
    if settings.meteor:
        texts.require_meteor()
    if settings.rate:
        texts.named_function(settings.rate, "rate")


def score(predictions: Sequence[Prediction], context: Context) -> Scored:
    """BLEU, ROUGE, METEOR and a plug-in of all and of each section; of kinds and modalities without METEOR."""
    items, scored = scored_texts(predictions, context.settings)
    scores = [each for group, own in scored.items() for each in of_texts(own, group)]
    return Scored(items, scores, scored[ALL].about, [f"{scored[ALL].empty} answers without a word"])


def scored_texts(
    predictions: Sequence[Prediction], settings: EvalSettings
) -> tuple[list[Item], dict[str, texts.TextScores]]:
    """Items with the scores that single texts have, and the scores of every group and section.

    Raises:
        DataError: a row has no reference.
    """
    if silent := [each.row.name for each in predictions if not each.row.truth.strip()]:
        raise DataError("no reference text", where=silent[0], remedy="give every row of this benchmark one")
    options = {"with_meteor": settings.meteor, "rate": settings.rate}

    def of(members: Sequence[Item]) -> tuple[list[str], list[str]]:
        return [m.prediction.text for m in members], [m.prediction.row.truth for m in members]

    plain = [Item(prediction, {}) for prediction in predictions]
    sections = texts.section_scores(*of(plain), **options)
    whole = sections.pop(texts.WHOLE)
    members = {group: own for group, own in groups_of(plain).items() if group != ALL}
    groups = {ALL: whole} | {f"section={name}": each for name, each in sections.items()}
    options["with_meteor"] = False  # ten seconds a group
    groups |= {group: texts.text_scores(*of(own), **options) for group, own in members.items()}
    items = [
        Item(item.prediction, {name: values[number] for name, values in whole.items.items()})
        for number, item in enumerate(plain)
    ]
    return items, groups


def of_texts(scored: texts.TextScores, group: str) -> Iterator[Score]:
    """One score a metric; an interval where single texts have values."""
    for metric, value in scored.values.items():
        # METEOR adds up over the corpus; an interval of the mean over texts would be of another number.
        mean = metric in scored.items and metric != "meteor"
        low, high = interval_of(metric, scored.items[metric]) if mean else (None, None)
        yield Score(metric, value, scored.count, group, low, high)
