"""Manual pages as a corpus, with known-item questions: the description of a page is asked for, the page is to be found."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from composer.errors import ConfigError, InputError
from composer.jsonl import Labelled, Question
from composer.retrieval.documents import Document
from evals.tasks.passages.corpus import Corpus
from evals.tasks.passages.deb import deb_files

SECONDS = 20.0  # of wall clock for one page
_LARGEST = 4_000_000  # bytes of a page's source
_PAGE = re.compile(r"(?:^|/)man([1-8])/([^/]+)\.\1[a-z]*(?:\.gz)?$")  # translations lie in de/man1 and so on
_TRANSLATED = re.compile(r"^[a-z]{2,3}(?:[_.@][^/]*)?/man")
_OVERSTRUCK = re.compile(r".\x08")
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_NAME = re.compile(r"^NAME\n(.+?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
_WORDS = 3  # of a description that is worth asking for
Render = Callable[[bytes], str]


@dataclass(frozen=True, slots=True)
class Page:
    """A rendered page: its name and section (`ascii`, `7`), what its NAME section says of it, and the rest of its text."""

    name: str
    section: str
    about: str
    text: str

    @property
    def id(self) -> str:
        """As it is cited: `ascii(7)`."""
        return f"{self.name}({self.section})"


def from_deb(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, source) of the pages of a package of Debian. Raises InputError."""
    yield from deb_files(path, "usr/share/man")


def from_folder(root: Path) -> Iterator[tuple[str, bytes]]:
    """(name, source) of the pages of a folder such as /usr/share/man, sorted. Raises InputError where there is none."""
    if not root.is_dir():
        raise InputError(
            "there is no such folder", where=str(root), remedy="name a folder that holds man1, man7 and so on"
        )
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size <= _LARGEST:
            yield path.relative_to(root).as_posix(), path.read_bytes()


def renderer() -> Render:
    """What turns the source of a page into plain text: mandoc, else groff. Raises ConfigError where neither is installed;
    what it returns raises ValueError for a page that it cannot render within `SECONDS`."""
    if mandoc := shutil.which("mandoc"):
        command = [mandoc, "-T", "utf8", "-O", "width=2000"]
    elif groff := shutil.which("groff"):
        # without hyphens and filling; `-S`, its default, runs nothing that a page asks for
        command = [
            groff,
            "-S",
            "-t",
            "-e",
            "-man",
            "-K",
            "utf8",
            "-T",
            "utf8",
            "-P-c",
            "-rHY=0",
            "-dAD=l",
            "-rLL=2000n",
        ]
    else:
        raise ConfigError(
            "manual pages are rendered by mandoc or groff, and neither is installed",
            where="evals.manpages",
            remedy="install one of them, such as `apt-get install groff-base`",
        )

    def render(source: bytes) -> str:
        try:
            done = subprocess.run(command, input=source, capture_output=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as why:
            raise ValueError(f"it could not be rendered: {why}") from why
        if done.returncode or not done.stdout:
            raise ValueError(f"it could not be rendered: {done.stderr.decode('utf-8', 'replace')[:200]}")
        return _ESCAPE.sub("", _OVERSTRUCK.sub("", done.stdout.decode("utf-8", "replace")))

    return render


def pages(files: Iterable[tuple[str, bytes]], render: Render) -> Iterator[Page]:
    """The pages among these files, as far as they have a NAME section; translations, pages that only name another one,
    what cannot be rendered, and a page that came already are left out."""
    seen: set[str] = set()
    for path, raw in files:
        found = _PAGE.search(path)
        if found is None or _TRANSLATED.match(path):
            continue
        try:
            source = _unpacked(raw) if path.endswith(".gz") else raw
            if source.lstrip().startswith(b".so "):
                continue
            page = read_page(found[2], found[1], render(source))
        except ValueError:
            continue
        if page is not None and page.id not in seen:
            seen.add(page.id)
            yield page


def read_page(name: str, section: str, rendered: str) -> Page | None:
    """A page from its rendered text; None where no NAME section tells what it is. Without header and footer, blocks of
    text one line each."""
    lines = [line.rstrip() for line in rendered.strip("\n").splitlines()]
    body = "\n".join(lines[1:-1])
    told = _NAME.search(body)
    if told is None:
        return None
    about = " ".join(told[1].split())
    about = re.split(r"\s[-‐–—−]+\s", about, maxsplit=1)[-1]
    rest = body[: told.start()] + body[told.end() :]
    blocks = (" ".join(block.split()) for block in re.split(r"\n\s*\n|\n(?=\S)", rest))
    text = "\n\n".join(block for block in blocks if block)
    return Page(name, section, about, text) if about and text else None


def corpus(found: Iterable[Page], seed: int = 0) -> Corpus:
    """The pages as documents, without the NAME section, since the questions are made of it: each description of at least
    three words that one page alone has, without the page's name. Half of the questions, drawn by `seed`, are of the split
    `profile`. Raises InputError where nothing is left to ask."""
    known = list(found)
    asked = [(page, without_name(page.about, page.name)) for page in known]
    often: dict[str, int] = {}
    for _, text in asked:
        often[text.lower()] = often.get(text.lower(), 0) + 1
    kept = [(page, text) for page, text in asked if often[text.lower()] == 1 and len(text.split()) >= _WORDS]
    if not kept:
        raise InputError(
            "no manual page with a description of its own was found", remedy="name a source of manual pages"
        )
    profile = set(Random(f"manpages/{seed}").sample(range(len(kept)), len(kept) // 2))
    items = tuple(
        Labelled(
            Question(f"man-{page.id}", text, (), "text", place + 1),
            page.name,
            "manpages",
            "profile" if place in profile else "test",
        )
        for place, (page, text) in enumerate(kept)
    )
    documents = tuple(Document(page.id, page.text, page.id) for page in known)
    relevant = {item.question.id: (page.id,) for item, (page, _) in zip(items, kept, strict=True)}
    return Corpus("manpages", documents, items, relevant)


def without_name(about: str, name: str) -> str:
    """A description without the name that it describes.

    >>> without_name("the ASCII character set, see ascii", "ascii")
    'the character set, see'
    """
    own = {part for part in re.split(r"[^a-z0-9]+", name.lower()) if len(part) > 1} | {name.lower()}
    return " ".join(word for word in about.split() if word.lower().strip(",.;:()/\"'") not in own)


def _unpacked(raw: bytes) -> bytes:
    """The content of a gzip file, where it is not larger than a page may be. Raises ValueError."""
    try:
        with gzip.open(io.BytesIO(raw)) as file:
            source = file.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as why:
        raise ValueError(f"no gzip file: {why}") from why
    if len(source) > _LARGEST:
        raise ValueError(f"larger than {_LARGEST:,} bytes")
    return source
