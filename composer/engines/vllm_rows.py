"""Which rows of vLLM's batch belong together: one per stream of a group, and whether they are in lockstep. Pure; imports
nothing but the standard library and `composer.types`, because another interpreter loads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from composer.errors import RequestError
from composer.types import Mix

GROUP, PLACE, WEIGHTS, BROKEN = "contrast_group", "contrast_place", "contrast_weights", "contrast_broken"
_MIX = ("space", "alpha", "mask_from", "top_p")


@dataclass(frozen=True, slots=True)
class Place:
    """What a request says of itself: its group, which stream of it it is, the weights of all streams, how they are mixed,
    and the token that ends it where its group has lost step (None: that raises)."""

    group: str
    place: int
    weights: tuple[float, ...]
    mix: Mix
    broken: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of a group in this step, in the order of its streams, of those that are there.

    `whole`: all are there and have written the same, so they can be combined. Else `why` says what is wrong, and is ""
    while no row has written anything: then nobody can know yet whether the others are only late.
    """

    name: str
    places: tuple[Place, ...]
    rows: tuple[int, ...]
    whole: bool
    why: str = ""


def place_of(extra: Mapping[str, Any] | None) -> Place | None:
    """The place that `extra_args` name, None where they name no group. Raises ValueError for what means nothing."""
    if not extra or GROUP not in extra:
        return None
    try:
        weights = tuple(float(weight) for weight in extra[WEIGHTS])
        place = int(extra[PLACE])
        mix = Mix(**{name: extra[f"contrast_{name}"] for name in _MIX if f"contrast_{name}" in extra})
    except (KeyError, TypeError, ValueError, RequestError) as why:
        raise ValueError(
            f"a stream of a group needs {PLACE}, {WEIGHTS} and a mix that means something: {why!r}"
        ) from why
    if not (len(weights) > 1 and 0 <= place < len(weights) and 0 <= mix.mask_from < len(weights)):
        raise ValueError(f"{len(weights)} weights, {PLACE} {place}, contrast_mask_from {mix.mask_from}: out of range")
    if mix.space not in ("logprob", "logit", "prob"):
        raise ValueError(f"contrast_space is logprob, logit or prob, not {mix.space!r}")
    broken = extra.get(BROKEN)
    return Place(str(extra[GROUP]), place, weights, mix, None if broken is None else int(broken))


def extra_of(group: str, place: int, weights: Sequence[float], mix: Mix) -> dict[str, Any]:
    """The `extra_args` that `place_of` reads."""
    fields = {f"contrast_{name}": getattr(mix, name) for name in _MIX}
    return {GROUP: group, PLACE: place, WEIGHTS: list(weights), **fields}


class Rows:
    """The rows of groups, kept as vLLM adds, removes and moves the rows of its batch."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[Place, Sequence[int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def update(
        self,
        removed: Iterable[int] = (),
        added: Iterable[tuple[int, Mapping[str, Any] | None, Sequence[int]]] = (),
        moved: Iterable[tuple[int, int, bool]] = (),
    ) -> None:
        """Take what changed, in vLLM's order. Added are (row, `extra_args`, the list that its tokens are appended to); moved
        (from, to, whether the two change places): else what was at `to` is gone."""
        for row in removed:
            self._rows.pop(row, None)
        for row, extra, written in added:
            place = place_of(extra)
            self._rows.pop(row, None)  # it may take the place of another
            if place is not None:
                self._rows[row] = place, written
        for one, other, swapped in moved:
            first, second = self._rows.pop(one, None), self._rows.pop(other, None)
            if first is not None:
                self._rows[other] = first
            if swapped and second is not None:
                self._rows[one] = second

    def groups(self) -> Iterator[Group]:
        """Every group of which a row is there."""
        found: dict[str, list[tuple[int, Place, Sequence[int]]]] = {}
        for row, (place, written) in self._rows.items():
            found.setdefault(place.group, []).append((row, place, written))
        for name, members in found.items():
            members.sort(key=lambda member: member[1].place)
            places, rows = tuple(place for _, place, _ in members), tuple(row for row, _, _ in members)
            problem, said = _problem(places), [written for _, _, written in members]
            apart = _apart(said)
            if problem is None and apart is None:
                yield Group(name, places, rows, whole=True)
            else:
                # A row that vLLM still reads the prompt of looks like one that is about to write.
                begun = any(len(written) for written in said)
                why = apart or (problem if begun or len(places) >= len(places[0].weights) else None)
                yield Group(name, places, rows, whole=False, why=why or "")


def _problem(places: Sequence[Place]) -> str | None:
    """Why these are not all streams of one group."""
    wanted = len(places[0].weights)
    if [place.place for place in places] != list(range(wanted)):
        return f"streams {', '.join(str(place.place) for place in places)} of {wanted} are in the batch"
    if any((place.weights, place.mix) != (places[0].weights, places[0].mix) for place in places):
        return "its streams name different weights or mixes"
    return None


def _apart(said: Sequence[Sequence[int]]) -> str | None:
    """How what has been written differs. The last token is enough: those before were compared when they were the last."""
    if len({len(written) for written in said}) > 1:
        return f"its streams have written {', '.join(str(len(written)) for written in said)} tokens"
    if said[0] and len({written[-1] for written in said}) > 1:
        return f"its streams have written the tokens {', '.join(str(written[-1]) for written in said)}"
    return None
