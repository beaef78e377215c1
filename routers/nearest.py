"""Nearest profile questions by cosine: exact while there are few, in inverted lists when there are many (faiss)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routers.errors import RouterError
from routers.perarm import Column, Table
from routers.types import Array, Indices, Questions

_SPARE = 16  # candidates beyond k: faiss rounds to float32, and its order of near-equals depends on the batch
_STEP = 4_000_000  # cells of one block of exact cosines


@dataclass(slots=True)
class Nearest:
    """`find` gives the k nearest of the added unit rows. Exact below `exact_below` rows; above, faiss's inverted lists
    with about sqrt(n) x 4 centres, of which `probes` are looked into. Equal cosines go to the row added first."""

    exact_below: int = 20_000
    probes: int = 12
    vectors_: Array = field(
        default_factory=lambda: np.zeros((0, 0), dtype=np.float32), init=False, repr=False, compare=False
    )
    wide_: Any = field(default=None, init=False, repr=False, compare=False, metadata={"transient": True})
    index_: Any = field(default=None, init=False, repr=False, compare=False, metadata={"transient": True})

    def fit(self, vectors: Array) -> Self:
        """Take unit rows [n, dim]."""
        self.vectors_ = np.ascontiguousarray(vectors, dtype=np.float32)
        self.wide_ = self.index_ = None
        return self

    def find(self, vectors: Array, k: int) -> tuple[Indices, Table]:
        """The rows nearest to each of `vectors` [m, dim] and their cosines, nearest first: [m, min(k, n)] each."""
        n = len(self.vectors_)
        if vectors.shape[1:] != self.vectors_.shape[1:]:
            raise RouterError(
                f"the questions' vectors have the shape {vectors.shape}, the profile's {self.vectors_.shape}\n"
                "  next: embed both with the same encoder"
            )
        k = min(k, n)
        if n < self.exact_below:
            step = max(1, _STEP // max(1, n))
            parts = [self._exact(vectors[at : at + step], k) for at in range(0, max(1, len(vectors)), step)]
            return np.concatenate([rows for rows, _ in parts]), np.concatenate([cosine for _, cosine in parts])
        wanted = min(n, k + _SPARE)
        _, rows = self._lists().search(np.ascontiguousarray(vectors, dtype=np.float32), wanted)
        return self._settled(vectors, rows.astype(np.int64), k)

    def _exact(self, vectors: Array, k: int) -> tuple[Indices, Table]:
        if self.wide_ is None:
            self.wide_ = self.vectors_.astype(np.float64)
        cosine = (vectors.astype(np.float64) @ self.wide_.T).round(9)  # the same, however many are asked at once
        rows: Indices = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        own = np.take_along_axis(cosine, rows, 1)
        order = np.lexsort((rows, -own))
        return np.take_along_axis(rows, order, 1), np.take_along_axis(own, order, 1)

    def _settled(self, vectors: Array, rows: Indices, k: int) -> tuple[Indices, Table]:
        """The k nearest of the candidates in `rows`, by cosines that do not depend on how many rows are asked at once."""
        chosen = np.where(rows < 0, 0, rows)  # the lists that were looked into may hold fewer
        cosine = np.einsum("md,mwd->mw", vectors.astype(np.float64), self.vectors_[chosen].astype(np.float64))
        cosine = np.where(rows < 0, -1.0, cosine)
        order = np.lexsort((rows, -cosine.round(6)))[:, :k]
        return np.take_along_axis(chosen, order, 1), np.take_along_axis(cosine, order, 1)

    def _lists(self) -> Any:
        if self.index_ is None:
            import faiss  # noqa: PLC0415 - only many rows need it

            n, width = self.vectors_.shape
            lists = int(4 * n**0.5)
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
            index.cp.seed, index.cp.niter = 42, 10
            index.train(self.vectors_[:: max(1, n // (40 * lists))])
            index.add(self.vectors_)
            index.nprobe = self.probes
            self.index_ = index
        return self.index_


@dataclass(slots=True)
class Bank:
    """The profile questions that arms were measured on: each arm keeps rows of it and one value per row."""

    ids_: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)
    vectors_: Array = field(
        default_factory=lambda: np.zeros((0, 0), dtype=np.float32), init=False, repr=False, compare=False
    )

    def fit(self, questions: Questions) -> Self:
        """Hold these."""
        self.ids_, self.vectors_ = questions.ids, questions.vectors
        return self

    def rows(self, questions: Questions, seen: NDArray[np.bool_]) -> Indices:
        """The rows of the questions marked in `seen`. Unknown ones are added: an arm that joins may have been measured
        on questions of its own."""
        known = {name: place for place, name in enumerate(self.ids_)}
        asked = [int(row) for row in np.flatnonzero(seen)]
        fresh = [row for row in asked if questions.ids[row] not in known]
        if fresh:
            known.update({questions.ids[row]: len(self.ids_) + place for place, row in enumerate(fresh)})
            self.vectors_ = np.concatenate([self.vectors_, questions.vectors[fresh]])
            self.ids_ += tuple(questions.ids[row] for row in fresh)
        return np.array([known[questions.ids[row]] for row in asked], dtype=np.int64)

    def groups(self, columns: Sequence[Column], value: str) -> list[Group]:
        """Arms by the rows they were asked: those of one group share a search, and no arm takes another's neighbours."""
        places: dict[bytes, list[int]] = {}
        for place, column in enumerate(columns):
            places.setdefault(column["rows"].tobytes(), []).append(place)
        return [
            Group(
                arms=np.array(own, dtype=np.int64),
                rows=columns[own[0]]["rows"],
                nearest=Nearest().fit(self.vectors_[columns[own[0]]["rows"]]),
                value=np.stack([columns[place][value] for place in own], axis=1),
            )
            for own in places.values()
        ]

    def named(self, group: Group, vectors: Array, k: int = 3) -> list[tuple[tuple[str, float], ...]]:
        """The ids and cosines of the nearest rows of a group, for people."""
        if not len(group.rows):
            return [()] * len(vectors)
        rows, cosine = group.nearest.find(vectors, k)
        return [
            tuple((self.ids_[int(group.rows[i])], round(float(c), 4)) for i, c in zip(near, own, strict=True))
            for near, own in zip(rows, cosine, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Group:
    """Arms (their places) that were asked the same rows of a bank, a search over these, and values [row, arm]."""

    arms: Indices
    rows: Indices
    nearest: Nearest
    value: Table

    def sums(self, vectors: Array, k: int, width: float) -> tuple[Table, Table]:
        """Over the k nearest rows, with the kernel K = exp((cosine - 1) / width): sum of K x value [m, arm of the
        group], and sum of K [m, 1]; zeros where the group has no row."""
        if not len(self.rows):
            return np.zeros((len(vectors), len(self.arms))), np.zeros((len(vectors), 1))
        rows, cosine = self.nearest.find(vectors, k)
        kernel = np.exp((cosine - 1) / width)
        return np.einsum("mk,mka->ma", kernel, self.value[rows]), kernel.sum(axis=1, keepdims=True)
