"""The verbs about passages: `coe index build`, `coe index search`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from composer.command.kit import AsJson, Config, Offline, make_pipeline, print_json, question_text, say

index = typer.Typer(help="Passages that experts may be given to read.", no_args_is_help=True, rich_markup_mode=None)

_QUIET = 10.0  # seconds between two lines in a log

Name = Annotated[str, typer.Argument(help="The index: a name, or the path of its folder.")]


@index.command()
def build(
    name: Name,
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder of text, Markdown, HTML and JSONL files, or one such file (JSONL: id, text[, title])."
        ),
    ],
    tokens: Annotated[int, typer.Option(min=16, max=240, help="The most tokens of a passage.")] = 180,
    config: Config = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Split documents into passages and index them; again: only what has changed. Stopped, it goes on from there."""
    from dataclasses import asdict

    from composer.retrieval.build import build as build_index
    from composer.retrieval.build import token_offsets
    from routers.embed import OnnxEncoder

    folder = _folder(name)
    model, tokenizer = make_pipeline(config, None, offline).registry.encoder_files()
    with _counting() as told:
        built = build_index(
            source,
            folder,
            OnnxEncoder(model, tokenizer),
            token_offsets(tokenizer),
            most=tokens,
            least=min(60, tokens),
            progress=told,
        )
    found = built.manifest
    for unread in built.unread[:20]:
        say(f"left out {unread.where}: {unread.reason}")
    if len(built.unread) > 20:
        say(f"and {len(built.unread) - 20} more were left out")
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "documents": found.documents,
                "passages": found.passages,
                "embedded": built.embedded,
                "dropped": built.dropped,
                "recall": found.recall,
                "lists": found.lists,
                "probes": found.probes,
                "unread": [asdict(one) for one in built.unread],
            }
        )
        return
    how = (
        f"{found.probes} of {found.lists} lists are looked into, recall {found.recall:.3f} of 10"
        if found.lists
        else "searched exactly"
    )
    typer.echo(f"{found.documents} documents, {found.passages} passages ({built.embedded} embedded now); {how}")
    typer.echo(str(folder))


@index.command()
def search(
    name: Name,
    question: Annotated[str, typer.Argument(help="What is looked for; - reads it from standard input.")],
    k: Annotated[int, typer.Option("--k", "-k", min=1, max=1000, help="How many passages.")] = 5,
    by: Annotated[str, typer.Option(help="meaning, words, or both.")] = "both",
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Let the registry's cross-encoder order the 20 best (or -k) anew.")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
    offline: Offline = False,
) -> None:
    """Show the passages that are nearest to a question."""
    from composer.retrieval.index import PassageIndex, way_of
    from composer.retrieval.rerank import CrossEncoder
    from composer.settings.evidence import RERANKED
    from composer.show import printable
    from routers.embed import OnnxEncoder

    question = question_text(question)
    registry = make_pipeline(config, None, offline).registry
    reranker = CrossEncoder.open(*registry.reranker_files()) if rerank else None
    with PassageIndex.open(_folder(name), OnnxEncoder(*registry.encoder_files()), reranker) as found:
        hits = found.search([question], k, by=way_of(by), rerank=max(k, RERANKED) if rerank else 0)[0]
    if as_json:
        print_json(
            [
                {
                    "id": hit.passage.id,
                    "score": round(hit.score, 6),
                    "cosine": None if hit.cosine is None else round(hit.cosine, 4),
                    "by_meaning": hit.by_meaning,
                    "by_words": hit.by_words,
                    "cross_encoder": None if hit.cross is None else round(hit.cross, 4),
                    "document": hit.passage.document,
                    "start": hit.passage.start,
                    "end": hit.passage.end,
                    "title": hit.passage.title,
                    "text": hit.passage.text,
                }
                for hit in hits
            ]
        )
        return
    for hit in hits:
        places = [f"meaning {hit.by_meaning or '-'}", f"words {hit.by_words or '-'}"]
        if hit.cross is not None:
            places.append(f"cross-encoder {hit.cross:.2f}")
        typer.echo(f"{printable(hit.passage.id)}  {', '.join(places)}  {printable(hit.passage.title)}".rstrip())
        typer.echo(f"    {printable(' '.join(hit.passage.text.split()))}")


def _folder(name: str) -> Path:
    from composer.errors import InputError
    from composer.folders import index_folder

    try:
        return index_folder(name)
    except ValueError as why:
        raise InputError(str(why)) from why


@contextmanager
def _counting() -> Iterator[Callable[[int, int], None]]:
    """How far a build is, on stderr: one line that changes on a terminal, else a line now and then."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("reading documents") as status:
            yield lambda documents, passages: status.update(f"{documents} documents read, {passages} passages embedded")
        return
    last = time.monotonic()

    def tell(documents: int, passages: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _QUIET:
            last = time.monotonic()
            say(f"{documents} documents read, {passages} passages embedded")

    yield tell
