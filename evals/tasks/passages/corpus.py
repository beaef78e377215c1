"""A corpus to look things up in, and labelled questions about it: what evaluations of retrieval are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from composer.jsonl import Labelled, write_atomic
from composer.retrieval.documents import Document


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents (their `name` is the id of their row) and questions, each of the split `profile` or `test`. `relevant`
    names, by the question's id, the documents that hold its answer; a question that none answers has no entry."""

    name: str
    documents: tuple[Document, ...]
    items: tuple[Labelled, ...]
    relevant: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def of(self, split: str) -> tuple[Labelled, ...]:
        """The questions of one split, in order."""
        return tuple(item for item in self.items if item.split == split)


def write_documents(corpus: Corpus, path: Path) -> None:
    """Write the documents as the JSONL rows `id, title, text` that `coe index build` reads. Raises InputError where the
    file cannot be written."""
    with write_atomic(path) as file:
        for one in corpus.documents:
            titled = {"title": one.title} if one.title else {}
            file.write(json.dumps({"id": one.name, **titled, "text": one.text}, ensure_ascii=False) + "\n")


def write_items(corpus: Corpus, path: Path, split: str | None = None) -> None:
    """Write the questions (of one split, where it is named) as the labelled JSONL that `coe profile` reads. Raises
    InputError where the file cannot be written."""
    with write_atomic(path) as file:
        for item in corpus.items if split is None else corpus.of(split):
            asked = item.question
            row: dict[str, object] = {"id": asked.id, "question": asked.text, "answer": item.answer, "kind": asked.kind}
            row |= {"choices": list(asked.choices)} if asked.choices else {}
            row |= {name: told for name in ("task", "split") if (told := getattr(item, name)) is not None}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
