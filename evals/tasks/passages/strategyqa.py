"""StrategyQA (Geva et al., TACL 2021) as retrieval: yes-or-no questions, and the facts of all of them as the corpus."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from composer.errors import InputError
from composer.jsonl import Labelled, Question
from composer.retrieval.documents import Document
from evals.tasks.passages.corpus import Corpus

FILE = Path("benchmarks") / "strategyqa_dev.json"
"""Where the published development set (229 questions) lies below the folder of data."""

# Read as kind `text`: of lettered options the packaged generalist takes the first, whatever it says (24 of 25).
_ASK = " Answer yes or no."


def strategyqa(path: Path, seed: int = 0) -> Corpus:
    """The questions of a StrategyQA file, one document per question with the facts that its authors wrote down for it: to
    every question the facts of the others are what distracts. A question that comes twice counts once. The documents have
    no title: it would give the question's subject away. Half of the questions, drawn by `seed`, are of the split
    `profile`, the others of `test`.

    Raises InputError where the file cannot be read or has another form.
    """
    try:
        data: Any = json.loads(path.read_bytes())
        rows = {str(row["question"]).strip(): _row(row) for row in reversed(data)}
    except OSError as why:
        raise InputError(f"cannot be read: {why.strerror}", where=str(path), remedy=_REMEDY) from why
    except (ValueError, TypeError, KeyError, RecursionError) as why:
        raise InputError(f"this is no StrategyQA file ({why!r})", where=str(path), remedy=_REMEDY) from why
    asked = sorted(rows.items(), key=lambda item: item[1][0])
    profile = set(Random(f"strategyqa/{seed}").sample(range(len(asked)), len(asked) // 2))
    documents, items = [], []
    for place, (question, (qid, answer, facts)) in enumerate(asked):
        documents.append(Document(qid, " ".join(map(_sentence, facts))))
        items.append(
            Labelled(
                Question(f"strategyqa-{qid}", question + _ASK, (), "text", place + 1),
                "yes" if answer else "no",
                "strategyqa",
                "profile" if place in profile else "test",
            )
        )
    relevant = {item.question.id: (document.name,) for item, document in zip(items, documents, strict=True)}
    return Corpus("strategyqa", tuple(documents), tuple(items), relevant)


_REMEDY = "take strategyqa_dev.json as its authors published it"


def _row(row: dict[str, Any]) -> tuple[str, bool, list[str]]:
    qid, answer, facts = row["qid"], row["answer"], row["facts"]
    if not isinstance(qid, str) or not isinstance(answer, bool):
        raise ValueError("a row without an id, or without an answer")
    if not isinstance(facts, list) or not facts or not all(isinstance(fact, str) and fact.strip() for fact in facts):
        raise ValueError("a row without facts")
    return qid, answer, facts


def _sentence(fact: str) -> str:
    """A fact with a full stop: a passage ends with a sentence."""
    fact = " ".join(fact.split())
    return fact if fact[-1] in ".!?" else f"{fact}."
