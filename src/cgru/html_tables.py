"""Tables as HTML, for notebooks: every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *below: str) -> str:
    """A table, and lines of text under it."""
    from html import escape  # two milliseconds that a first output need not take

    head = "".join(f"<th style='text-align:left'>{escape(text)}</th>" for text in header)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    lines = "".join(f"<div>{escape(line)}</div>" for line in below)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{lines}"
