"""Reading questions, and writing files whole."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from composer.errors import ConfigError, InputError, OutputFullError
from composer.fields import BadRow
from composer.jsonl import (
    MAX_LINE,
    DuplicateIds,
    Labelled,
    Question,
    RowError,
    _row,
    dedupe_of,
    read_questions,
    write_atomic,
)

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "questions.jsonl"


def dump(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def reason(path: Path, row: dict[str, Any], *, labelled: bool = False) -> str:
    dump(path, row)
    read = read_questions(path, labelled=True) if labelled else read_questions(path)
    assert not read.rows
    return read.errors[0].reason


# --- questions


def test_rows_become_questions(path: Path) -> None:
    dump(
        path,
        {"id": 7, "question": "2 + 2?", "kind": "number", "comment": [{}]},
        {"id": "b", "question": "Which?", "choices": ["x", "y"]},
        {"id": "c", "question": "Why?", "choices": [], "kind": None},
    )

    read = read_questions(path)

    assert read.errors == ()
    assert read.rows == (
        Question("7", "2 + 2?", (), "number", 1, numeric=True),
        Question("b", "Which?", ("x", "y"), "choice", 2),
        Question("c", "Why?", (), None, 3),
    )


def test_a_byte_order_mark_blank_lines_and_windows_line_ends_are_skipped(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbf{"id": 1, "question": "a"}\r\n\r\n  \n{"id": 2, "question": "\xc3\xa9"}')

    read = read_questions(path)

    assert [(row.text, row.line) for row in read.rows] == [("a", 1), ("é", 4)]
    assert read.errors == ()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "a"}, "`id` is missing"),
        ({"id": None, "question": "a"}, "`id` is missing"),
        ({"id": " ", "question": "a"}, "`id` is empty"),
        ({"id": True, "question": "a"}, "`id` must be text or a whole number"),
        ({"id": 1.5, "question": "a"}, "`id` must be text or a whole number"),
        ({"id": 1}, "`question` is missing"),
        ({"id": 1, "question": " \n"}, "`question` is empty"),
        ({"id": 1, "question": ["a"]}, "`question` must be text"),
        ({"id": 1, "question": "a\0b"}, "`question` holds a NUL character"),
        ({"id": 1, "question": "a\ud800"}, "`question` holds half a surrogate pair"),
        (
            {"id": 1, "question": "a", "kind": "maths"},
            "`kind` must be one of number, choice, list, set, json, math, code, text",
        ),
        (
            {"id": 1, "question": "a", "kind": ["text"]},
            "`kind` must be one of number, choice, list, set, json, math, code, text",
        ),
        ({"id": 1, "question": "a", "choices": "x"}, "`choices` must be a list of texts"),
        ({"id": 1, "question": "a", "choices": ["x", 2]}, "`choices` must be a list of texts"),
        ({"id": 1, "question": "a", "choices": ["x"]}, "`choices` must hold 2 to 26 texts, not 1"),
        ({"id": 1, "question": "a", "choices": ["x", "\0"]}, "`choices` holds a NUL character"),
    ],
)
def test_a_wrong_row_says_what_is_wrong(path: Path, row: dict[str, Any], expected: str) -> None:
    assert reason(path, row) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"id": 1, "question": "\xff"}', "not UTF-8 at byte 23"),
        (b'{"id": 1, "id": 2, "question": "a"}', "a key comes twice"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"id": ' + b"9" * 5_000 + b"}", "a number is too long"),
        (b'{"id": 1, "question": "' + b"a" * MAX_LINE + b'"}', "longer than 10,000,000 bytes"),
    ],
    ids=["cut", "array", "null", "bytes", "twice", "nested", "digits", "long"],
)
def test_a_bad_line_costs_only_itself(path: Path, line: bytes, expected: str) -> None:
    path.write_bytes(b'{"id": "a", "question": "a"}\n' + line + b'\n{"id": "b", "question": "b"}\n')

    read = read_questions(path)

    assert [row.line for row in read.rows] == [1, 3]
    [error] = read.errors
    assert error.line == 2
    assert expected in error.reason
    assert len(error.raw) <= 80


def test_a_line_of_exactly_the_cap_is_read(path: Path) -> None:
    head, tail = b'{"id": 1, "question": "', b'"}'
    path.write_bytes(head + b"a" * (MAX_LINE - len(head) - len(tail)) + tail + b"\r\n")

    assert len(read_questions(path).rows) == 1


def test_an_excerpt_holds_nothing_that_a_terminal_obeys(path: Path) -> None:
    path.write_bytes(b'\x1b[31m{"id": 1}\n')

    assert read_questions(path).errors == (
        RowError(1, "not JSON: Expecting value at character 0", '\ufffd[31m{"id": 1}'),
    )


def test_duplicate_ids_are_listed_with_all_their_lines(path: Path) -> None:
    dump(path, *({"id": id, "question": "a"} for id in ["a", 1, "b", "a", "1", "a"]))

    with pytest.raises(DuplicateIds) as caught:
        read_questions(path)

    assert caught.value.lines == {"a": (1, 4, 6), "1": (2, 5)}
    assert "'a' on lines 1, 4, 6; '1' on lines 2, 5" in str(caught.value)
    assert caught.value.where == str(path)


def test_thousands_of_duplicates_make_a_message_that_can_be_read(path: Path) -> None:
    dump(path, *({"id": i % 1_000, "question": "a"} for i in range(2_000)))

    with pytest.raises(DuplicateIds, match="and 900 more") as caught:
        read_questions(path)

    assert len(caught.value.lines) == 1_000


def test_of_rows_with_one_id_the_first_that_can_be_used_is_kept_and_the_others_are_errors(path: Path) -> None:
    path.write_text(
        '{"id": "a"}\n'
        '{"id": "a", "question": "first"}\n'
        '{"id": 1, "question": "one"}\n'
        '{"id": "a", "question": "first"}\n'
        '{"id": "1", "question": "another one"}\n'
        '{"id": "b", "question": "only"}\n'
    )

    read = read_questions(path, dedupe="first")

    assert [(row.id, row.text, row.line) for row in read.rows] == [("a", "first", 2), ("1", "one", 3), ("b", "only", 6)]
    assert [error.line for error in read.errors] == [1, 4, 5]
    assert read.errors[1] == RowError(
        4, "the id 'a' is on line 2 already, and that row is kept (--dedupe first)", '{"id": "a", "question": "first"}'
    )
    assert "the id '1' is on line 3 already" in read.errors[2].reason


def test_only_where_it_is_possible_the_user_is_told_to_keep_the_first(path: Path) -> None:
    dump(path, *({"id": "a", "question": "a", "answer": "a"} for _ in range(2)))

    with pytest.raises(DuplicateIds, match="--dedupe first"):
        read_questions(path)
    with pytest.raises(DuplicateIds, match=r"are the same\); nothing was run"):
        read_questions(path, labelled=True)
    with pytest.raises(InputError, match=r"'last' is no way[\s\S]*first") as caught:
        dedupe_of("last")
    assert caught.value.where == "--dedupe"


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf", '{"id": 1}'.encode("utf-16")])
def test_a_file_without_rows_or_in_another_encoding_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)

    with pytest.raises(InputError, match=r"no rows|UTF-16") as caught:
        read_questions(path)

    assert caught.value.remedy


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_questions(tmp_path / "nothing.jsonl")
    with pytest.raises(InputError, match="directory"):
        read_questions(tmp_path)


def test_many_rows_with_bad_ones_among_them_are_all_accounted_for(path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for i in range(20_000):
            file.write('{"id": 1,\n' if i % 100 == 0 else json.dumps({"id": i, "question": f"{i}?"}) + "\n")

    read = read_questions(path)

    assert (len(read.rows), len(read.errors)) == (19_800, 200)


@CALM
@given(st.binary(max_size=200) | st.text(st.characters(), max_size=60).map(lambda s: json.dumps({"id": s}).encode()))
def test_no_bytes_make_a_row_crash(raw: bytes) -> None:
    for labelled in (False, True):
        try:
            row = _row(raw, 1, labelled=labelled)
        except BadRow as why:
            assert str(why)
        else:
            assert row.question.id


# --- labelled questions


def test_labels_are_read_with_their_task_split_and_kind(path: Path) -> None:
    dump(
        path,
        {"id": 1, "question": "2 + 2?", "answer": 4, "task": "sums", "split": "test"},
        {"id": 2, "question": "Which?", "choices": ["x", "y"], "answer": "y"},
        {"id": 3, "question": "Fields?", "answer": {"a": 1}},
        {"id": 4, "question": "Order?", "answer": ["a", "b"], "kind": "list"},
        {"id": 5, "question": "Who?", "answer": "Zoë|Zoe"},
        {"id": 6, "question": "Half?", "answer": 0.5},
        {"id": 7, "question": "Root?", "answer": r"$\sqrt{2}$"},
    )

    read = read_questions(path, labelled=True)

    assert read.errors == ()
    assert read.rows[0] == Labelled(Question("1", "2 + 2?", (), "number", 1, numeric=True), "4", "sums", "test")
    assert [(row.question.kind, row.answer) for row in read.rows[1:]] == [
        ("choice", "y"),
        ("json", '{"a": 1}'),
        ("list", "a, b"),
        ("text", "Zoë|Zoe"),
        ("number", "0.5"),
        ("math", r"$\sqrt{2}$"),
    ]


def test_formulas_are_not_accepted_where_nothing_can_compare_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump(path, {"id": 1, "question": "Root?", "answer": r"\sqrt{2}"})
    monkeypatch.setattr("composer.answers.equal.find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"pip install 'composition-of-experts\[math\]'"):
        read_questions(path, labelled=True)


def test_a_row_with_tests_asks_for_a_program_and_needs_no_answer(path: Path) -> None:
    row = {"id": "1", "question": "Add two numbers", "tests": ["assert add(1, 2) == 3"]}
    dump(path, row, {**row, "id": "2", "kind": "code", "answer": "def add(a, b): return a + b", "task": "sums"})
    question = Question("1", "Add two numbers", (), "code", 1, tests=("assert add(1, 2) == 3",))

    read = read_questions(path, labelled=True)

    assert read.errors == ()
    assert read.rows[0] == Labelled(question, "", None, None)
    assert (read.rows[1].answer, read.rows[1].task) == ("def add(a, b): return a + b", "sums")
    assert read_questions(path).rows[0] == question


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"tests": "assert f()"}, "`tests` must be a list of texts"),
        ({"tests": ["assert f()", " "]}, "`tests` must be a list of texts"),
        ({"tests": ["assert f()", "assert f("]}, "`tests`: number 2 is not Python: '(' was never closed on line 1"),
        ({"tests": ["x = '\0'"]}, "`tests` holds a NUL character"),
        ({"tests": ["assert f()"], "kind": "text"}, "`tests` are for rows of kind code, and this is one of kind text"),
        ({"kind": "code", "answer": "x = 1"}, "`tests` is missing: they say whether a program is right"),
        ({"kind": "code", "tests": []}, "`tests` is missing: they say whether a program is right"),
    ],
)
def test_tests_that_cannot_be_run_are_a_bad_row(path: Path, row: dict[str, Any], expected: str) -> None:
    assert reason(path, {"id": 1, "question": "a", **row}, labelled=True) == expected


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, "`answer` is missing"),
        ({"answer": " "}, "`answer` is empty"),
        ({"answer": True}, "`answer` must be text, a number, a list or an object"),
        ({"answer": "\ud800"}, "`answer` holds half a surrogate pair"),
        ({"answer": ["a\0"], "kind": "list"}, "`answer` holds a NUL character"),
        ({"answer": "many", "kind": "number"}, "`answer` cannot be read as a number"),
        ({"answer": "$ $", "kind": "math"}, "`answer` cannot be read as a formula"),
        ({"answer": "C", "choices": ["x", "y"]}, "`answer` cannot be read as a letter or the text of one of `choices`"),
        ({"answer": float("nan")}, "`answer` must be text, a number, a list or an object"),
        ({"answer": "4", "task": 5}, "`task` must be text"),
        ({"answer": "4", "split": ""}, "`split` is empty"),
    ],
)
def test_a_label_that_no_draft_can_match_is_a_bad_row(path: Path, row: dict[str, Any], expected: str) -> None:
    assert reason(path, {"id": 1, "question": "a", **row}, labelled=True) == expected


# --- writing


def test_a_file_is_replaced_when_the_block_ends_well(path: Path) -> None:
    path.write_text("old", encoding="utf-8")

    with write_atomic(path) as file:
        file.write("new é\n")
        assert path.read_text(encoding="utf-8") == "old"

    assert path.read_bytes() == "new é\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_left_as_it_was_when_the_block_fails(path: Path) -> None:
    path.write_text("old", encoding="utf-8")

    with pytest.raises(KeyboardInterrupt), write_atomic(path) as file:
        file.write("half")
        raise KeyboardInterrupt

    assert path.read_text(encoding="utf-8") == "old"
    assert list(path.parent.iterdir()) == [path]


def test_bytes_go_through_the_buffer(path: Path) -> None:
    with write_atomic(path) as file:
        file.buffer.write(b"\xff\r\n")

    assert path.read_bytes() == b"\xff\r\n"


def test_a_written_file_has_the_usual_permissions(path: Path, tmp_path: Path) -> None:
    (tmp_path / "usual").touch()

    with write_atomic(path) as file:
        file.write("a")

    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_a_link_stays_a_link(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(path)

    with write_atomic(link) as file:
        file.write("a")

    assert link.is_symlink()
    assert path.read_text(encoding="utf-8") == "a"


def test_what_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    for bad in (tmp_path, Path("/dev/null"), tmp_path / "nothing" / "file"):
        with pytest.raises(InputError), write_atomic(bad) as file:
            file.write("a")

    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_full_disk_is_an_input_error_and_leaves_nothing(path: Path) -> None:
    with (
        pytest.raises(OutputFullError, match="cannot be written: No space"),
        write_atomic(path),
        Path("/dev/full").open("w", encoding="utf-8") as full,  # raises what a full disk raises
    ):
        full.write("a")

    assert not list(path.parent.iterdir())
