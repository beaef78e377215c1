"""Experts that write what they know (METHODS E): what they and their reader are asked, and what is read out of the replies.

Nothing is asked here: functions give requests, and read drafts. "Knowledge Card" (Feng et al., ICLR 2024) calls these
experts cards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from composer.asker import Asker, Asking
from composer.retrieval.split import sentences
from composer.types import Draft, Request
from composer.untrusted import harmless

NEED = "{text}\n\nDo you need more information to answer this question? Say yes or no."
WHOM = "{text}\n\nWho of these may know more? Say one name.\n{names}"
_WORD = re.compile(r"[^\W_]+")
_NEED_TOKENS, _WHOM_TOKENS = 8, 24


@dataclass(frozen=True, slots=True)
class Written:
    """A passage that the expert `card` wrote. The id, `card#sample`, says from where it comes; `truth` in [0, 1] is how
    likely it is true, 0.5 where nobody can tell."""

    card: str
    sample: int
    text: str
    truth: float = 0.5

    @property
    def id(self) -> str:
        """Where it comes from."""
        return f"{self.card}#{self.sample}"


def passage_requests(registry: Asking, card: str, question: str, samples: Sequence[int], asker: Asker) -> list[Request]:
    """Draws `samples` of what the card writes when it is given the question; each has its own seed, so that the same
    question is written about in the same way whenever it is asked."""
    stream, sampling = registry.stream(card, registry.messages(card, question)), registry.sampling(card)
    return [
        asker.request(
            card, "knowledge", stream, replace(sampling, seed=sampling.seed + sample), sample=sample, bounded=True
        )
        for sample in samples
    ]


def need_request(registry: Asking, arm: str, text: str, place: int, asker: Asker) -> Request:
    """Whether the reader needs more than `text`, the question after what it was given: yes or no. `place` numbers the
    probes of a query."""
    return _probe(registry, arm, NEED.format(text=text), _NEED_TOKENS, place, asker)


def whom_request(registry: Asking, arm: str, text: str, cards: Sequence[str], place: int, asker: Asker) -> Request:
    """From which of the cards the reader wants to hear."""
    names = "\n".join(f"{card}: {told}" if (told := registry.description(card)) else card for card in cards)
    return _probe(registry, arm, WHOM.format(text=text, names=names), _WHOM_TOKENS, place, asker)


def enough(draft: Draft) -> bool:
    """Whether the reader says that it needs nothing more: its first word is "no". "Know", "not" and "another" say nothing
    of the kind, neither does a call that failed.

    >>> [enough(Draft("", text, "stop")) for text in ("No.", "no, thanks", "Know more", "Not sure", "Yes, no doubt")]
    [True, True, False, False, False]
    """
    first = _WORD.search(draft.text)
    return draft.error is None and first is not None and first[0].casefold() == "no"


def named(draft: Draft, cards: Sequence[str]) -> str | None:
    """The card whose name stands first in the reply, as whole words; None where none does.

    >>> named(Draft("", "I would ask the machines of towns.", "stop"), ("towns", "machines"))
    'machines'
    """
    if draft.error is not None:
        return None
    places = {card: found.start() for card in cards if (found := _name(card).search(draft.text))}
    return min(places, key=lambda card: (places[card], -len(card)), default=None)


def passages(drafts: Mapping[str, Draft], requests: Sequence[Request]) -> list[Written]:
    """What the drafts of these requests say, in the order of the requests; failed and empty ones are left out. A draft that
    ran out of tokens ends with its last whole sentence, if it has one."""
    found = []
    for request in requests:
        draft = drafts.get(request.id)
        if draft is not None and draft.error is None and draft.stop != "cancelled":
            text = harmless(draft.text if draft.stop == "stop" else whole(draft.text))
            if text:
                found.append(Written(request.arm, request.sample, text))
    return found


def whole(text: str) -> str:
    """A text that was cut off, without its last, unfinished sentence; as it is where it has no other.

    >>> whole("It opens at 7 bar. It clo"), whole("It op")
    ('It opens at 7 bar.', 'It op')
    """
    parts = sentences(text)
    if len(parts) < 2 or text.rstrip().endswith((".", "!", "?")):
        return text
    return text[: text.rstrip().rfind(parts[-1])].rstrip()


def distinct(written: Sequence[Written], but: Sequence[str] = ()) -> list[Written]:
    """The first of equal passages (case, space and punctuation make no difference), without those that say what one of
    `but` says."""
    seen = {_plain(text) for text in but}
    found = []
    for one in written:
        if (plain := _plain(one.text)) not in seen:
            seen.add(plain)
            found.append(one)
    return found


def _plain(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.casefold()))


def _name(card: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.-]){re.escape(card)}(?![\w-])", re.IGNORECASE)


def _probe(registry: Asking, arm: str, text: str, tokens: int, place: int, asker: Asker) -> Request:
    sampling = replace(registry.sampling(arm), temperature=0.0, max_tokens=tokens, schema=None)
    stream = registry.stream(arm, registry.messages(arm, text))
    return asker.request(arm, "probe", stream, sampling, place=place, bounded=True)
