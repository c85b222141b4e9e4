"""Scores as tables: for a terminal, for Markdown, and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from unimedvl.eval.published import NAME, published
from unimedvl.eval.scores import ALL, METRICS

Result = Mapping[str, Any]


def terminal(result: Result) -> str:
    """The scores of one result, the paper's numbers beside them."""
    return "\n".join(_terminal(result))


def _terminal(result: Result) -> Iterator[str]:
    about, scores = result["about"], result["scores"]
    yield f"{about['benchmark']}: {result['count']} predictions of {about['model']}, {result['errors']} failed"
    whole = [score for score in scores if score["group"] == ALL]
    paper = [_published(result, score["metric"], ALL) for score in whole]
    spread = "range" if about["family"] == "efficiency" else "95 % interval"
    head = f"{'metric':46}{'value':>9}{spread:>19}{'rows':>7}"
    yield head + ("   paper" if any(value is not None for value in paper) else "")
    for score, reference in zip(whole, paper, strict=True):
        interval = "" if score["low"] is None else f"{number(score, 'low')} to {number(score, 'high')}"
        line = f"{METRICS[score['metric']].label:46}{number(score):>9}{interval:>19}{score['count']:7d}"
        yield line + (f"{_digits(score['metric'], reference):>8}" if reference is not None else "")
    yield from _groups(result, [score for score in scores if score["group"] != ALL])
    yield from result["notes"]


def _published(result: Result, metric: str, group: str) -> float | None:
    """The paper's number; none for distances between features of another extractor than the FID's own."""
    extractor = result["about"].get("protocol", {}).get("extractor", {}).get("name", "")
    if METRICS[metric].extractor and not extractor.startswith("inception"):
        return None
    return published(result["about"]["benchmark"], metric, group)


def _groups(result: Result, scores: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line a group, one column a metric and one for the paper's numbers, for each sort of groups."""
    for sort in dict.fromkeys(_sort(score["group"]) for score in scores):
        own = [score for score in scores if _sort(score["group"]) == sort]
        metrics = list(dict.fromkeys(score["metric"] for score in own))
        groups = list(dict.fromkeys(score["group"] for score in own))
        yield ""
        found = {(score["group"], score["metric"]): score for score in own}
        columns = [
            [
                METRICS[metric].short or metric,
                *(number(found[group, metric]) if (group, metric) in found else "" for group in groups),
            ]
            for metric in metrics
        ]
        for metric in metrics:
            paper = [_published(result, metric, group) for group in groups]
            if any(value is not None for value in paper):
                cells = ["" if value is None else _digits(metric, value) for value in paper]
                columns.append([f"{METRICS[metric].short or metric}, paper", *cells])
        counts = [max(score["count"] for score in own if score["group"] == group) for group in groups]
        columns = [[sort, *map(shown_group, groups)], ["rows", *map(str, counts)], *columns]
        widths = [max(map(len, column)) for column in columns]
        for name, *cells in zip(*columns, strict=True):
            padded = (f"  {cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True))
            yield f"{name:{widths[0]}}{''.join(padded)}".rstrip()


def _sort(group: str) -> str:
    return group.partition("=")[0] if "=" in group else "part"


def shown_group(group: str) -> str:
    """Without ``kind=`` or ``modality=``."""
    return group.partition("=")[2] or group


def number(score: Mapping[str, Any], name: str = "value") -> str:
    """One of a score's numbers, with the digits of its metric."""
    return _digits(score["metric"], score[name])


def _digits(metric: str, value: float) -> str:
    return f"{value:.{METRICS[metric].digits}f}"


class Leaderboard:
    """Results of several models on several benchmarks, the published rows beside them.

    Args:
        results: as :func:`unimedvl.eval.run.open_result` reads them; ``names`` of their models.
    """

    def __init__(self, results: Sequence[Result], names: Sequence[str]) -> None:
        self.results, self.names = results, names
        self.benchmarks = list(dict.fromkeys(result["about"]["benchmark"] for result in results))

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Benchmark, head and rows, one table each; the best of several values of a metric is bold."""
        for benchmark in self.benchmarks:
            pairs = [
                (name, result)
                for name, result in zip(self.names, self.results, strict=True)
                if result["about"]["benchmark"] == benchmark
            ]
            columns = list(dict.fromkeys((s["metric"], s["group"]) for _, r in pairs for s in r["scores"]))
            columns = [column for column in columns if column[1] in (ALL, "average")] or columns
            rows = [[name, *self._cells(result, columns)] for name, result in pairs]
            paper = [_published(pairs[0][1], *column) for column in columns]
            if any(value is not None for value in paper):
                cells = ["" if v is None else _digits(m, v) for (m, _), v in zip(columns, paper, strict=True)]
                rows.append([NAME, *cells, "see paper", ""])
            head = [METRICS[metric].label + (f" {group}" if group != ALL else "") for metric, group in columns]
            same = len({_features(result) for _, result in pairs}) == 1
            compared = [m if same or not METRICS[m].extractor else "" for m, _ in columns]
            yield benchmark, ["model", *head, "rows", "rows' hash"], _starred(rows, compared)

    def _cells(self, result: Result, columns: Sequence[tuple[str, str]]) -> list[str]:
        found = {(score["metric"], score["group"]): score for score in result["scores"]}
        cells = []
        for column in columns:
            score = found.get(column)
            interval = (
                "" if score is None or score["low"] is None else f" ({number(score, 'low')} to {number(score, 'high')})"
            )
            cells.append("" if score is None else number(score) + interval)
        return [*cells, str(result["about"]["rows"]), result["about"]["rows_hash"]]

    def markdown(self) -> str:
        """All tables."""
        return "\n".join(self._markdown())

    def _markdown(self) -> Iterator[str]:
        yield "# Leaderboard\n"
        for benchmark, head, rows in self.tables():
            yield f"## {benchmark}\n"
            yield "| " + " | ".join(head) + " |"
            yield "|" + "---|" * len(head)
            for row in rows:
                yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
            yield ""
        yield _REMARK

    def html(self) -> str:
        """All tables as a page that needs nothing beside itself."""
        from unimedvl.eval.report import page

        body = ["<h1>Leaderboard</h1>"]
        for benchmark, head, rows in self.tables():
            body.append(f"<h2>{escape(benchmark)}</h2>")
            body.append(page.table(head, [[_html(cell) for cell in row] for row in rows]))
        return page.page("Leaderboard", [*body, f'<p class="soft small">{escape(_REMARK)}</p>'])


_REMARK = (
    "In brackets: 95 % intervals (efficiency: range of the repeats). Bold: best of the evaluated models. "
    "Results compare only where the rows' hash is the same, and distances such as gFID only with the same extractor; "
    "the published numbers come from the paper's own prompts, splits and scoring."
)


def _features(result: Result) -> str:
    """What distances were measured with."""
    return str(result["about"].get("protocol", {}).get("extractor"))


def _starred(rows: list[list[str]], metrics: Sequence[str]) -> list[list[str]]:
    """Bold where a column compares: an empty metric does not."""
    ours = [row for row in rows if row[0] != NAME]
    for place, metric in enumerate(metrics, 1):
        if not metric:
            continue
        values = {number: float(row[place].split()[0]) for number, row in enumerate(ours) if row[place]}
        if len(set(values.values())) > 1:
            best = (min if METRICS[metric].lower else max)(values.values())
            for number in (number for number, value in values.items() if value == best):
                ours[number][place] = f"**{ours[number][place]}**"
    return rows


def _html(cell: str) -> str:
    return f"<b>{escape(cell[2:-2])}</b>" if cell.startswith("**") else escape(cell)
