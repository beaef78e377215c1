"""Search in an index of passages: nearest by meaning (faiss), by words (BM25, bm25s), or both, fused by reciprocal rank, and
the best of them ordered anew by a cross-encoder."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from composer.errors import InputError, PassageError, suggest
from composer.folders import mend
from composer.registry.cache import Cache
from composer.registry.indexes import Manifest, damaged, read_manifest
from composer.retrieval.corpus import Corpus
from composer.retrieval.rerank import Reranker
from composer.retrieval.split import Passage
from routers.embed import Encoder
from routers.types import Array

By = Literal["both", "meaning", "words"]

CORPUS, DENSE, MIDDLE = "passages.sqlite", "dense.faiss", "middle.npy"
WORDS = ("data.npy", "indices.npy", "indptr.npy", "vocabulary.json", "parameters.json", "absent.npy")
FUSION = 60  # the constant of reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009)
DEPTH = 50  # candidates of each kind that are fused
_FIFTH = 5
_AT_ONCE = 1000  # questions whose nearest passages are in memory

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found: its fused score, its cosine with the question (None: not among the nearest), its ranks
    from 1 (None: not among the candidates of this kind), and the score of the cross-encoder (None: it has not read it)."""

    passage: Passage
    score: float
    cosine: float | None
    by_meaning: int | None
    by_words: int | None
    cross: float | None = None


def checked(folder: Path, encoder: Encoder) -> Manifest:
    """The manifest of an index whose files are all as it says. Raises PassageError where it is missing, damaged or of
    another encoder."""
    mend(folder)
    manifest = read_manifest(folder)
    cache = Cache()
    for name, sha256 in manifest.files.items():
        try:
            found = cache.digest(folder / name)
        except OSError as why:
            raise damaged(folder, f"{name} cannot be read: {why.strerror or why}") from why
        if found != sha256:
            raise damaged(folder, f"the sha256 of {name} is {found[:12]}…, expected {sha256[:12]}…")
    if manifest.encoder != encoder.fingerprint:
        raise PassageError(
            "its vectors are of another encoder than the registry's",
            where=str(folder),
            remedy="build it again with this registry (`coe index build`), or name the registry it was built with",
        )
    return manifest


@dataclass(frozen=True, slots=True)
class Closeness:
    """Of n questions, [n] each: the cosine of the nearest passage (`top`), how far the fifth nearest is below it (`gap`),
    the cosine with the middle of all passages (`near`), and the largest share of the question's words, weighed by how rare
    they are (log of passages per passage with the word), that one of the five nearest has (`overlap`; None: no passage
    has a word)."""

    top: Array
    gap: Array
    near: Array
    overlap: Array | None


class PassageIndex:
    """An open index. Thread-safe for searching; close it, or use it as a context.

    It goes on as it was opened when another is built in its place, or its folder is removed. Where somebody writes into
    its very files, no more is found in it.
    """

    def __init__(self, folder: Path, manifest: Manifest, encoder: Encoder, reranker: Reranker | None = None) -> None:
        """Open the files, which nobody has compared with the manifest: `open` does."""
        import faiss  # noqa: PLC0415 - only searches need it

        self.folder, self.manifest, self._encoder, self._reranker = folder, manifest, encoder, reranker
        with ExitStack() as stack:
            self._held = [stack.enter_context((folder / name).open("rb")) for name in manifest.files]
            self._states = self._as_they_are()
            self._corpus = stack.enter_context(closing(Corpus(folder / CORPUS)))
            dense: Any = faiss.read_index(str(folder / DENSE))
            if manifest.lists:
                dense.nprobe = manifest.probes
            self._dense: Any = dense
            self._words = load_words(folder)
            self._middle: Array = np.load(folder / MIDDLE, allow_pickle=False)
            if not all(os.path.samestat(os.fstat(file.fileno()), Path(file.name).stat()) for file in self._held):
                raise FileNotFoundError("another index was put in its place meanwhile")
            self._open = stack.pop_all()

    @classmethod
    def open(cls, folder: Path, encoder: Encoder, reranker: Reranker | None = None) -> Self:
        """Open the index in `folder`; `reranker` serves searches with `rerank`. Every file is compared with its sha256
        (read once, then known by size and time). Raises PassageError where it is missing, damaged or of another encoder."""
        manifest = checked(folder, encoder)
        try:
            return cls(folder, manifest, encoder, reranker)
        except (OSError, RuntimeError, ValueError, sqlite3.Error) as why:
            raise damaged(folder, f"it cannot be opened: {why}") from why

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._open.close()
        self._dense = self._words = None

    def _unchanged(self) -> None:
        if self._as_they_are() != self._states:  # the words are mapped: who reads what was cut off is killed
            raise damaged(self.folder, "its files were written into since it was opened")

    def _as_they_are(self) -> list[tuple[int, int]]:
        """The sizes and times of the files that are open, whatever has their names now."""
        return [(state.st_size, state.st_mtime_ns) for state in (os.fstat(file.fileno()) for file in self._held)]

    def search(
        self, questions: Sequence[str], k: int = 5, *, by: By = "both", vectors: Array | None = None, rerank: int = 0
    ) -> list[tuple[Hit, ...]]:
        """The k best passages of each question, best first. `vectors` [len(questions), dim] of the same encoder spare the
        encoding. Fused by reciprocal rank: the sum of 1 / (60 + rank) over both orders of the 50 best. The `rerank` best
        of these are ordered anew by the cross-encoder; those it has not read come after them. Raises PassageError where
        there is no cross-encoder, or it fails, or the files have changed."""
        self._unchanged()
        most = max(k, rerank)
        depth = min(max(DEPTH, most), self.manifest.passages)
        if not questions or not depth:
            return [() for _ in questions]
        nearest = rows = cosines = None
        if by != "words":
            cosines, nearest = self._nearest(self._encoder.encode(questions) if vectors is None else vectors, depth)
        if by != "meaning":
            rows = self._by_words(questions, depth)
        found = []
        for place in range(len(questions)):
            meaning = [] if nearest is None else [int(row) for row in nearest[place] if row >= 0]
            words = [] if rows is None else rows[place]
            known = {} if cosines is None else dict(zip(meaning, map(float, cosines[place]), strict=False))
            found.append(_fused(meaning, words, known, most))
        passages = self._corpus.get([ranked[0] + 1 for hits in found for ranked in hits])
        told = [
            [Hit(passages[row + 1], score, cosine, near, word) for row, score, cosine, near, word in hits]
            for hits in found
        ]
        if rerank:
            told = [self._anew(question, hits, rerank) for question, hits in zip(questions, told, strict=True)]
        return [tuple(hits[:k]) for hits in told]

    def _anew(self, question: str, hits: Sequence[Hit], most: int) -> list[Hit]:
        """The `most` best in the cross-encoder's order, of equal ones the better found first; then the others."""
        if self._reranker is None:
            raise PassageError(
                "no cross-encoder is here to order passages anew",
                where=str(self.folder),
                remedy="open the index with one, or search without `rerank`",
            )
        scores = self._reranker.score(question, [hit.passage.text for hit in hits[:most]])
        read = [replace(hit, cross=float(score)) for hit, score in zip(hits[:most], scores, strict=True)]
        return [read[place] for place in np.argsort(-scores, kind="stable")] + list(hits[most:])

    def closeness(self, questions: Sequence[str], vectors: Array) -> Closeness:
        """What a gate may know of questions, `vectors` [n, dim], before anything is read. Raises PassageError where the files
        have changed."""
        self._unchanged()
        cosines, rows = self._nearest(vectors, min(_FIFTH, self.manifest.passages))
        cosines = np.where(rows < 0, -1, cosines)  # the lists that were looked into may hold fewer
        overlap = self._overlap(questions, rows)
        return Closeness(cosines[:, 0], cosines[:, 0] - cosines[:, -1], vectors @ self._middle, overlap)

    def _overlap(self, questions: Sequence[str], rows: Numbers) -> Array | None:
        if not self._rarity:
            return None
        found = np.zeros(len(questions), dtype=np.float32)
        for at in range(0, len(questions), _AT_ONCE):
            part = slice(at, at + _AT_ONCE)
            found[part] = self._shared(questions[part], rows[part])
        return found

    def _shared(self, questions: Sequence[str], rows: Numbers) -> list[float]:
        rarity, found = self._rarity, []
        texts = self._corpus.get([int(row) + 1 for row in np.unique(rows) if row >= 0])
        spoken = tokenized([f"{one.title}\n{one.text}" for one in texts.values()], ids=False)
        said = dict(zip(texts, map(set, spoken), strict=True))
        for words, own in zip(map(set, tokenized(questions, ids=False)), rows, strict=True):
            weight = {word: rarity.get(word, rarity[""]) for word in words}
            shared = [sum(weight[word] for word in words & said[int(row) + 1]) for row in own if row >= 0]
            found.append(max(shared, default=0.0) / (sum(weight.values()) or 1.0))
        return found

    @cached_property
    def _rarity(self) -> dict[str, float]:
        """How rare each word of the passages is, in nats; under "" that of a word which none has. Empty where the passages
        have no words."""
        if self._words is False:
            return {}
        held = np.diff(self._words.scores["indptr"])
        rare = np.log(1 + self.manifest.passages / (1 + np.append(held, 0)))
        names = {word: float(rare[place]) for word, place in self._words.vocab_dict.items() if place < len(held)}
        return names | {"": float(rare[-1])}

    def _nearest(self, vectors: Array, depth: int) -> tuple[Array, Numbers]:
        cosines, rows = self._dense.search(np.ascontiguousarray(vectors, dtype=np.float32), depth)
        return cosines, rows

    def _by_words(self, questions: Sequence[str], depth: int) -> list[list[int]]:
        if self._words is False:
            return [[] for _ in questions]
        return [best_of(self._words.get_scores(words), depth) for words in tokenized(questions, ids=False)]


def best_of(scores: NDArray[np.floating[Any]], k: int) -> list[int]:
    """The places of the k largest scores above 0, best first, of equal ones the first. Most are 0, and are not looked at
    twice.

    >>> best_of(np.array([0, 1, 0, 3, 1.0]), 2)
    [3, 1]
    """
    rows = np.flatnonzero(scores > 0)
    own = scores[rows]
    if len(rows) > k:
        least = np.partition(own, len(own) - k)[len(own) - k]
        rows, own = rows[own >= least], own[own >= least]
    return [int(row) for row in rows[np.lexsort((rows, -own))][:k]]


def way_of(name: str) -> By:
    """The way to search that a user names. Raises InputError for any other."""
    ways: tuple[By, ...] = get_args(By)
    for way in ways:
        if name == way:
            return way
    raise InputError(f"{name!r} is no way to search", where="--by", remedy=suggest(name, ways))


def _fused(
    meaning: Sequence[int], words: Sequence[int], cosine: Mapping[int, float], k: int
) -> list[tuple[int, float, float | None, int | None, int | None]]:
    """(row, score, cosine, rank by meaning, rank by words), best first; equal scores in the order of rows."""
    ranks = [{row: rank for rank, row in enumerate(order, 1)} for order in (meaning, words)]
    score = {row: sum(1 / (FUSION + order[row]) for order in ranks if row in order) for row in {*meaning, *words}}
    best = sorted(score, key=lambda row: (-score[row], row))[:k]
    return [(row, score[row], cosine.get(row), ranks[0].get(row), ranks[1].get(row)) for row in best]


def tokenized(texts: Sequence[str], *, ids: bool = True) -> Any:
    """What bm25s takes (`ids`: for an index; else lists of words, for questions): words in lower case without English stop words, stemmed; what is of another language passes as it is."""
    import bm25s  # noqa: PLC0415 - only searches by words need them
    import Stemmer  # noqa: PLC0415

    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, return_ids=ids, show_progress=False)


def save_words(texts: Sequence[str], folder: Path) -> tuple[str, ...]:
    """Write the BM25 index (Robertson's, in the variant of Lucene) of these texts; the names of its files, none where no
    text has a word."""
    import bm25s  # noqa: PLC0415

    tokens = tokenized(texts)
    if not tokens.vocab or not any(tokens.ids):
        return ()
    words = bm25s.BM25()
    words.index(tokens, show_progress=False)
    words.save(str(folder), **_names(), show_progress=False)
    return tuple(name for name in WORDS if (folder / name).exists())


def load_words(folder: Path) -> Any:
    """The BM25 index; False where it has no word."""
    import bm25s  # noqa: PLC0415

    if not (folder / WORDS[0]).exists():
        return False
    return bm25s.BM25.load(str(folder), **_names(), mmap=True, show_progress=False)


def _names() -> dict[str, str]:
    keys = ("data_name", "indices_name", "indptr_name", "vocab_name", "params_name", "nnoc_name")
    return dict(zip(keys, WORDS, strict=True))
