"""Routes and drafts for people and for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from composer.show import drafts_text, printable, route_data, route_text, runner_up, why
from routers.types import Reason, Route

ROUTE = Route(
    ("sums",),
    {"law": 0.2, "sums": 0.9, "base": 0.5},
    Reason(skills=(("arithmetic", 0.8), ("dates", 0.1)), nearest=(("item-7", 0.93), ("item-9", 0.8))),
)
FALLBACK = Route(("base",), {"base": 0.5}, Reason(fallback="no skill was found"))


@pytest.mark.parametrize(
    "char", ["\x1b", "\r", "\x00", "\x07", "\x08", "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\u2028", "\ud800"]
)
def test_what_a_terminal_would_obey_is_replaced(char: str) -> None:
    assert printable(f"a{char}[31mb") == "a\ufffd[31mb"


def test_ordinary_text_stays_as_it_is() -> None:
    assert printable("naïve\tline\n日本語 😀 €") == "naïve\tline\n日本語 😀 €"


def test_the_runner_up_is_the_best_arm_that_was_not_chosen() -> None:
    assert runner_up(ROUTE) == ("base", 0.5)
    assert runner_up(FALLBACK) is None


def test_the_reason_names_the_skills_or_the_fallback() -> None:
    assert why(ROUTE) == "sums has the best record on what the question needs (arithmetic 0.80, dates 0.10)"
    assert why(FALLBACK) == "base: no skill was found"


def test_a_rule_that_chose_is_named_and_an_arm_that_is_not_the_best_is_not_called_so() -> None:
    moved = Route(("base",), ROUTE.scores, Reason(skills=(("arithmetic", 0.8),), note="chosen by balanced"))
    first = Route(("sums", "base"), ROUTE.scores, Reason(note="chosen by top-p"))

    assert why(moved) == "base, though sums scores higher, chosen by balanced"
    assert why(first) == "sums scores best, chosen by top-p"


def test_a_route_to_nobody_is_told_too() -> None:
    nobody = Route((), {"sums": 0.1, "base": 0.2}, Reason())

    assert why(nobody) == "nobody is asked: the policy abstains"
    assert route_text(nobody).startswith("route    nobody\n")
    assert route_data("Hi", nobody)["margin"] is None


def test_a_route_as_data_has_all_keys_and_is_json() -> None:
    data = json.loads(json.dumps(route_data("1 + 1?", ROUTE)))

    assert data == {
        "question": "1 + 1?",
        "chosen": ["sums"],
        "scores": {"law": 0.2, "sums": 0.9, "base": 0.5},
        "runner_up": "base",
        "margin": 0.4,
        "skills": [{"name": "arithmetic", "weight": 0.8}, {"name": "dates", "weight": 0.1}],
        "nearest": [{"question": "item-7", "similarity": 0.93}, {"question": "item-9", "similarity": 0.8}],
        "fallback": None,
        "note": None,
        "coverage": {"gap": None, "margin": None, "entropy": None, "flags": []},
        "why": why(ROUTE),
    }


def test_a_fallback_as_data_has_the_same_keys() -> None:
    data = route_data("Hi", FALLBACK)

    assert data.keys() == route_data("Hi", ROUTE).keys()
    assert (data["runner_up"], data["margin"], data["fallback"]) == (None, None, "no skill was found")


def test_a_route_as_text_shows_every_score_best_first() -> None:
    lines = route_text(ROUTE).splitlines()

    assert lines[0] == "route    sums 0.90  (runner-up base 0.50, margin 0.40)"
    assert lines[1] == "skills   arithmetic 0.80, dates 0.10"
    assert [line.split()[-3:-1] for line in lines[2:5]] == [["sums", "0.90"], ["base", "0.50"], ["law", "0.20"]]
    assert "* sums" in lines[2] and "*" not in lines[3] + lines[4]
    assert lines[5] == "nearest  item-7 (0.93), item-9 (0.80)"
    assert lines[6] == f"why      {why(ROUTE)}"


def test_a_fallback_as_text_says_so() -> None:
    text = route_text(FALLBACK)

    assert "skills   none found" in text and "runner-up" not in text and "nearest" not in text
    assert text.endswith("why      base: no skill was found")


def draft(**changes: Any) -> dict[str, Any]:
    row = {"name": "sums", "draft": "It is\n\x1b[2J2.", "error": None, "cached": False, "tokens_out": 3, "seconds": 0.5}
    return row | changes


def test_drafts_are_shown_with_their_price_and_without_control_characters() -> None:
    failed = draft(name="law", draft="", error={"message": "too slow"})

    text = drafts_text({"drafts": [draft(), draft(cached=True), failed], "trace_id": "abc", "sure": None, "marks": []})

    assert text.splitlines() == [
        "draft    sums (3 tokens, 0.50 s):",
        "         | It is",
        "         | \ufffd[2J2.",
        "draft    sums (from the store):",
        "         | It is",
        "         | \ufffd[2J2.",
        "draft    law (3 tokens, 0.50 s):",
        "         | failed: too slow",
        "trace    abc",
    ]


def test_what_was_taken_off_is_shown_with_its_reason() -> None:
    against = {
        "partner": "law",
        "chosen": "ranked last",
        "beta": 0.5,
        "alpha": 0.1,
        "why": "right +3.0 points more often",
    }
    rest = {"trace_id": "abc", "sure": None, "marks": []}

    text = drafts_text({"drafts": [draft(contrast=against), draft(contrast={**against, "why": ""}), draft()], **rest})

    assert text.count("less     law (ranked last), beta 0.5, alpha 0.1\n") == 1
    assert text.count("less     law (ranked last), beta 0.5, alpha 0.1; right +3.0 points more often\n") == 1


def test_who_was_asked_by_name_has_no_scores_to_show() -> None:
    route = Route(("coder@code",), {}, Reason(note="coder@code was asked by name"))

    assert route_text(route) == "route    coder@code\nwhy      coder@code was asked by name"


@pytest.mark.parametrize(
    ("strategy", "lines"),
    [
        (None, []),
        (
            {"use": "code", "calls": [{"program": "1 +\\\n1", "gave": "2", "why": ""}], "why": ""},
            ["strategy code, 1 program was run", "         > 1 +\\", "         > 1", "         = 2"],
        ),
        (
            {"use": "code", "calls": [{"program": "x", "gave": "", "why": "no x"}], "why": "no x"},
            ["strategy code, 1 program was run", "         > x", "         = nothing: no x"],
        ),
        (
            {"use": "tool", "calls": [], "why": "the draft was cut off"},
            ["strategy tool, 0 programs were run", "         no answer: the draft was cut off"],
        ),
    ],
)
def test_programs_are_shown_with_what_they_gave(strategy: dict[str, Any] | None, lines: list[str]) -> None:
    draft = {
        "name": "a",
        "draft": "said",
        "error": None,
        "cached": True,
        **({"strategy": strategy} if strategy else {}),
    }
    trace = {"drafts": [draft], "sure": None, "marks": [], "trace_id": "t"}

    assert drafts_text(trace).splitlines()[2:-1] == lines
