"""The arithmetic of the child that trains, without torch: batches, pace, patience, and where the loss begins."""

from __future__ import annotations

from itertools import islice
from random import Random
from typing import Any

import pytest

from composer.training.child import Example, JobError, Patience, batches, closing, encode, endless, pace


class Letters:
    """A tokenizer of one number per character; `|` closes a message and is the only mark."""

    bos_token_id = None
    eos_token_id = ord("$")
    all_special_ids = (ord("|"), ord("$"))

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Letters:
        self.input_ids = [ord(letter) for letter in text]
        return self

    def apply_chat_template(self, turns: list[dict[str, str]], **told: Any) -> str:
        said = "".join(f"<{turn['role'][0]}>{turn['content']}|\n" for turn in turns)
        return said + ("<a>" if told.get("add_generation_prompt") else "")


class Marked(Letters):
    """The same with a mark at the beginning of every text."""

    bos_token_id = ord("^")

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> Letters:
        return super().__call__("^" + text if add_special_tokens else text)


TURNS = [{"role": "user", "content": "2 + 2?"}]


def text(numbers: Any) -> str:
    return "".join(map(chr, numbers))


@pytest.mark.parametrize(("tokenizer", "begin"), [(Letters(), ""), (Marked(), "^")])
def test_the_loss_begins_at_the_target_and_ends_with_the_mark_that_closes_it(tokenizer: Any, begin: str) -> None:
    [example] = encode(tokenizer, [(TURNS, "4")], None, 100, 0)

    assert text(example.tokens) == begin + "<u>2 + 2?|\n<a>4|"
    assert text(example.tokens[example.start :]) == "4|"


def test_a_model_that_continues_gets_the_text_as_it_stands() -> None:
    [example] = encode(Letters(), [("2 + 2 =", " 4")], None, 100, 0)

    assert text(example.tokens) == "2 + 2 = 4$" and text(example.tokens[example.start :]) == " 4$"
    assert closing(Letters(), None, False) == ord("$")


def test_a_row_that_is_too_long_is_named() -> None:
    with pytest.raises(JobError, match="are 43 tokens, the context has 40") as caught:
        encode(Letters(), [(TURNS, "4"), (TURNS, "4" * 28)], None, 40, 7)

    assert caught.value.row == 8


def test_batches_are_full_and_pad_little() -> None:
    rng = Random(1)
    examples = [Example((0,) * rng.randint(20, 60), 10) for _ in range(960)]

    made = batches(examples, 8, 2)

    padded = sum(8 * max(len(one.tokens) for one in batch) for batch in made)
    assert len(made) == 120 and all(len(batch) == 8 for batch in made)
    assert padded < 1.15 * sum(len(one.tokens) for one in examples)


def test_every_round_has_all_examples_and_another_order() -> None:
    examples = [Example((number,), 0) for number in range(40)]

    first, second = (list(islice(endless(examples, 4, seed), 10)) for seed in (0, 1))
    both = list(islice(endless(examples, 4, 0), 20))

    assert both == first + second and first != second
    assert sorted(one.tokens for batch in first for one in batch) == [(number,) for number in range(40)]


def test_fewer_examples_than_a_batch_are_a_batch() -> None:
    assert [len(batch) for batch in batches([Example((1,), 0)] * 3, 8, 0)] == [3]


def test_the_learning_rate_rises_and_falls_to_nearly_nothing() -> None:
    rates = [pace(step, 50, 10) for step in range(1, 51)]

    assert max(rates) == rates[9] == 1.0 and rates[-1] == pytest.approx(0.03)


def test_patience_ends_after_so_many_looks_without_a_new_best() -> None:
    seen = Patience(2.0, 2)

    told = [(seen.look(step, loss), seen.over) for step, loss in enumerate([1.0, 1.5, 0.9, 0.9, 1.2], 1)]

    assert told == [(True, False), (False, False), (True, False), (False, False), (False, True)]
    assert (seen.step, seen.best) == (3, 0.9)


def test_what_never_beats_the_base_has_no_best_step() -> None:
    seen = Patience(1.0, 3)

    assert [seen.look(step, 1.0) for step in (1, 2, 3)] == [False] * 3
    assert seen.over and seen.step == 0
