"""Corpora for reading: what is asked has its answer where it is said to be, and nowhere else; packages and pages are read safely."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from composer.answers.extract import extract
from composer.answers.grade import grade
from composer.errors import ConfigError, InputError, SourceError, UnreachableError
from composer.jsonl import read_questions
from composer.retrieval.documents import Document, read_documents
from evals.tasks.passages import deb, manpages, write_documents, write_items
from evals.tasks.passages.invented import MOST, generate
from evals.tasks.passages.strategyqa import FILE, strategyqa
from tests.evals.test_recorded_data import DATA, needs_data

# --- invented


def test_invented_is_the_same_for_the_same_seed_only() -> None:
    assert generate(40, 3) == generate(40, 3)
    assert generate(40, 3).documents != generate(40, 4).documents


def test_a_covered_answer_stands_in_its_document_and_an_uncovered_one_in_none_about_the_thing() -> None:
    made = generate(MOST, 1)
    texts = {one.name: one.text for one in made.documents}
    assert len(texts) == len(made.documents) and len({item.question.text for item in made.items}) == MOST
    for item in made.items:
        if item.task == "invented-covered":
            [own] = made.relevant[item.question.id]
            assert item.answer in texts[own]
        else:
            assert item.question.id not in made.relevant


def test_half_is_covered_in_each_split_and_the_rest_has_what_misleads() -> None:
    made = generate(80, 2)
    titles = {one.title: one.text for one in made.documents}
    for split in ("profile", "test"):
        tasks = [item.task for item in made.of(split)]
        assert [tasks.count(f"invented-{case}") for case in ("covered", "namesake", "silent")] == [20, 10, 10]
    for item in made.items:
        subject = [title for title in titles if f" {title}" in item.question.text]
        if item.task == "invented-namesake":
            assert subject == []  # nobody wrote about it, but about things with a word of its name
            assert sum(word in item.question.text for title in titles for word in title.split()) >= 2
        else:
            assert len(subject) == 1
        if item.task == "invented-silent":
            assert item.answer not in titles[subject[0]]


def test_profile_and_test_ask_in_other_words() -> None:
    made = generate(80, 2)
    starts = {
        split: {" ".join(item.question.text.split()[:3]) for item in made.of(split)} for split in ("profile", "test")
    }
    assert all(text.startswith(("How many", "Who is the", "In which year")) for text in starts["profile"])
    assert all(text.startswith(("What is the", "When was the")) for text in starts["test"])


@pytest.mark.parametrize("n", [0, -8, 12, MOST + 8])
def test_a_number_that_cannot_be_split_is_refused(n: int) -> None:
    with pytest.raises(InputError, match="cannot be made"):
        generate(n)


def test_documents_and_items_are_read_by_what_users_call(tmp_path: Path) -> None:
    made = generate(16, 5)
    write_documents(made, tmp_path / "documents.jsonl")
    write_items(made, tmp_path / "test.jsonl", "test")

    assert tuple(read_documents(tmp_path / "documents.jsonl")) == made.documents
    read = read_questions(tmp_path / "test.jsonl", labelled=True)
    assert not read.errors
    assert [(row.question.text, row.answer, row.task, row.split, row.question.kind) for row in read.rows] == [
        (item.question.text, item.answer, item.task, "test", "text") for item in made.of("test")
    ]


# --- StrategyQA


def row(qid: str, question: str = "Is it?", answer: object = True, facts: object = ("It is so",)) -> dict[str, object]:
    return {
        "qid": qid,
        "question": question,
        "answer": answer,
        "facts": list(facts) if isinstance(facts, tuple) else facts,
    }


def test_strategyqa_of_a_small_file(tmp_path: Path) -> None:
    rows = [row("b", "Is it?", True, ("It  is so", "And so.")), row("a", "Was it?", False), row("c", "Is it?", True)]
    (tmp_path / "dev.json").write_text(json.dumps(rows))
    made = strategyqa(tmp_path / "dev.json")

    assert made.documents == (Document("a", "It is so."), Document("b", "It is so. And so."))  # c comes twice
    assert [(item.answer, item.question.text) for item in made.items] == [
        ("no", "Was it? Answer yes or no."),
        ("yes", "Is it? Answer yes or no."),
    ]
    assert made.relevant["strategyqa-b"] == ("b",)
    assert sorted(item.split or "" for item in made.items) == ["profile", "test"]


def test_strategyqa_reads_yes_and_no_out_of_sentences(tmp_path: Path) -> None:
    for said, right in (("Yes, it is.", 1.0), ("No, it was not.", 0.0), ("Perhaps.", 0.0)):
        assert grade(extract(said, "text"), "yes", "text", (), said) == right


@pytest.mark.parametrize(
    "text", ["", "[1]", "{}", '[{"qid": 1}]', json.dumps([row("a", facts=[])]), json.dumps([row("a", answer="yes")])]
)
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dev.json").write_text(text)
    if text == "{}":
        assert strategyqa(tmp_path / "dev.json").items == ()
        return
    with pytest.raises(InputError, match="no StrategyQA file"):
        strategyqa(tmp_path / "dev.json")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        strategyqa(tmp_path / "dev.json")


@needs_data
def test_the_published_strategyqa() -> None:
    assert DATA is not None
    made = strategyqa(DATA / FILE)
    assert len(made.documents) == len(made.items) == 229
    assert abs(len(made.of("profile")) - len(made.of("test"))) == 1
    assert 90 < sum(item.answer == "yes" for item in made.items) < 140


# --- packages


def package(files: dict[str, bytes], suffix: str = "xz", link: str | None = None) -> bytes:
    """A .deb with these files, as dpkg-deb lays it out."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode=f"w:{suffix}") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link:
            member = tarfile.TarInfo("./usr/share/man/man7/link.7")
            member.type, member.linkname = tarfile.SYMTYPE, link
            tar.addfile(member)
    found = b"!<arch>\n"
    for name, content in (
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", b"odd"),
        (f"data.tar.{suffix}", inner.getvalue()),
    ):
        found += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
            + content
            + b"\n" * (len(content) % 2)
        )
    return found


def test_files_of_a_package_without_links_and_other_folders(tmp_path: Path) -> None:
    place = tmp_path / "a.deb"
    place.write_bytes(
        package({"usr/share/man/man7/a.7": b"A", "etc/passwd": b"no", "usr/share/man/../x": b"up"}, link="/etc/passwd")
    )
    found = dict(deb.deb_files(place, "usr/share/man"))
    assert found.pop("../x", b"up") == b"up"  # a name, and no more: nothing is written to disk
    assert found == {"man7/a.7": b"A"}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"!<arch>\n",
        b"text",
        package({"usr/share/man/a": b"A" * 9})[:-60],
        package({}, "xz").replace(b"data.tar.xz ", b"data.tar.zst"),
    ],
)
def test_what_is_no_package_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a.deb").write_bytes(damage)
    with pytest.raises(InputError, match="no package of Debian"):
        list(deb.deb_files(tmp_path / "a.deb", "usr/share/man"))


def test_a_package_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.deb").write_bytes(package({"usr/share/man/a": bytes(100_000)}))
    monkeypatch.setattr(deb, "MOST", 50_000)
    with pytest.raises(InputError, match="more than 50,000 bytes"):
        list(deb.deb_files(tmp_path / "a.deb", "usr/share/man"))


def test_the_pinned_package_is_kept_and_another_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetched(url: str) -> bytes:
        asked.append(url)
        if len(asked) == 1:
            raise UnreachableError("no such host", where=url)
        return b"the package"

    monkeypatch.setenv("COE_CACHE", str(tmp_path))
    monkeypatch.setattr(deb, "_fetched", fetched)
    with pytest.raises(SourceError, match="sha256"):
        deb.manpages_deb()
    monkeypatch.setattr(deb, "MANPAGES_SHA256", hashlib.sha256(b"the package").hexdigest())
    assert deb.manpages_deb().read_bytes() == b"the package" and deb.manpages_deb().is_relative_to(tmp_path)
    assert asked == [*deb.MANPAGES_URLS[:2], deb.MANPAGES_URLS[0]]


# --- manual pages

RENDERED = """ASCII(7)        Manual        ASCII(7)

NAME
       ascii - the ASCII character set of 128 codes

DESCRIPTION
       ASCII is a code.
       It has letters.

       A second block.

SEE ALSO
       charsets(7)

Linux man-pages        2022        ASCII(7)
"""


def test_a_page_keeps_all_but_its_name_section_header_and_footer() -> None:
    page = manpages.read_page("ascii", "7", RENDERED)
    assert page is not None and page.id == "ascii(7)"
    assert page.about == "the ASCII character set of 128 codes"
    assert page.text == "DESCRIPTION ASCII is a code. It has letters.\n\nA second block.\n\nSEE ALSO charsets(7)"


def test_questions_have_no_name_and_are_of_one_page_only() -> None:
    about = {
        "ascii": "the ascii set of characters",
        "a": "the same few words",
        "b": "The same few words",
        "short": "two words",
    }
    made = manpages.corpus(manpages.Page(name, "7", text, "Text.") for name, text in about.items())
    [item] = made.items
    assert (item.question.text, item.answer) == ("the set of characters", "ascii")
    assert made.relevant == {item.question.id: ("ascii(7)",)} and len(made.documents) == 4
    with pytest.raises(InputError, match="no manual page"):
        manpages.corpus([manpages.Page("short", "7", "two words", "Text.")])


def test_translations_redirections_bad_files_and_doubles_are_left_out() -> None:
    source = b".TH"
    files = [
        ("man7/ascii.7.gz", gzip.compress(source)),
        ("man7/ascii.7", source),
        ("man7/other.7", b".so man7/ascii.7"),
        ("de/man7/ascii.7", source),
        ("man7/odd.7.gz", b"no gzip"),
        ("man7/large.7.gz", gzip.compress(bytes(5_000_000))),
        ("man7/README", source),
        ("man7/slow.7", b"slow"),
    ]

    def render(given: bytes) -> str:
        if given == b"slow":
            raise ValueError("it took too long")
        assert given == source
        return RENDERED

    assert [page.id for page in manpages.pages(files, render)] == ["ascii(7)"]


def test_without_a_renderer_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="mandoc or groff"):
        manpages.renderer()


@pytest.mark.skipif(
    not (shutil.which("groff") or shutil.which("mandoc")), reason="neither mandoc nor groff is installed"
)
def test_a_real_page_is_rendered(tmp_path: Path) -> None:
    source = b".TH DEMO 7\n.SH NAME\ndemo \\- shows how a page is read\n.SH DESCRIPTION\nA line with \\fBbold\\fP words.\n.sy touch /tmp/x\n"
    [page] = manpages.pages([("man7/demo.7", source)], manpages.renderer())
    assert page.about == "shows how a page is read" and "A line with bold words." in page.text
    (tmp_path / "man7").mkdir()
    (tmp_path / "man7" / "demo.7").write_bytes(source)
    assert list(manpages.from_folder(tmp_path)) == [("man7/demo.7", source)]
