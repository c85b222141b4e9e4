"""Pieces of an HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

_STYLE = """
:root { color-scheme: light; --ink: #1c2733; --soft: #5b6875; --line: #dde3e9; --good: #1f7a4d; --bad: #b3392f; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; } .soft { color: var(--soft); } .small { font-size: .86rem; }
.notice { background: #fff6e0; border-left: 4px solid #d9a21b; padding: .6rem .9rem; max-width: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; min-width: 100%; }
th, td { padding: .32rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } thead th { color: var(--soft); font-weight: 600; }
table.words td { text-align: left; white-space: normal; vertical-align: middle; min-width: 6rem; }
table.words th { text-align: left; }
tr.group td { font-weight: 600; padding-top: .9rem; border-bottom-color: var(--ink); }
table.scores td:first-child, table.scores td:last-child { white-space: normal; }
table.scores tr.group td { white-space: normal; }
.good { color: var(--good); } .bad { color: var(--bad); }
.pictures { display: flex; flex-wrap: wrap; gap: 1.1rem 1.6rem; margin: .5rem 0 1rem; }
.pictures > div { display: flex; gap: .3rem; }
figure { margin: 0; width: 104px; } figure img { width: 104px; height: 104px; display: block; background: #eef1f4; }
figcaption { font-size: .74rem; line-height: 1.25; color: var(--soft); margin-top: .15rem; overflow-wrap: anywhere; }
img.plot { width: 100%; max-width: 30rem; height: auto; } .plots { display: flex; flex-wrap: wrap; gap: 1rem; }
td img { width: 56px; height: 56px; display: block; }
@media (max-width: 34rem) { body { padding: 1.2rem .8rem 3rem; } h1 { font-size: 1.5rem; }
  th, td { padding: .28rem .3rem; font-size: .78rem; } table.words td { min-width: 0; }
  td img { width: 40px; height: 40px; }
  figure, figure img { width: 76px; } figure img { height: 76px; } .pictures { gap: .8rem 1rem; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """The whole document."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def source(path: Path) -> str:
    """A PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def figure(path: Path, caption: str, alt: str = "") -> str:
    """A small picture with a line below."""
    described = escape(alt or caption)
    return f'<figure><img src="{source(path)}" alt="{described}"><figcaption>{escape(caption)}</figcaption></figure>'


def pictures(groups: Iterable[Sequence[str]]) -> str:
    """Groups of figures that stay together."""
    return '<div class="pictures">' + "".join(f"<div>{''.join(group)}</div>" for group in groups) + "</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Cells are HTML already; a row of one cell is a heading within the table."""
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    lines = []
    for row in rows:
        if len(row) == 1:
            lines.append(f'<tr class="group"><td colspan="{len(head)}">{row[0]}</td></tr>')
        else:
            lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>")
    attribute = f' class="{kind}"' if kind else ""
    body = "".join(lines)
    return f'<div class="scroll"><table{attribute}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
