"""Builds an index of passages: only what changed is embedded, and a build that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer.errors import InputError, PassageError
from composer.folders import lock, mend, replacing
from composer.registry.cache import Cache
from composer.registry.indexes import MANIFEST, Manifest, read_manifest, write_manifest
from composer.retrieval.corpus import Corpus
from composer.retrieval.documents import Document, Unread, read_documents
from composer.retrieval.index import (
    CORPUS,
    DENSE,
    MIDDLE,
    save_words,
)
from composer.retrieval.split import Offsets, Passage, split
from routers.embed import Encoder
from routers.types import Array

EXACT_BELOW = 50_000  # passages; from there on inverted lists
RECALL = 0.98  # among ten, of the inverted lists against an exact search
_ASKED, _AMONG = 256, 10
_BATCH = 256  # passages that are embedded and stored together
_SENTENCE = 200  # characters of a passage that are asked for to measure the recall


@dataclass(frozen=True, slots=True)
class Built:
    """What a build did. `embedded` passages are new, the others were there; `dropped` documents are gone."""

    folder: Path
    manifest: Manifest
    embedded: int
    dropped: int
    unread: tuple[Unread, ...]


def build(
    source: Path,
    folder: Path,
    encoder: Encoder,
    offsets: Offsets,
    *,
    most: int = 180,
    least: int = 60,
    progress: Callable[[int, int], None] = lambda documents, passages: None,
) -> Built:
    """Index the documents of `source` in `folder`. What is there already is kept: documents of equal content and title are
    not read into passages again, those that are gone are dropped. Until it ends the old index is served; stopped, it goes
    on from where it was when asked again. `progress(documents, passages)` is told now and then.

    Raises InputError (nothing to index, a folder that is no index, a size that makes no sense), OSError.
    """
    if not 1 <= least <= most:
        raise InputError(f"passages of {least} to {most} tokens make no sense", remedy="raise --tokens")
    mend(folder)
    if folder.exists() and not (folder / MANIFEST).is_file() and any(folder.iterdir()):
        raise InputError("this folder holds something that is no index", where=str(folder), remedy="name another one")
    work = folder.with_name(f".{folder.name}-building")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(work):
        _begin(work, folder, {"encoder": encoder.fingerprint, "most": most, "least": least})
        with Corpus(work / CORPUS, write=True) as corpus:
            embedded, dropped, unread = _fill(corpus, source, encoder, offsets, most, least, progress)
            n = corpus.renumber()
            if not n:
                told = (
                    f"; {len(unread)} could not be read, first {unread[0].where}: {unread[0].reason}" if unread else ""
                )
                raise InputError(f"no document holds any text{told}", where=str(source), remedy="look into it")
            documents = len(corpus.documents())
            corpus.finish()
        with replacing(folder) as fresh:
            shutil.copy2(work / CORPUS, fresh / CORPUS)
            manifest = _finish(fresh, encoder, n, documents, most, least)
        shutil.rmtree(work, ignore_errors=True)
    return Built(folder, manifest, embedded, dropped, tuple(unread))


def _begin(work: Path, folder: Path, settings: dict[str, Any]) -> None:
    """A folder to work in: that of the last, stopped build, a copy of the index, or an empty one; all of these settings."""
    told = work / "settings.json"
    try:
        if json.loads(told.read_bytes()) == settings:
            return
    except (OSError, ValueError, RecursionError):
        pass
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        old = read_manifest(folder)
        same = {"encoder": old.encoder, "most": old.most, "least": old.least} == settings
        if same and Cache().digest(folder / CORPUS) == old.files[CORPUS]:
            shutil.copy2(folder / CORPUS, work / CORPUS)
    except (PassageError, OSError, KeyError):
        (work / CORPUS).unlink(missing_ok=True)  # none, or damaged: everything is read again
    told.write_text(json.dumps(settings), encoding="utf-8")


def _fill(
    corpus: Corpus,
    source: Path,
    encoder: Encoder,
    offsets: Offsets,
    most: int,
    least: int,
    progress: Callable[[int, int], None],
) -> tuple[int, int, list[Unread]]:
    known = corpus.documents()
    seen: set[str] = set()
    unread: list[Unread] = []
    waiting: list[tuple[str, str]] = []
    passages: list[Passage] = []
    embedded = 0

    def store() -> None:
        nonlocal embedded
        vectors = encoder.encode([embedded_text(one.title, one.text) for one in passages])
        corpus.put(waiting, passages, vectors)
        embedded += len(passages)
        waiting.clear()
        passages.clear()
        progress(len(seen), embedded)

    for found in _distinct(read_documents(source)):
        if isinstance(found, Unread):
            unread.append(found)
            continue
        seen.add(found.name)
        sha256 = hashlib.sha256(f"{found.title}\0{found.text}".encode()).hexdigest()
        if known.get(found.name) != sha256:
            waiting.append((found.name, sha256))
            passages += split(found, offsets, most=most, least=least)
        if len(passages) >= _BATCH:
            store()
    store()
    gone = [name for name in corpus.documents() if name not in seen]
    corpus.drop(gone)
    return embedded, len(gone), unread


def _distinct(documents: Iterator[Document | Unread]) -> Iterator[Document | Unread]:
    """A folder may hold `a/1` as a file and as a row of `a.jsonl`: the first counts."""
    names: set[str] = set()
    for found in documents:
        if isinstance(found, Document) and found.name in names:
            yield Unread(found.name, "another document has this name")
            continue
        if isinstance(found, Document):
            names.add(found.name)
        yield found


def embedded_text(title: str, text: str) -> str:
    """What is embedded and searched by words: a passage below the heading it stands under."""
    return f"{title}\n{text}" if title else text


def _finish(fresh: Path, encoder: Encoder, n: int, documents: int, most: int, least: int) -> Manifest:
    import faiss  # noqa: PLC0415

    with Corpus(fresh / CORPUS) as corpus:
        texts = [embedded_text(*pair) for pair in corpus.texts()]
        words = save_words(texts, fresh)
        vectors = corpus.vectors(n, encoder.dim)
    dense = dense_index(vectors)
    recall = 1.0
    if lists := getattr(dense, "nlist", 0):
        chosen = np.random.default_rng(0).choice(n, min(_ASKED, n), replace=False)
        recall = set_probes(dense, vectors, encoder.encode([texts[row][:_SENTENCE] for row in chosen]))
    faiss.write_index(dense, str(fresh / DENSE))
    middle = vectors.mean(axis=0, dtype=np.float64)
    np.save(fresh / MIDDLE, (middle / max(float(np.linalg.norm(middle)), 1e-9)).astype(np.float32), allow_pickle=False)
    files = {name: _sha(fresh / name) for name in (CORPUS, DENSE, MIDDLE, *words)}
    probes = dense.nprobe if lists else 0
    manifest = Manifest(encoder.fingerprint, encoder.dim, n, documents, most, least, lists, probes, recall, files)
    write_manifest(fresh, manifest)
    return manifest


def dense_index(vectors: Array, *, exact_below: int = EXACT_BELOW) -> Any:
    """A faiss index of unit rows [n, dim] by cosine: flat, or from `exact_below` rows on inverted lists, about as many as
    the square root of n."""
    import faiss  # noqa: PLC0415

    n, dim = vectors.shape
    flat = faiss.IndexFlatIP(dim)
    if n < exact_below:
        flat.add(vectors)
        return flat
    lists = 1 << round(np.log2(n**0.5))
    index = faiss.IndexIVFFlat(flat, dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter = 42, 10
    index.train(vectors[:: max(1, n // (50 * lists))])
    index.add(vectors)
    return index


def set_probes(index: Any, vectors: Array, asked: Array, *, recall: float = RECALL) -> float:
    """Look into as few lists as find this share of the ten nearest rows of `asked` [m, dim]; the share that was found."""
    exact = _exact(vectors, asked)
    probes, found = 4, 0.0
    while True:
        index.nprobe = min(probes, index.nlist)
        _, rows = index.search(asked, _AMONG)
        found = float(np.mean([len(set(own) & set(best)) / _AMONG for own, best in zip(rows, exact, strict=True)]))
        if found >= recall or index.nprobe == index.nlist:
            return round(found, 4)
        probes = max(probes + 1, probes * 3 // 2)


def _exact(vectors: Array, asked: Array, step: int = 100_000) -> NDArray[np.int64]:
    """The ten nearest rows of each of `asked`, by looking at all, `step` at a time."""
    best: NDArray[np.int64] = np.empty((len(asked), 0), dtype=np.int64)
    score: Array = np.empty((len(asked), 0), dtype=np.float32)
    for at in range(0, len(vectors), step):
        own = asked @ vectors[at : at + step].T
        score = np.concatenate([score, own], axis=1)
        best = np.concatenate([best, np.tile(np.arange(at, at + own.shape[1]), (len(asked), 1))], axis=1)
        keep = np.argpartition(-score, min(_AMONG, score.shape[1]) - 1, axis=1)[:, :_AMONG]
        best, score = np.take_along_axis(best, keep, 1), np.take_along_axis(score, keep, 1)
    return best


def _sha(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def token_offsets(tokenizer: Path) -> Offsets:
    """Where the tokens of texts end, by a tokenizer.json without its limits and special tokens."""
    from tokenizers import Tokenizer  # noqa: PLC0415

    loaded: Any = Tokenizer.from_file(str(tokenizer))
    loaded.no_truncation()
    loaded.no_padding()

    def offsets(texts: Sequence[str]) -> list[list[int]]:
        found = loaded.encode_batch(list(texts), add_special_tokens=False)
        return [[end for _, end in encoding.offsets] for encoding in found]

    return offsets
