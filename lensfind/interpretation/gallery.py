"""The gallery: one HTML page with everything inside, that opens from disk without a network."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from lensfind.files import write_file
from lensfind.page import Entry, figure, page, paragraphs, table

__all__ = ["Entry", "write_gallery"]


def write_gallery(
    path: Path,
    title: str,
    introduction: str,
    entries: Sequence[Entry],
    notes: Mapping[str, str],
    tables: Mapping[str, Sequence[Mapping[str, object]]],
) -> None:
    """Write the page.

    Args:
        path: Of the page.
        title: Heading.
        introduction: Plain text under it.
        entries: Pictures; sections in the order in which they come first.
        notes: section -> plain text under its heading.
        tables: section -> rows with the same keys, under its pictures.
    """
    sections = list(dict.fromkeys([*(entry.section for entry in entries), *tables]))
    parts = [f"<h1>{html.escape(title)}</h1>{paragraphs(introduction)}<nav>"]
    parts += [f'<a href="#s{k}">{html.escape(name)}</a>' for k, name in enumerate(sections)]
    parts.append("</nav>")
    for k, name in enumerate(sections):
        parts.append(f'<section id="s{k}"><h2>{html.escape(name)}</h2>{paragraphs(notes.get(name, ""))}')
        parts += [figure(entry) for entry in entries if entry.section == name]
        if tables.get(name):
            rows = tables[name]
            parts.append(table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows]))
        parts.append("</section>")
    write_file(path, page(title, parts))


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
