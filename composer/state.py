"""The batch a pipeline works on, as columns: what was asked, what came back, which rows are still open."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

from composer.answers.found import Checked, Rated, Stepped, Walked
from composer.answers.program import Verdict
from composer.answers.strategies import Worked
from composer.asker import Asker, Wishes
from composer.errors import InputError
from composer.settings.persona import Voiced
from composer.types import Draft, Evidence, Kind, Message, Role
from routers.types import Arm, Array, Policy, Reason, Route, Seen

Status = Literal["ok", "degraded", "failed"]
Update = Mapping[str, Any]
"""The fields of `State` that a stage changes."""


@dataclass(frozen=True, slots=True)
class Query:
    """What the user asks. `kind` says how answers are read and compared; None: as `choices` or `tests` tell, else as the
    expert that is asked writes them. `tests`: what a program that answers has to pass; no expert is shown them. `turns`:
    what was said before, which experts are shown and routers are not."""

    id: str
    text: str
    choices: tuple[str, ...] = ()
    kind: Kind | None = None
    tests: tuple[str, ...] = ()
    turns: tuple[Message, ...] = ()
    wishes: Wishes = field(default_factory=Wishes)

    @property
    def sha(self) -> str:
        """The sha256 over all of it that its answer may depend on, but for its id."""
        more = [str(asdict(turn)) for turn in self.turns] + ([] if (told := self.wishes.told) == {} else [str(told)])
        parts = (self.text, *self.choices, str(self.kind), *self.tests, *more)
        return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()

    @property
    def asker(self) -> Asker:
        """Who asks for what is asked on the way to its answer."""
        return Asker(self.id, self.wishes)

    @property
    def prompt(self) -> str:
        """The text an expert is given, and a router looks at."""
        return lettered(self.text, self.choices)


def lettered(text: str, choices: Sequence[str]) -> str:
    """A question with its options as lettered lines.

    >>> print(lettered("Which is a fruit?", ("apple", "stone")))
    Which is a fruit?
    A) apple
    B) stone
    """
    lines = [f"{chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices)]
    return "\n".join([text, *lines])


def as_queries(queries: Sequence[str | Query]) -> tuple[Query, ...]:
    """Plain texts get their place as id. Raises InputError for an empty question, and an id that comes twice or holds a NUL."""
    rows = tuple(Query(str(i), query) if isinstance(query, str) else query for i, query in enumerate(queries))
    seen: set[str] = set()
    for row in rows:
        if not row.text.strip():
            raise InputError("the question is empty", where=f"query {row.id!r}", remedy="give it a text")
        if "\0" in row.id:
            raise InputError("the id holds a NUL character", where=f"query {row.id!r}", remedy="leave it out")
        if row.id in seen:
            raise InputError("this id comes twice", where=f"query {row.id!r}", remedy="give every query its own id")
        seen.add(row.id)
    return rows


@dataclass(frozen=True, slots=True)
class Reply:
    """A draft in its row: from which arm, which sample, the answer read out of it (None: nothing could be read), what
    came of each of the query's tests (empty: they were not run), and its `code`: equal for equal answers of the row, -1
    where there is none, or a program that fails a test. `worked`: what became of the programs in it, where its arm has a
    strategy and they were run."""

    arm: str
    draft: Draft
    sample: int = 0
    answer: str | None = None
    verdicts: tuple[Verdict, ...] = ()
    code: int = -1
    worked: Worked | None = None

    @property
    def said(self) -> str:
        """The text that the answer is read out of: the draft, or what its program gave."""
        return self.draft.text if self.worked is None else self.worked.said

    @property
    def passed(self) -> int | None:
        """How many tests the program passes; None where nobody knows."""
        unknown = not self.verdicts or "refused" in self.verdicts
        return None if unknown else self.verdicts.count("passed")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the pipeline returns for one query.

    `status` is `ok`, `degraded` (answered, but an expert that was asked failed or was cut off, or no answer could be read, or it is a program that fails a test) or `failed`.
    `score` is the router's score of the arm whose draft was taken, `agreement` the share of drafts that say the same,
    `sure` is P(right) where the pipeline was rehearsed on its profile, the question lies inside it, and no draft has a
    contrast (`calibrated`), else how much the aggregator believes the answer, in [0, 1]; of a draft that a judge, a scorer or the
    like chose, the share of drafts that say the same. It is None where nothing is known: no answer could be read in the text
    that was taken, the expert was asked by name, a plan was followed, or a merger, a supervisor's author or a search wrote the
    answer after the drafts, for which none of them voted (`agreement` still says how many say the same). `marks` say why the answer may be wrong
    all the same: its question's flags, that the experts disagree, that a plan was followed, that the chosen one is known to be sure and wrong here,
    that its text speaks of something else; heuristics. A question that was not answered on purpose is `failed`, with why in its trace.
    """

    id: str
    text: str
    status: Status
    experts: tuple[str, ...]
    score: float | None
    agreement: float
    chosen: str | None
    trace_id: str
    sure: float | None = None
    calibrated: bool = False
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Course:
    """How rows are decided: the policy, and the arms whose scores it is given."""

    policy: Policy
    arms: tuple[Arm, ...]


@dataclass(frozen=True, slots=True)
class Gated:
    """What a gate decided for a wanted arm: `gate` by name, the arm it `chose`, the expected `gain` in P(right) of the best
    arm that reads, and what that costs and a right answer is worth, in seconds."""

    gate: str
    chose: str
    gain: float
    cost: float
    value: float


@dataclass(frozen=True, slots=True)
class Contrasted:
    """What is taken off of what an arm says: the `partner` (`base`: its base without its adapter; `unread`: itself without
    what it reads; else an expert), how it was `chosen`, how much of it (`beta`), over which tokens (`alpha`), and `why`,
    where the arm was not asked for by that name."""

    partner: str
    chosen: str
    beta: float
    alpha: float
    why: str = ""

    def but(self, beta: float, alpha: float, why: str) -> Contrasted:
        """With these numbers, for this reason."""
        return replace(self, beta=beta, alpha=alpha, why=why)


@dataclass(frozen=True, slots=True)
class Beside:
    """A draft that was made on the way to an answer and is none of the replies that stand: of a planner, a step, a merger, a
    judge, a scorer, a supervisor, a search, or an earlier round; of a discussion those before it are its `first round`."""

    arm: str
    role: Role | Literal["first round"]
    draft: Draft


@dataclass(frozen=True, slots=True)
class Planned:
    """How a question was split: by which `planner`, the `steps` that were taken, and `why` the plan was not followed to its
    end, where it was not: then the question was asked as it stands. `like`: the questions whose plans it was shown, `note`: why none.
    `gives`: how the answer of a plan that was followed to its end is read, where its question does not say."""

    planner: str
    steps: tuple[Stepped, ...]
    why: str = ""
    like: tuple[str, ...] = ()
    note: str = ""
    gives: Kind | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merger, a judge, a scorer, a supervisor or a search was for a row: who it is (`by`), the `reply` to be taken, None
    where it was not asked or said nothing, `why` so, and how it was `chosen` ("": it was named). Of a judge the `duels`: which of two arms it preferred (None: neither,
    in both orders); of a scorer the `ratings`, of a supervisor the `tries`, of a search the `paths`. `note` tells what was
    done otherwise than was asked for."""

    by: str
    reply: Reply | None = None
    why: str = ""
    chosen: str = ""
    duels: tuple[tuple[str, str, str | None], ...] = ()
    ratings: tuple[Rated, ...] = ()
    tries: tuple[Checked, ...] = ()
    paths: tuple[Walked, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Discussed:
    """A round of discussion that is over: the replies that were discussed, in plan order, and who was asked anew."""

    replies: tuple[Reply, ...]
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class State:
    """Columns over one batch, a row per query. Stages never change it: they return an `Update`.

    `scores` is [row, arm] in the order of `arms`; `asked` holds the arms each row has asked, in plan order, `wanted`
    those of the current round; `course` is how they were chosen; `open` marks rows that still want something; `round`
    counts decisions; `withheld` marks rows whose drafts a budget did not allow: they are not finished, whatever was made of
    the drafts that are there. `evidence` maps the arms of a row that are given any to it, `gated` the arms of a row to the
    gate's decision that chose them, `contrasted` those with a contrast to what they are contrasted with, `voiced` those that speak as a persona to it; `planned` is how a
    question was split into steps (None: it was not), `merged` what was made of its drafts (None: nobody was to), `discussed` the rounds of
    discussion before the replies that stand, `beside` all other drafts on the way to them.
    """

    queries: tuple[Query, ...]
    run: str = ""
    arms: tuple[str, ...] = ()
    scores: Array | None = None
    reasons: tuple[Reason, ...] = ()
    asked: tuple[tuple[str, ...], ...] = ()
    wanted: tuple[tuple[str, ...], ...] = ()
    replies: tuple[tuple[Reply, ...], ...] = ()
    evidence: tuple[Mapping[str, Evidence], ...] = ()
    gated: tuple[Mapping[str, Gated], ...] = ()
    contrasted: tuple[Mapping[str, Contrasted], ...] = ()
    voiced: tuple[Mapping[str, Voiced], ...] = ()
    planned: tuple[Planned | None, ...] = ()
    merged: tuple[Merged | None, ...] = ()
    discussed: tuple[tuple[Discussed, ...], ...] = ()
    beside: tuple[tuple[Beside, ...], ...] = ()
    abstained: tuple[str | None, ...] = ()
    answers: tuple[Answer, ...] = ()
    open: tuple[bool, ...] = ()
    withheld: tuple[bool, ...] = ()
    round: int = 0
    course: Course | None = None

    @classmethod
    def of(cls, queries: tuple[Query, ...], run: str = "") -> State:
        """A fresh batch: every row open, nothing asked."""
        n = len(queries)
        nothing: tuple[tuple[Any, ...], ...] = ((),) * n
        return cls(
            queries=queries,
            run=run,
            reasons=(Reason(),) * n,
            asked=nothing,
            wanted=nothing,
            replies=nothing,
            evidence=({},) * n,
            gated=({},) * n,
            contrasted=({},) * n,
            voiced=({},) * n,
            planned=(None,) * n,
            merged=(None,) * n,
            discussed=nothing,
            beside=nothing,
            abstained=(None,) * n,
            open=(True,) * n,
            withheld=(False,) * n,
        )

    def part(self, rows: Sequence[int]) -> State:
        """The same batch with these rows alone, in this order; the scores are a copy."""
        columns = {name: tuple(column[row] for row in rows) for name in _COLUMNS if (column := getattr(self, name))}
        return self.apply({"scores": None if self.scores is None else self.scores[list(rows)], **columns})

    def joined(self, parts: Sequence[Part]) -> State:
        """This batch as its parts, which hold every row once, have left it when they ended; routes stay as they are
        here."""
        columns = {name: self.column(name, parts) for name in _COLUMNS}
        return self.apply({"round": max((part.round for _, part in parts), default=self.round), **columns})

    def column(self, name: str, parts: Sequence[Part]) -> tuple[Any, ...]:
        """A field with an entry per query, out of parts that hold every row once."""
        column: list[Any] = [None] * len(self.queries)
        for rows, part in parts:
            for row, value in zip(rows, getattr(part, name), strict=True):
                column[row] = value
        return tuple(column)

    @property
    def seen(self) -> list[Seen]:
        """What each row has shown, for the policy: in plan order, never in order of arrival."""
        return [self.seen_of(row) for row in range(len(self.queries))]

    def seen_of(self, row: int) -> Seen:
        """What the query at `row` has shown."""
        return Seen(self.asked[row], told(self.replies[row]), self.queries[row].id, self.reasons[row].flags)

    def route(self, row: int) -> Route:
        """Who was asked for the query at `row`, and why."""
        scores = self.scores[row] if self.scores is not None else ()
        by_arm = {arm: float(score) for arm, score in zip(self.arms, scores, strict=True)}
        return Route(self.asked[row], by_arm, self.reasons[row])

    def apply(self, update: Update) -> State:
        """The state with `update`'s fields; a field that does not exist is a bug in the stage and raises TypeError."""
        unknown = set(update) - {field.name for field in fields(self)}
        if unknown:
            raise TypeError(f"a stage returned fields that the state does not have: {', '.join(sorted(unknown))}")
        return replace(self, **update)


class Place(NamedTuple):
    """Where a draft belongs: the row of its query, the arm, and which sample of it."""

    row: int
    arm: str
    sample: int


def request_id(query: str, arm: str, sample: int) -> str:
    """The id of the request for a draft: unique in a batch."""
    return f"{query}:{arm}:{sample}"


Part = tuple[tuple[int, ...], State]
"""Rows of a batch, and the state of these alone."""

_COLUMNS = (
    "queries",
    "reasons",
    "asked",
    "wanted",
    "replies",
    "evidence",
    "gated",
    "contrasted",
    "voiced",
    "planned",
    "merged",
    "discussed",
    "beside",
    "abstained",
    "answers",
    "open",
    "withheld",
)
"""The fields with an entry per query; `wanted` and `answers` are empty until somebody has filled them."""


def followed(state: State, row: int) -> bool:
    """Whether the reply of the row is that of a plan's last step."""
    planned = state.planned[row]
    return planned is not None and not planned.why


def voted_on(state: State, row: int, reply: Reply) -> bool:
    """Whether a reply that settles the row is one of its drafts, and was not written after them."""
    return any(own.draft is reply.draft for own in state.replies[row])


def told(replies: Sequence[Reply]) -> tuple[tuple[str, str | None], ...]:
    """(arm, answer) of each reply, where equal answers are told in the same words: those of the first."""
    words: dict[int, str | None] = {-1: None}
    return tuple((reply.arm, words.setdefault(reply.code, reply.answer)) for reply in replies)
