"""Asks arms questions through the pool and grades what they say: one table that every system is read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from composer.answers.extract import extract
from composer.answers.grade import grade
from composer.pipeline import Pipeline
from composer.stages.kit import Arms
from composer.state import Query
from composer.trace import Drafted, Routed
from composer.types import Delta, Draft, Message, Prompt, Request
from evals.tasks.skills import Item


@dataclass(frozen=True, slots=True)
class Table:
    """Every arm's draft on every item, as [item, arm] arrays: right (0 to 1), tokens in and out, seconds.

    `answers` are the extracted answers (None: none), `items` the rows, `arms` the columns.
    """

    items: tuple[Item, ...]
    arms: tuple[str, ...]
    right: NDArray[np.float64]
    tokens: NDArray[np.float64]
    seconds: NDArray[np.float64]
    answers: tuple[tuple[str | None, ...], ...]

    def column(self, arm: str) -> int:
        """The place of an arm."""
        return self.arms.index(arm)


async def ask_all(
    pipeline: Pipeline, registry: Arms, items: Sequence[Item], arms: Sequence[str], prompts: Mapping[str, Shots]
) -> Table:
    """Ask every one of `arms` every item. `prompts` gives an arm another prompt than the bare question: a name that
    stands for an expert with examples in front (`Shots`)."""
    requests: list[Request] = []
    for row, item in enumerate(items):
        for arm in arms:
            shots = prompts.get(arm)
            expert = shots.expert if shots else arm
            text = Query(item.id, item.question).prompt
            prompt: Prompt = shots.prompt(text) if shots else registry.messages(expert, text)
            stream = registry.stream(expert, prompt)
            requests.append(Request(f"{row}:{arm}", (stream,), registry.sampling(expert), arm=arm, parent=item.id))
    for item in items:
        pipeline.hearer(Routed(item.id, tuple(arms), {}, {}))
    shape = (len(items), len(arms))
    right, tokens, seconds = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    answers: list[list[str | None]] = [[None] * len(arms) for _ in items]
    async for name, piece in pipeline.pool.submit(requests):
        if isinstance(piece, Delta):
            continue
        row, column = int(name.split(":", 1)[0]), list(arms).index(name.split(":", 1)[1])
        pipeline.hearer(Drafted.of(items[row].id, arms[column], piece))
        answers[row][column], right[row, column] = judge(piece, items[row])
        tokens[row, column] = piece.usage.tokens_in + piece.usage.tokens_out
        seconds[row, column] = piece.usage.seconds
    return Table(tuple(items), tuple(arms), right, tokens, seconds, tuple(map(tuple, answers)))


@dataclass(frozen=True, slots=True)
class Shots:
    """An expert with an instruction and worked examples in front of every question."""

    expert: str
    turns: tuple[Message, ...]

    def prompt(self, text: str) -> Prompt:
        """The examples, then the question: the shared part comes first, so that it is read once."""
        return (*self.turns, Message("user", text))


def judge(draft: Draft, item: Item) -> tuple[str | None, float]:
    """The answer in a draft and whether it is right; what failed or was cut off is wrong."""
    answer = extract(draft.text, item.kind) if draft.ok else None
    return answer, grade(answer, item.answer, item.kind, (), draft.text)
