"""`python -m evals.manpages [--json FILE]`: searches among real manual pages, and whether they find what is described.

The pages are those of Debian's package `manpages` (pinned, fetched once), of other packages (`--deb`, may be repeated), or of
a folder (`--folder /usr/share/man`). The index is built by what `coe index build` calls. A question is the description of a
page from its NAME section, which is no part of the index; it is answered where a passage of that page is among the first
(1 or 10) that were found. CPU milliseconds of a search are of one question at a time, with its encoding.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from composer.errors import ComposerError
from composer.pipeline import Pipeline
from composer.retrieval.build import build, dense_index, set_probes, token_offsets
from composer.retrieval.corpus import Corpus as Stored
from composer.retrieval.index import CORPUS, By, PassageIndex
from evals.bench.retrieval import per_call, recall_of
from evals.metrics import Result, Row, row
from evals.report import write_json
from evals.tasks.passages import Corpus, write_documents
from evals.tasks.passages.deb import manpages_deb
from evals.tasks.passages.manpages import corpus, from_deb, from_folder, pages, renderer
from routers.embed import Encoder, OnnxEncoder
from routers.types import Array

AMONG = (1, 10)
_TIMED = 100  # questions whose searches are timed


@dataclass(frozen=True, slots=True)
class Measured:
    """What building and searching took. `recall_lists`: of the ten nearest of a question, the share that inverted lists
    find as they are set up from 50,000 passages on (on questions that they were not set by); `lists` of which `probes`."""

    documents: int
    passages: int
    build_seconds: float
    build_cpu_seconds: float
    passages_per_cpu_second: float
    encode_cpu_ms: float
    search_cpu_ms: Mapping[str, float]
    lists: int
    probes: int
    recall_lists: float


def measure(found: Corpus, encoder: Encoder, tokenizer: Path, scratch: Path) -> tuple[list[Row], Measured]:
    """Build an index of the pages in `scratch`, and search it for every question. In the rows `group` is `recall@1` or
    `recall@10` and `system` the way to search; `seconds` are CPU seconds of a search."""
    import faiss  # noqa: PLC0415

    faiss.omp_set_num_threads(1)
    write_documents(found, scratch / "pages.jsonl")
    began, cpu = time.monotonic(), time.process_time()
    done = build(scratch / "pages.jsonl", scratch / "index", encoder, token_offsets(tokenizer))
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    texts = [item.question.text for item in found.items]
    wanted = [found.relevant[item.question.id] for item in found.items]
    timed = min(_TIMED, len(texts))
    rows: list[Row] = []
    spent: dict[str, float] = {}
    with PassageIndex.open(scratch / "index", encoder) as index:
        for by in get_args(By):
            hits = index.search(texts, max(AMONG), by=by)
            places = [[hit.passage.document in own for hit in each] for each, own in zip(hits, wanted, strict=True)]
            ms = per_call(lambda place, by=by: index.search([texts[place]], 10, by=by), timed)  # type: ignore[misc]
            spent[by] = round(ms, 3)
            for among in AMONG:
                right = np.array([float(any(each[:among])) for each in places])
                unknown = np.full(len(right), np.nan)
                result = Result(by, right, unknown, unknown, np.full(len(right), ms / 1000))
                rows.append(row(result, f"recall@{among}", range(len(right))))
    encode_ms = per_call(lambda place: encoder.encode([texts[place]]), timed)
    with Stored(scratch / "index" / CORPUS) as stored:
        vectors = stored.vectors(done.manifest.passages, encoder.dim)
    lists, probes, recall = _approximate(vectors, encoder.encode(texts))
    return rows, Measured(
        documents=done.manifest.documents,
        passages=done.manifest.passages,
        build_seconds=round(seconds, 1),
        build_cpu_seconds=round(cpu, 1),
        passages_per_cpu_second=round(done.manifest.passages / cpu, 1),
        encode_cpu_ms=round(encode_ms, 3),
        search_cpu_ms=spent,
        lists=lists,
        probes=probes,
        recall_lists=recall,
    )


def _approximate(vectors: Array, asked: Array) -> tuple[int, int, float]:
    """(lists, lists looked into, recall of ten) of inverted lists for these passages: set up with one half of the
    questions, measured with the other."""
    import faiss  # noqa: PLC0415

    index = dense_index(vectors, exact_below=0)
    half = len(asked) // 2
    set_probes(index, vectors, asked[:half])
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    exact, own = flat.search(asked[half:], 10)[1], index.search(asked[half:], 10)[1]
    return index.nlist, index.nprobe, round(recall_of(own.tolist(), exact), 4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and tell; 0, or the exit code of what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m evals.manpages", description=__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--deb", type=Path, action="append", help="a package of Debian with manual pages; may be repeated"
    )
    source.add_argument("--folder", type=Path, help="a folder such as /usr/share/man")
    parser.add_argument("--json", type=Path, help="write the rows there")
    given = parser.parse_args(arguments)
    try:
        render = renderer()
        if given.folder:
            data, files = str(given.folder), from_folder(given.folder)
        else:
            packages = given.deb or [manpages_deb()]
            data = ", ".join(path.name for path in packages)
            files = (file for path in packages for file in from_deb(path))
        found = corpus(pages(files, render))
        with Pipeline.from_file() as pipeline, tempfile.TemporaryDirectory() as scratch:
            model, tokenizer = pipeline.registry.encoder_files()
            rows, measured = measure(found, OnnxEncoder(model, tokenizer), tokenizer, Path(scratch))
        if given.json:
            write_json(given.json, "python -m evals.manpages", data, rows, measured=asdict(measured))
    except ComposerError as why:
        sys.stderr.write(f"{why}\n")
        return why.exit_code
    sys.stdout.write("\n".join(told(rows, measured)) + "\n")
    return 0


def told(rows: Sequence[Row], measured: Measured) -> list[str]:
    """The figures, for people."""
    lines = [
        f"{measured.documents} pages, {measured.passages:,} passages in {measured.build_seconds} s, "
        f"{measured.passages_per_cpu_second} passages per CPU second",
        f"{rows[0].n} questions; encoding one takes {measured.encode_cpu_ms:.2f} CPU ms",
        f"inverted lists ({measured.probes} of {measured.lists}): recall {measured.recall_lists:.3f} of the ten nearest",
        f"{'search':10}{'recall@1':>22}{'recall@10':>22}{'CPU ms':>9}",
    ]
    for by in dict.fromkeys(one.system for one in rows):
        own = [one for one in rows if one.system == by]
        cells = "".join(f"{f'{one.accuracy:.3f} [{one.low:.3f}, {one.high:.3f}]':>22}" for one in own)
        lines.append(f"{by:10}{cells}{measured.search_cpu_ms[by]:9.2f}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
