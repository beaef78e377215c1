"""The frame of every page that we write: no script, nothing fetched, and whoever fills it escapes every text."""

from __future__ import annotations

from html import escape

STYLE = """
:root{color-scheme:light dark;--ink:#1d2433;--dim:#667085;--line:#d0d5dd;--mark:#b42318;--dot:#175cd3;--back:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7ec;--dim:#98a2b3;--line:#344054;--mark:#f97066;--dot:#84adff;--back:#0c111d}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.5rem}h3{font-size:1rem;margin:1.5rem 0 .3rem}p{max-width:46rem}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}tr.chosen{font-weight:600}
.wide{overflow-x:auto}.note{color:var(--dim)}svg{max-width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:var(--dim)}svg .chosen{fill:var(--mark)}svg .dot{fill:var(--dot)}
svg .axis{stroke:var(--line)}svg .front{stroke:var(--dot);fill:none;stroke-dasharray:4 3}.heat td{color:#101828}
"""


def document(title: str, intro: str, body: str) -> str:
    """A whole page; `intro` and `body` are HTML, `title` is text."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><p>{intro}</p>{body}</body></html>\n"
    )
