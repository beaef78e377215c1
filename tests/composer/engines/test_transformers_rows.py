"""From scores to text: what a request under way tells, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from composer.decoding.combine import combine, log_softmax
from composer.engines.transformers_rows import Row, Words, step
from composer.types import Mix, Sampling

END = 0  # a token that ends a text, and that is never written


def decode(tokens: Sequence[int]) -> str:
    """A token is a byte."""
    return bytes(token for token in tokens if token != END).decode("utf-8", "replace")


@dataclass
class Source:
    """A stream that nobody computes."""

    prompt: Sequence[int] = (65,)
    place: tuple[str, str] = ("base", "")

    def next(self, tokens: Sequence[int]) -> Any:
        raise NotImplementedError


def sure(token: int) -> Any:
    """Scores that leave no doubt."""
    scores = np.zeros(256, np.float32)
    scores[token] = 50.0
    return scores


def row(sampling: Sampling | None = None, *, room: int = 100, mix: Mix | None = None, **more: Any) -> Row:
    sampling = sampling or Sampling()
    sources = [Source(), Source((66, 67))] if mix else [Source()]
    words = Words(decode, sources[0].prompt, sampling.stop)
    return Row("q", sources, (1.5, -0.5)[: len(sources)], mix, sampling, words, chr, {END}, room, None, **more)


def written(asked: Row, text: str, end: str = "\0") -> list[dict[str, Any]]:
    """What it tells while these bytes are drawn, up to its end."""
    told = []
    for token in (text + end).encode():
        chunk = asked.take([sure(token)])
        if chunk is not None:
            told.append(chunk)
            if "usage" in chunk:
                break
    return told


def texts(told: Sequence[dict[str, Any]]) -> list[str]:
    return [chunk["choices"][0]["text"] for chunk in told]


def test_nobody_who_does_not_read_along_gets_pieces() -> None:
    [last] = written(row(), "one two")

    assert last["choices"][0] == {"index": 0, "text": "one two", "finish_reason": "stop"}
    assert last["usage"] == {"prompt_tokens": 1, "completion_tokens": 8}


def test_pieces_join_to_the_text_and_never_part_a_character() -> None:
    told = written(row(piecewise=True), "Zürich 漢字 🙂!")

    assert "".join(texts(told)) == "Zürich 漢字 🙂!"
    assert "🙂" in texts(told) and not any("\ufffd" in piece for piece in texts(told))


def test_half_a_character_at_the_end_is_not_told() -> None:
    asked = row(room=2, piecewise=True)
    first, *half = "a漢".encode()
    told = [asked.take([sure(token)]) for token in (first, half[0])]

    assert told[0] is not None and told[1] is not None
    assert texts([told[0], told[1]]) == ["a", ""] and told[1]["choices"][0]["finish_reason"] == "length"


def test_a_stop_text_ends_it_and_nothing_of_it_is_told() -> None:
    asked = row(Sampling(stop=("\n\n", "END")), piecewise=True)

    told = written(asked, "see\nEN and END of it")

    assert "".join(texts(told)) == "see\nEN and "
    assert told[-1]["choices"][0]["stop_reason"] == "END" and told[-1]["choices"][0]["finish_reason"] == "stop"


def test_the_first_of_several_stop_texts_counts() -> None:
    words = Words(lambda tokens: "".join("a b c"[token] for token in tokens), (), ("c", " b c"))

    assert [words.add(token) for token in range(5)] == [None, None, None, None, " b c"] and words.text == "a"


def test_what_looks_like_a_stop_text_is_told_once_it_is_none() -> None:
    told = written(row(Sampling(stop=("xyz",)), piecewise=True), "axyb")

    assert texts(told)[0] == "a" and "".join(texts(told)) == "axyb"


def test_a_full_context_ends_it() -> None:
    [last] = written(row(room=3), "abcdef")

    assert last["choices"][0]["text"] == "abc" and last["choices"][0]["finish_reason"] == "length"


def test_a_space_at_the_beginning_stays() -> None:
    """Some tokenizers drop the space of a text's first word: it is read behind the prompt."""
    asked = Words(lambda tokens: "".join(f" {token}" for token in tokens).removeprefix(" "), [1, 2])

    asked.add(3)

    assert asked.text == " 3"


def test_log_probabilities_are_those_of_the_mixed_scores() -> None:
    mix = Mix("logit", 0.1)
    asked = row(Sampling(max_tokens=4, logprobs=300), mix=mix)
    strong, weak = np.zeros(4, np.float32), np.zeros(4, np.float32)
    strong[:] = [-9.0, 3.0, 2.5, -9.0]
    weak[:] = [-9.0, 4.0, 0.0, -9.0]
    asked.ends = {2}

    told = asked.take([strong, weak])

    assert told is not None and asked.out == [2], "contrast takes another token than the strong one alone"
    [one] = told["choices"][0]["logprobs"]["content"]
    logprobs = log_softmax(combine([strong, weak], (1.5, -0.5), mix))
    assert one["id"] == 2 and one["logprob"] == pytest.approx(float(logprobs[2]))
    assert [top["id"] for top in one["top_logprobs"]] == [2, 1], "what is not plausible is no alternative"
    assert told["usage"] == {"prompt_tokens": 3, "completion_tokens": 1} and told["passes"] == 2


def test_what_has_no_probability_is_no_alternative() -> None:
    told = step(np.array([0.0, -math.inf, 1.0]), 2, 5, str)

    assert [top["token"] for top in told["top_logprobs"]] == ["2", "0"]


def test_streams_of_unlike_tables_are_cut_to_what_they_share() -> None:
    asked = row(mix=Mix("logit", 0.0))
    asked.width = 3

    asked.take([np.array([1.0, 2.0, 3.0, 9.0]), np.array([0.0, 0.0, 0.0, 0.0, 0.0])])

    assert asked.out == [2]


def test_the_prompt_of_who_says_what_is_plausible_counts_as_said() -> None:
    scores = np.zeros(256, np.float32)
    scores[66], scores[70] = 4.0, 3.0

    one, other = (row(Sampling(repetition_penalty=2.0), mix=Mix("logit", 0.0, mask_from=place)) for place in (0, 1))
    for asked in (one, other):
        asked.take([scores, scores])

    assert (one.out, other.out) == ([66], [70])


def test_the_next_tokens_are_the_prompts_and_then_what_was_drawn_for_all() -> None:
    asked = row(mix=Mix("logit", 0.0))
    before = list(map(list, asked.ahead))

    asked.take([sure(80), np.zeros(256, np.float32)])

    assert before == [[65], [66, 67]] and asked.ahead == [[80], [80]]
