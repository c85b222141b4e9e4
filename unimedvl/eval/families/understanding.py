"""Questions about images: right, wrong, or matching nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unimedvl.errors import ConfigError
from unimedvl.eval.exact import token_f1, token_recall
from unimedvl.eval.families.context import Context
from unimedvl.eval.judge import Judge, KeptJudge
from unimedvl.eval.matching import verdict
from unimedvl.eval.predict import Prediction
from unimedvl.eval.scores import Item, Scored, means
from unimedvl.eval.settings import EvalSettings


def check(settings: EvalSettings) -> None:
    """A judge has an endpoint and a model.

    Raises:
        ConfigError: it has one of them only.
    """
    if bool(settings.judge.url) != bool(settings.judge.model):
        raise ConfigError("half of a judge", where="judge", remedy="give judge.url= and judge.model=, or neither")


def score(predictions: Sequence[Prediction], context: Context) -> Scored:
    """Accuracy of all, of closed and of open questions; token recall of open ones; a judge's view if there is one."""
    items = [_item(prediction) for prediction in predictions]
    protocol: dict[str, Any] = {"matching": "rules of unimedvl.eval.matching, offline"}
    if context.settings.judge.url:
        items, protocol["judge"] = _judged(items, context)
    return Scored(items, means(items), protocol)


def _item(prediction: Prediction) -> Item:
    row, answer = prediction.row, prediction.text
    found = "failed" if prediction.error is not None else verdict(row, answer)
    right = float(found == "right")
    scores = {"accuracy": right, "unmatched": float(found == "unmatched")}
    if row.options or row.closed:
        scores["closed_accuracy"] = right
    elif row.closed is False:
        scores["open_accuracy"] = right
        scores["open_recall"] = max(token_recall(answer, truth) for truth in row.truths)
        scores["open_f1"] = max(token_f1(answer, truth) for truth in row.truths)
    return Item(prediction, scores, {"verdict": found})


def _judged(items: Sequence[Item], context: Context) -> tuple[list[Item], dict[str, Any]]:
    """Every item with the judge's score, and what is to be known of the judge."""
    settings = context.settings.judge
    judge = Judge(settings.url, settings.model, key_variable=settings.key)
    judged, versions = [], set()
    with KeptJudge(judge, context.out / "judge.jsonl") as kept:
        for item in items:
            row = item.prediction.row
            said = kept.verdict(row.prompt, row.truths, item.prediction.text)
            versions.add((said.answered_by, said.fingerprint))
            scores = {**item.scores, "judged": float(said.verdict == "right")}
            more = {**item.more, "judge": said.verdict, "judge_reply": said.reply}
            judged.append(Item(item.prediction, scores, more))
    about = {"url": judge.url, "model": judge.model, "prompt": judge.prompt, "prompt_sha256": judge.prompt_sha256}
    return judged, {**about, "answered_by": sorted(versions)}
