"""Evidence as the registry file declares it: passages of an index, or passages that experts write from what they know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from composer.errors import ConfigError, suggest
from composer.folders import index_folder

if TYPE_CHECKING:
    from composer.settings.form import EvidenceRow
    from composer.settings.specs import ExpertSpec

Way = Literal["bottom-up", "top-down"]
"""`bottom-up`: every writer writes, filters choose. `top-down`: the reader says whether it needs more, and from whom."""

Factuality = Literal["weigh", "sample", "delete", "off"]
"""What becomes of passages that are likely wrong: they stand behind others, are drawn the more seldom the less likely they
are true, are left out where they are more likely wrong than right, or nothing."""

RERANKED = 20  # how many of the passages that were found `rerank: true` orders anew
WRITING, FOUND = 5, 3  # passages that go before a question, where nobody says how many
_OF_WRITERS = ("way", "drafts", "relevant", "rounds", "relevance", "brevity", "factuality", "against")


@dataclass(frozen=True, slots=True)
class Writers:
    """Experts that write what they know, and how their passages are chosen (METHODS E; its names in brackets): `drafts` of
    each (n1), `relevant` ones are looked at further (n2), `rounds` of top-down at most. `against` is the folder of an index
    that passages are compared with; None: they are compared with each other."""

    experts: tuple[str, ...]
    way: Way = "bottom-up"
    drafts: int = 5
    relevant: int = 20
    rounds: int = 3
    relevance: bool = True
    brevity: bool = True
    factuality: Factuality = "weigh"
    against: Path | None = None


@dataclass(frozen=True, slots=True)
class EvidenceSpec:
    """Passages by name, `k` of which go before a question at most: of the index in this folder, or of `writers`; the other
    is None. `rerank`: how many of what was found in the index a cross-encoder orders anew (0: there is none)."""

    name: str
    index: Path | None
    k: int
    writers: Writers | None = None
    rerank: int = 0

    @property
    def indexes(self) -> tuple[Path, ...]:
        """The folders of indexes that are looked into."""
        own = (self.index, self.writers.against if self.writers else None)
        return tuple(folder for folder in own if folder is not None)


Inside = Callable[[str, str], Path]
"""A path of a text at a setting."""
Fault = Callable[[str, str, str], ConfigError]
"""The error of a setting: what, and the remedy."""


def evidence_of(
    name: str,
    row: EvidenceRow,
    experts: Mapping[str, ExpertSpec],
    inside: Inside,
    error: Fault,
    *,
    encoder: bool,
    reranker: bool,
) -> EvidenceSpec:
    """What the row declares; `encoder`, `reranker`: whether the registry has one. Raises ConfigError."""
    at = f"evidence.{name}"
    if (row.index is None) == (row.writers is None):
        found = "neither" if row.index is None else "both"
        raise error(at, f"expected one of `index` and `writers`, found {found}", "keep one of them")
    if row.index is not None:
        if strange := [option for option in _OF_WRITERS if getattr(row, option) is not None]:
            raise error(f"{at}.{strange[0]}", f"`{strange[0]}` is for `writers`, an index has none", "remove it")
        folder = folder_of(row.index, f"{at}.index", inside, error)
        if row.rerank and not reranker:
            raise error(
                f"{at}.rerank",
                "nothing can order passages anew: this registry declares no reranker",
                "add `reranker:` with `sources`, `sha256` and `tokenizer` of a cross-encoder, or remove `rerank`",
            )
        many = RERANKED if row.rerank is True else int(row.rerank)
        return EvidenceSpec(name, folder, FOUND if row.k is None else row.k, rerank=many)
    if row.rerank:
        raise error(f"{at}.rerank", "what experts write is not searched, so nothing orders it anew", "remove it")
    writers = _writers(row, experts, at, inside, error)
    if not encoder and _embeds(writers):
        raise error(at, "its filters need an encoder and this registry declares none", "add `encoder:`")
    return EvidenceSpec(name, None, WRITING if row.k is None else row.k, writers)


def folder_of(text: str, at: str, inside: Inside, error: Fault) -> Path:
    """The folder of an index: named, or a path. Raises ConfigError."""
    if any(sign in text for sign in "/\\:"):
        return inside(text, at)
    try:
        return index_folder(text)
    except ValueError as why:
        raise error(at, str(why), "rename it") from why


def _writers(row: EvidenceRow, experts: Mapping[str, ExpertSpec], at: str, inside: Inside, error: Fault) -> Writers:
    named = tuple(row.writers or ())
    for place, expert in enumerate(named):
        here = f"{at}.writers[{place}]"
        if expert not in experts:
            raise error(here, f"no expert is called {expert!r}", suggest(expert, experts))
        if experts[expert].writes != "knowledge":
            remedy = f"write `writes: knowledge` at {expert}, which is then asked no question any more"
            raise error(here, f"{expert} writes {experts[expert].writes}", remedy)
        if expert in named[:place]:
            raise error(here, f"{expert} stands twice", "remove one of them")
    given = {option: value for option in _OF_WRITERS if (value := getattr(row, option)) is not None}
    if row.against is not None:
        given["against"] = folder_of(row.against, f"{at}.against", inside, error)
    found = Writers(named, **given)
    if found.way == "bottom-up" and row.rounds is not None:
        raise error(f"{at}.rounds", "bottom-up has one round", "remove `rounds`, or write `way: top-down`")
    if found.against is not None and found.factuality == "off":
        raise error(f"{at}.against", "nothing is compared where `factuality` is off", "remove one of the two")
    for expert in named:
        if found.drafts > 1 and experts[expert].sampling.temperature == 0:
            raise error(
                f"experts.{expert}.sampling.temperature",
                f"at temperature 0 the {found.drafts} passages for `{at}` would all be the same",
                f"raise it, or write `drafts: 1` at {at}",
            )
    return found


def _embeds(writers: Writers) -> bool:
    if writers.way == "top-down":
        return len(writers.experts) > 1 or writers.against is not None
    return writers.relevance or writers.brevity or writers.against is not None
