"""HTML pages with everything inside: they open from disk without a network, print whole and fit a narrow screen."""

import base64
import html
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lensfind.errors import LensfindError

__all__ = ["Entry", "figure", "page", "paragraphs", "table"]

_TYPES = {".png": "image/png", ".gif": "image/gif"}
_WIDE = 900  # pixels; narrower pictures stand side by side
_STYLE = """
:root{--ink:#1d2329;--soft:#57606a;--line:#d0d7de;--wash:#f4f6f8;--paper:#fff;--link:#0a5ca8;--warn:#b34700}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;margin:0 auto;max-width:75rem;
padding:1rem clamp(.8rem,3vw,2rem);color:var(--ink);background:var(--paper);overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:.6rem 0}
h2{font-size:1.25rem;border-top:1px solid var(--line);padding-top:1.1rem;margin:2.2rem 0 .5rem}
h3{font-size:1.05rem;margin:1.3rem 0 .3rem}
p,ul,dl{max-width:46rem;margin:.4rem 0}ul{padding-left:1.2rem}li{margin:.15rem 0}
a{color:var(--link)}nav{margin:.8rem 0}nav a{display:inline-block;margin:.1rem .9rem .1rem 0}
small,.soft{color:var(--soft)}small{font-size:.82em}code{font-size:.88em}
figure,.side{display:inline-block;vertical-align:top;margin:.6rem 1rem .6rem 0;max-width:calc(100% - 1rem)}
@media screen and (min-width:64rem){figure{max-width:calc(50% - 1.2rem)}figure.wide{max-width:100%}}
@media(max-width:40rem){figure,.side{margin-right:0;max-width:100%}}
img{max-width:100%;height:auto;border:1px solid var(--line);background:#fff}
figcaption{font-size:.86rem;max-width:46rem;color:var(--soft)}
.scroll{overflow-x:auto;margin:.7rem 0;max-width:100%}
table{border-collapse:collapse;font-size:.84rem;line-height:1.35}
caption{caption-side:top;text-align:left;font-weight:600;padding:.2rem 0}
td,th{border:1px solid var(--line);padding:.25rem .5rem;text-align:right;vertical-align:top;overflow-wrap:normal;
font-variant-numeric:tabular-nums}
thead th{background:var(--wash);vertical-align:bottom}
td small{display:block;white-space:nowrap}
.left{text-align:left;font-weight:inherit;overflow-wrap:anywhere;min-width:7rem}thead .left{font-weight:600}
.warning{color:var(--warn);font-weight:600}
.answer{background:var(--wash);border-left:4px solid var(--link);padding:.5rem 1rem .6rem;margin:.9rem 0}
.answer h3{margin:.2rem 0;font-size:1rem;color:var(--soft)}.answer p,.answer ul{max-width:58rem}
.lead{font-size:1.08rem;font-weight:600}
@media screen and (prefers-color-scheme:dark){
:root{--ink:#e2e6ea;--soft:#a3adb8;--line:#434c56;--wash:#22272e;--paper:#16191d;--link:#7ab8f5;--warn:#ff9d5c}}
@media print{@page{size:A4;margin:14mm 12mm}
body{font-size:10pt;max-width:none;padding:0}nav{display:none}a{color:inherit;text-decoration:none}
h1,h2,h3,caption{break-after:avoid}figure,tr,.answer p,li{break-inside:avoid}p,li{orphans:3;widows:3}
figure{display:block;margin:3mm 0}img{max-height:125mm;width:auto}
.scroll{overflow:visible}table{font-size:7.5pt;max-width:100%}td,th{padding:.6mm 1mm}.left{min-width:17mm}
td small{white-space:normal}thead{display:table-header-group}
.answer{box-decoration-break:clone;-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""


@dataclass(frozen=True)
class Entry:
    """One picture: under which heading, its file (PNG or GIF), what it shows, and a warning if there is one."""

    section: str
    path: Path
    caption: str
    warning: str = ""


def page(title: str, body: Iterable[str]) -> str:
    """A whole page around pieces of HTML; ``title`` is plain text and stands in the window's bar only."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title>"
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
    )
    return "\n".join([head, *body, "</body></html>", ""])


def paragraphs(text: str) -> str:
    """Plain text as HTML, a paragraph per line."""
    return "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines() if line)


def figure(entry: Entry) -> str:
    """A picture inside the page, with its caption, which is its alternative text too.

    Raises:
        LensfindError: No such file, or neither PNG nor GIF.
    """
    kind = _TYPES.get(entry.path.suffix.lower())
    if kind is None or not entry.path.is_file():
        raise LensfindError(
            "a PNG or GIF file for the page", str(entry.path), "Run the same command again: it makes its pictures."
        )
    data = base64.b64encode(entry.path.read_bytes()).decode()
    warning = f'<span class="warning">{html.escape(entry.warning)}</span> ' if entry.warning else ""
    caption = html.escape(entry.caption)
    wide = ' class="wide"' if _width(entry.path) > _WIDE else ""
    return (
        f'<figure{wide}><img src="data:{kind};base64,{data}" alt="{caption}">'
        f"<figcaption>{warning}{caption}</figcaption></figure>"
    )


def _width(path: Path) -> int:
    """Pixels across of a PNG (bytes 16 to 19) or a GIF (bytes 6 and 7)."""
    head = path.read_bytes()[:24]
    return int.from_bytes(head[16:20], "big") if head[1:4] == b"PNG" else int.from_bytes(head[6:8], "little")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", left: Collection[int] = (0,)) -> str:
    """A table in a box of its own that scrolls sideways where the page is narrow.

    Args:
        header: Plain text of each column.
        rows: Plain text of each cell; what stands below its first line break is set smaller, as an interval.
        caption: Plain text.
        left: Columns of words. The first column heads its row.
    """
    side = [' class="left"' if k in left else "" for k in range(len(header))]
    head = "".join(f'<th scope="col"{side[k]}>{html.escape(text)}</th>' for k, text in enumerate(header))
    body = "".join(f"<tr>{''.join(_cell(k, text, side[k]) for k, text in enumerate(row))}</tr>\n" for row in rows)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    label = html.escape(caption or header[0])
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">'
        f"<table>{title}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cell(column: int, text: str, side: str) -> str:
    first, _, rest = text.partition("\n")
    inner = html.escape(first) + (f"<small>{html.escape(rest)}</small>" if rest else "")
    return f'<th scope="row"{side}>{inner}</th>' if column == 0 else f"<td{side}>{inner}</td>"
