"""Reading documents: everything usable comes, everything else is named, and nothing leads out of the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from composer.errors import InputError
from composer.folders import index_folder
from composer.retrieval.documents import Document, Unread, page_text, read_documents


def test_a_folder_gives_its_texts_by_path(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.md").write_text("# A title\n\nSome text.", encoding="utf-8")
    (tmp_path / "a.txt").write_text("\ufeffPlain.\r\nText.", encoding="utf-8")
    (tmp_path / "c.html").write_text("<title>T</title><body><p>Seen.<script>no()</script>", encoding="utf-8")
    (tmp_path / "d.jsonl").write_text('{"id": 7, "text": "A row.", "title": "R"}\n', encoding="utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert list(read_documents(tmp_path)) == [
        Document("a.txt", "Plain.\nText."),
        Document("b/one.md", "# A title\n\nSome text.", "A title", markdown=True),
        Document("c.html", "Seen.", "T"),
        Document("d.jsonl/7", "A row.", "R"),
    ]


def test_what_cannot_be_read_is_named_and_the_rest_comes(tmp_path: Path) -> None:
    inside, outside = tmp_path / "docs", tmp_path / "secret.txt"
    inside.mkdir()
    outside.write_text("secret", encoding="utf-8")
    (inside / "a.txt").write_bytes(b"\xff\xfeA\0")
    (inside / "b.txt").symlink_to(outside)
    (inside / "c.txt").write_text("here", encoding="utf-8")
    found = list(read_documents(inside))
    assert found == [
        Unread("a.txt", "is not UTF-8 (byte 0)"),
        Unread("b.txt", "a link that leads out of the folder"),
        Document("c.txt", "here"),
    ]


def test_bad_rows_are_named_by_their_line(tmp_path: Path) -> None:
    rows = [
        "{",
        "[]",
        '{"id": true, "text": "x"}',
        '{"id": "a"}',
        '{"id": "a", "text": "x"}',
        '{"id": "a", "text": "y"}',
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    found = list(read_documents(path))
    assert [one.where for one in found if isinstance(one, Unread)] == [f"rows.jsonl:{n}" for n in (1, 2, 3, 4, 6)]
    assert [one for one in found if isinstance(one, Document)] == [Document("a", "x")]


def test_half_a_surrogate_pair_is_refused_as_in_every_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": "a", "text": "x\ud800y"}), encoding="utf-8")
    assert list(read_documents(path)) == [Unread("rows.jsonl:1", "`text` holds half a surrogate pair")]


def test_a_page_is_what_its_reader_sees() -> None:
    page = b"""<html><head><title> A
      page </title><style>p {}</style></head><body><h1>Top</h1><ul><li>one<li>two</ul>
      <p>Inline <b>bo</b>ld &amp; <a href=x>link</a>.</p><noscript>off</noscript><!-- note --></body>"""
    assert page_text(page) == ("A page", "Top\n\none\n\ntwo\n\nInline bold & link.")


def test_names_of_indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COE_INDEXES", str(tmp_path))
    assert index_folder("man") == tmp_path / "man"
    assert index_folder("./man") == Path.cwd() / "man"
    for bad in ("", "..", "-x", "a b"):
        with pytest.raises(ValueError, match="no name of an index"):
            index_folder(bad)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder or file"):
        list(read_documents(tmp_path / "none"))
