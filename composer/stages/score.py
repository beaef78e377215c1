"""score: best of n, by what one expert thinks that each different answer can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, get_args

from annotated_types import Ge, Gt, Le

from composer.answers.capabilities import CAPABILITIES, LEAST, MOST, Capabilities, category_of
from composer.answers.found import Rated
from composer.answers.rating import Ratings, plain_mean, rating, rating_requests
from composer.errors import ConfigError, suggest
from composer.stages.balloting import voted
from composer.stages.disputed import answers_of, check_settler, disputed, settled
from composer.stages.kit import Kit, Stage, Together, kind_of
from composer.state import Merged, Reply, State, Update
from composer.types import Draft, Kind, Request

if TYPE_CHECKING:
    from composer.answers.rating import Scorer

UNFITTED = "by the mean rating: no ridge is fitted for these questions (coe fit answers --scorer {by})"


@dataclass(frozen=True, slots=True)
class _Rating:
    """What is asked about a row: its category, its different answers, and the requests about each."""

    category: str
    answers: Sequence[Reply]
    requests: Sequence[Sequence[Request]]


def score(
    kit: Kit,
    *,
    by: str,
    questions: dict[str, list[str]] | None = None,
    vote: str = "majority",
    sure: Annotated[float, Gt(0), Le(1)] = 0.9,
    most: Annotated[int, Ge(2)] = 6,
) -> Stage:
    """Have the expert `by` rate each different answer of a row (at most `most`, those that were given most often), from 1 to 5, on
    three to five capability questions of the question's category, and take the one that scores best; of equal ones that of the
    `vote`. The score is a ridge regression over the ratings, where `coe fit answers --scorer` has installed one, else their mean,
    and the trace says so (capability points of DMoERM, Quan 2024, as a scorer; METHODS I.8). A category is a skill of the
    registry or a kind of answer; `questions` replaces or adds lists of them. It is left out where a merger would be (see
    `merge`), and ratings are drawn as the registry says, whatever the caller wishes. All ratings of all rows are one pass over the hosts."""
    check_settler(kit, by, vote)
    capabilities = _capabilities(questions or {}, kit.registry.settings.skills)

    async def stage(state: State) -> Update:
        wanted, needless = disputed(kit, state, by, vote, sure)
        asked = {row: _rating(kit, by, capabilities, state, row, answers_of(own, most)) for row, own in wanted.items()}
        fitted = kit.scorers().get(by) if asked else None

        def best(row: int, drafts: Mapping[str, Draft]) -> Merged:
            one = asked[row]
            usable = fitted is not None and fitted.scorer.fits(one.category, capabilities[one.category])
            scorer = fitted.scorer if fitted is not None and usable else None
            return _best(kit, by, vote, state, row, one, scorer, drafts)

        requests = {row: [request for own in one.requests for request in own] for row, one in asked.items()}
        return await settled(kit, state, needless, requests, best)

    return Together(stage)


def _capabilities(questions: Mapping[str, Sequence[str]], skills: Sequence[str]) -> Capabilities:
    """The packaged lists with the registry's own. Raises ConfigError for a list of another length than three to five, or of what is
    no category: no question would ever have it."""
    for name, own in questions.items():
        if name not in (known := (*skills, *get_args(Kind))):
            raise ConfigError(
                f"{name} is no skill of an expert of this registry, and no kind of answer",
                where="questions",
                remedy=suggest(name, known),
            )
        if not LEAST <= len(own) <= MOST or not all(one.strip() for one in own):
            raise ConfigError(
                f"{name} has {len(own)} questions, expected {LEAST} to {MOST} that are not empty",
                where="questions",
                remedy="write what can be rated from 1 to 5, such as `Is its result free of mistakes?`",
            )
    return {**CAPABILITIES, **{name: tuple(own) for name, own in questions.items()}}


def _rating(kit: Kit, by: str, capabilities: Capabilities, state: State, row: int, answers: Sequence[Reply]) -> _Rating:
    query, skills = state.queries[row], state.reasons[row].skills
    category = category_of(capabilities, skills[0][0] if skills else None, kind_of(kit, state, row))
    own = capabilities[category]
    requests = [
        rating_requests(kit.registry, by, query.prompt, reply.said, own, query.asker, place * len(own))
        for place, reply in enumerate(answers)
    ]
    return _Rating(category, answers, requests)


def _best(
    kit: Kit,
    by: str,
    vote: str,
    state: State,
    row: int,
    one: _Rating,
    scorer: Scorer | None,
    drafts: Mapping[str, Draft],
) -> Merged:
    rated: list[Rated] = []
    for reply, own in zip(one.answers, one.requests, strict=True):
        ratings = tuple(rating(drafts[request.id]) for request in own)
        rated.append(Rated(reply.arm, reply.answer or "", ratings, _worth(scorer, one.category, ratings)))
    note = "" if scorer is not None else UNFITTED.format(by=by)
    told = [own.score for own in rated if own.score is not None]
    if not told:
        errors = (drafts[request.id].error for own in one.requests for request in own)
        first = next((f": {error.message}" for error in errors if error is not None), "")
        return Merged(by, why=f"none of its ratings could be read{first}", ratings=tuple(rated), note=note)
    best = [place for place, own in enumerate(rated) if own.score == max(told)]
    reply = one.answers[best[0]]
    if len(best) > 1:
        codes = {one.answers[place].code for place in best}
        equal = [own for own in state.replies[row] if own.draft.ok and own.code in codes]
        reply = voted(kit.aggregator(vote), state, {row: equal}).get(row, reply)
    return Merged(by, reply, ratings=tuple(rated), note=note)


def _worth(scorer: Scorer | None, category: str, ratings: Ratings) -> float | None:
    found = scorer.score(category, ratings) if scorer is not None else plain_mean(ratings)
    return None if found is None else round(found, 6)
