"""The gallery: one HTML page with everything inside, that opens from disk without a network."""

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lensfind.files import write_file

__all__ = ["Entry", "write_gallery"]

_TYPES = {".png": "image/png", ".gif": "image/gif"}
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:75rem;padding:1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;border-top:1px solid #ccc;padding-top:1rem;margin-top:2rem}
figure{display:inline-block;vertical-align:top;margin:.5rem 1rem .5rem 0;max-width:100%}
img{max-width:100%;height:auto;border:1px solid #ddd}figcaption{font-size:.85rem;max-width:60rem;color:#444}
table{border-collapse:collapse;font-size:.8rem;display:block;overflow-x:auto}
td,th{border:1px solid #ccc;padding:.2rem .45rem;text-align:right}
.warning{color:#D55E00;font-weight:600}nav a{margin-right:.8rem}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}figcaption{color:#bbb}nav a{color:#8bf}}
"""


@dataclass(frozen=True)
class Entry:
    """One picture: under which heading, its file (PNG or GIF), what it shows, and a warning if there is one."""

    section: str
    path: Path
    caption: str
    warning: str = ""


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
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>',
        f"<h1>{html.escape(title)}</h1><p>{html.escape(introduction)}</p><nav>",
        *(f'<a href="#s{k}">{html.escape(name)}</a>' for k, name in enumerate(sections)),
        "</nav>",
    ]
    for k, name in enumerate(sections):
        parts.append(f'<section id="s{k}"><h2>{html.escape(name)}</h2>')
        if name in notes:
            parts += [f"<p>{html.escape(line)}</p>" for line in notes[name].splitlines()]
        for entry in entries:
            if entry.section == name:
                data = base64.b64encode(entry.path.read_bytes()).decode()
                warning = f'<span class="warning">{html.escape(entry.warning)}</span> ' if entry.warning else ""
                caption = html.escape(entry.caption)
                parts.append(
                    f'<figure><img src="data:{_TYPES[entry.path.suffix]};base64,{data}" alt="{caption}">'
                    f"<figcaption>{warning}{caption}</figcaption></figure>"
                )
        if tables.get(name):
            rows = tables[name]
            head = "".join(f"<th>{html.escape(str(key))}</th>" for key in rows[0])
            body = "".join(
                "<tr>" + "".join(f"<td>{html.escape(_cell(value))}</td>" for value in row.values()) + "</tr>"
                for row in rows
            )
            parts.append(f"<table><tr>{head}</tr>{body}</table>")
        parts.append("</section>")
    write_file(path, "\n".join([*parts, "</body></html>", ""]))


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
