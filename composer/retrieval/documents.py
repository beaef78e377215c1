"""Documents as they come: text, Markdown and HTML files of a folder, or the rows of a JSONL file. Nothing in them runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from composer.errors import InputError
from composer.fields import BadRow, id_of, object_of, optional_of, text_of
from composer.jsonl import MAX_LINE, lines_of

TEXT, MARKDOWN, HTML = (".txt", ".text", ".rst"), (".md", ".markdown"), (".html", ".htm", ".xhtml")
LONGEST = 64_000_000  # bytes of a file that is one document
_BLOCKS = re.compile(r"\n\s*\n\s*")
_HIDDEN = ("title", "script", "style", "noscript", "template", "head", "svg")
_BREAKS = (
    *("p", "div", "section", "article", "header", "footer", "main", "aside", "nav", "table", "tr", "ul", "ol", "li"),
    *("dl", "dt", "dd", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "blockquote", "figure", "hr", "br"),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its name in the source (a path below the folder, or a row's id), title, and whether it is Markdown.
    Of HTML the text is what a reader sees, blocks parted by empty lines; offsets of passages count its characters."""

    name: str
    text: str
    title: str = ""
    markdown: bool = False


@dataclass(frozen=True, slots=True)
class Unread:
    """What could not be read, and why."""

    where: str
    reason: str


def read_documents(source: Path) -> Iterator[Document | Unread]:
    """All documents of a folder (by suffix, sorted by path, links out of it left alone), or of a JSONL file with rows
    `id, text[, title]`. What cannot be read comes as `Unread`. Raises InputError if `source` is neither."""
    if source.is_dir():
        yield from _folder(source)
    elif source.is_file():
        yield from _rows(source) if source.suffix in (".jsonl", ".ndjson") else [_file(source, source.name)]
    else:
        raise InputError(
            "there is no such folder or file", where=str(source), remedy="name a folder of texts, or a JSONL file"
        )


def _folder(root: Path) -> Iterator[Document | Unread]:
    inside = root.resolve()
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in (*TEXT, *MARKDOWN, *HTML, ".jsonl", ".ndjson") or not path.is_file():
            continue
        name = path.relative_to(root).as_posix()
        if not path.resolve().is_relative_to(inside):
            yield Unread(name, "a link that leads out of the folder")
        elif path.suffix.lower() in (".jsonl", ".ndjson"):
            yield from _rows(path, f"{name}/")
        else:
            yield _file(path, name)


def _file(path: Path, name: str) -> Document | Unread:
    suffix = path.suffix.lower()
    if suffix not in (*TEXT, *MARKDOWN, *HTML):
        return Unread(name, f"unknown kind of file, expected one of {', '.join((*TEXT, *MARKDOWN, *HTML, '.jsonl'))}")
    try:
        if path.stat().st_size > LONGEST:
            return Unread(name, f"larger than {LONGEST:,} bytes")
        raw = path.read_bytes()
        if suffix in HTML:
            title, text = page_text(raw)
            return Document(name, text, title)
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as why:
        return Unread(name, f"cannot be read: {why.strerror or why}")
    except UnicodeDecodeError as why:
        return Unread(name, f"is not UTF-8 (byte {why.start})")
    return Document(name, text, _title(text) if suffix in MARKDOWN else "", markdown=suffix in MARKDOWN)


def _rows(path: Path, prefix: str = "") -> Iterator[Document | Unread]:
    """Documents of a JSONL file, its bad lines as `Unread`; of equal ids the first counts. Raises InputError where the file
    cannot be read."""
    seen: set[str] = set()
    for number, raw in lines_of(path):
        where = f"{path.name}:{number}"
        try:
            if len(raw) > MAX_LINE:
                raise BadRow(f"longer than {MAX_LINE:,} bytes")
            row = object_of(raw)
            found = Document(f"{prefix}{id_of(row)}", text_of(row, "text"), optional_of(row, "title") or "")
        except BadRow as why:
            yield Unread(where, str(why))
            continue
        if found.name in seen:
            yield Unread(where, f"id {found.name!r} stands on an earlier line")
            continue
        seen.add(found.name)
        yield found


def page_text(raw: bytes) -> tuple[str, str]:
    """Title and visible text of an HTML page; blocks become paragraphs, what a browser does not show is left out.

    >>> page_text(b"<title>A</title><p>One <b>two</b>.<script>x()</script><p>Three.")
    ('A', 'One two.\\n\\nThree.')
    """
    from bs4 import BeautifulSoup  # noqa: PLC0415 - only pages need it

    page = BeautifulSoup(raw, "html.parser")
    title = " ".join(page.title.get_text().split()) if page.title else ""
    for hidden in page.find_all(_HIDDEN):
        hidden.decompose()
    for block in page.find_all(_BREAKS):
        block.insert_before("\n\n")
        block.insert_after("\n\n")
    blocks = (" ".join(block.split()) for block in _BLOCKS.split(page.get_text()))
    return title, "\n\n".join(block for block in blocks if block)


def _title(text: str) -> str:
    """The first heading of Markdown."""
    for line in text.splitlines()[:50]:
        if line.startswith("# "):
            return line[2:].strip()
    return ""
