"""What stages work with: handed to every stage factory, so that a test passes its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from composer.budget import Budget
from composer.errors import ConfigError, PassageError
from composer.plugins import load
from composer.state import Part, Query, State, Update
from composer.trace import Event
from composer.types import Kind, Prompt, Sampling, Stream
from routers.types import Arm, Array, Router

if TYPE_CHECKING:
    from composer.answers.ballots import Aggregator
    from composer.answers.sandbox import Sandbox
    from composer.answers.trust import Trust
    from composer.intents import Intents
    from composer.planning.memory import Known
    from composer.pool.pool import Pool
    from composer.records.contrasts import ContrastRecord
    from composer.records.mergers import Mergers
    from composer.records.personas import PersonaRecord
    from composer.records.scorer import ScorerRecord
    from composer.retrieval.index import Closeness, Hit
    from composer.retrieval.records import GateRecord
    from composer.settings.contrast import ContrastSpec
    from composer.settings.evidence import EvidenceSpec
    from composer.settings.specs import Settings
    from composer.settings.strategy import Limits, StrategySpec

Stage = Callable[[State], Awaitable[Update]]


@runtime_checkable
class Landing(Protocol):
    """A stage that can give rows on before it has done with the others."""

    async def __call__(self, state: State) -> Update:
        """All rows at once."""
        ...

    def landing(self, state: State) -> AsyncGenerator[Part]:
        """The rows of `state` as they are ready, every one once, as the stage leaves them."""
        ...


@runtime_checkable
class Whole(Protocol):
    """A stage that may need all rows of a batch together."""

    @property
    def whole(self) -> bool:
        """Whether a row's answer depends on the others: then all rows pass through every stage together."""
        ...


@dataclass(frozen=True, slots=True)
class Together:
    """A stage whose rows go through it all at once, so that what it asks for them is one pass over the hosts. They do not depend
    on each other (that is `Whole`): rows that were answered before need not come along."""

    work: Stage

    async def __call__(self, state: State) -> Update:
        """As `work`."""
        return await self.work(state)


class Encoder(Protocol):
    """Text to unit vectors."""

    def encode(self, texts: Sequence[str]) -> Array:
        """float32 [len(texts), dim]."""
        ...


class Arms(Protocol):
    """What stages ask of the registry: an arm's name to what is sent and how it is read. Of experts that write knowledge it
    knows `stream`, `sampling` and `messages` by their own name."""

    @property
    def settings(self) -> Settings:
        """The registry file as it was read."""
        ...

    @property
    def generalist(self) -> str:
        """The arm for what is nobody's skill."""
        ...

    def arms(self) -> tuple[Arm, ...]:
        """Every arm with its price, in registry order."""
        ...

    def stream(self, arm: str, prompt: Prompt, *, bare: bool = False) -> Stream:
        """The arm's expert and adapter (none where it is to be `bare`) with this prompt."""
        ...

    def contrast(self, arm: str) -> ContrastSpec | None:
        """What is taken off of what the arm says."""
        ...

    def contrasts(self) -> Mapping[str, str]:
        """The arms with a contrast, as `arithmetic~base`, and what each is without it."""
        ...

    def partners(self, arm: str) -> Sequence[str]:
        """Who may be the one that is taken off: several where they are chosen question by question."""
        ...

    def sampling(self, arm: str) -> Sampling:
        """How the arm's drafts are drawn."""
        ...

    def messages(self, arm: str, text: str) -> Prompt:
        """A question as the arm wants it: messages for a chat model, text for one that continues."""
        ...

    def variants(self, arm: str) -> tuple[str, ...]:
        """All arms of the arm's expert: as it is, then with each evidence."""
        ...

    def evidence(self, arm: str) -> EvidenceSpec | None:
        """What the arm is given to read beside the question."""
        ...

    def strategy(self, arm: str) -> StrategySpec | None:
        """How the arm answers, where that is not in prose."""
        ...

    def description(self, expert: str) -> str:
        """What the registry says of an expert, one that writes knowledge too; "" where it says nothing."""
        ...

    def fits(self, arm: str, text: str) -> bool:
        """Whether this text and an answer fit into the context of the arm's model."""
        ...

    def planners(self) -> Sequence[str]:
        """The experts that write plans."""
        ...

    def host_of(self, expert: str) -> str:
        """The host that serves the expert: what is asked of one host costs one load."""
        ...

    def kind(self, arm: str) -> Kind:
        """How the arm's answers are read where the query does not say."""
        ...


class Finder(Protocol):
    """An index of passages."""

    def closeness(self, questions: Sequence[str], vectors: Array, /) -> Closeness:
        """How close the passages are to each question."""
        ...

    def search(
        self, questions: Sequence[str], k: int, /, *, vectors: Array | None = None, rerank: int = 0
    ) -> Sequence[Sequence[Hit]]:
        """The k best passages of each question, best first, `rerank` of them ordered anew by a cross-encoder."""
        ...


def no_index(folder: Path) -> Finder:
    """Where nothing can be looked up."""
    raise PassageError("nobody opens indexes here", where=str(folder))


def no_encoder() -> Encoder:
    """Where nothing is embedded."""
    raise ConfigError("nobody embeds texts here", remedy="leave out the arms that read what experts write")


def no_intents() -> Intents:
    """Where nobody tells intents."""
    raise ConfigError("nobody tells the intents of questions here", remedy="leave out `- use: persona`")


def no_mergers() -> Mergers:
    """Where nobody has chosen who merges."""
    raise ConfigError("nobody chose who merges here", where="by", remedy="name an expert")


def no_sandbox(limits: Limits) -> Sandbox:
    """Where no program is run."""
    raise ConfigError("nobody runs programs here", remedy="leave out the arms with a strategy")


def unfitted(name: str) -> Aggregator:
    """The aggregator `name` as it is before it has learnt anything."""
    made: Aggregator = load("aggregators", name, "by")()
    return made


def no_plans(planner: str) -> Known:
    """Where no plan was followed before."""
    from composer.planning.memory import Known, Memory  # noqa: PLC0415 only who plans needs it

    return Known(Memory())


Solve = Callable[[Sequence[Query], Mapping[str, str], str], Awaitable[State]]
"""Questions of ours, on whose behalf each is asked (by their ids), and the run they belong to: the state when they are answered."""


async def nobody_solves(queries: Sequence[Query], behalf: Mapping[str, str], run: str) -> State:
    """Where no pipeline is."""
    raise ConfigError("nobody answers questions of a stage here")


@dataclass(frozen=True, slots=True)
class Kit:
    """The collaborators of a pipeline. `router`, `encoder`, `aggregator` and `trust` (None: how far answers are to be
    believed was never measured) load on first use; `passages` opens the index in a folder, once; `gates` are the fitted ones by arm, `contrasts` those that were shown to help, by plain arm, `scorers` the fitted ones by expert; `mergers` who merges where that was left open; `personas` what was measured of them, `intents` tells which a question has; `emit` reports events as they happen; `budget` is that of
    the run under way; `typical` tokens of an answer per arm, where they were measured; `solve` puts questions of ours through the rest of the pipeline;
    `plans` are those that a planner followed before; `sandbox` runs programs, none of which may take more than these limits."""

    registry: Arms
    encoder: Callable[[], Encoder]
    router: Callable[[str], Router]
    pool: Callable[[], Pool]
    emit: Callable[[Event], None]
    aggregator: Callable[[str], Aggregator] = unfitted
    trust: Callable[[], Trust | None] = lambda: None
    budget: Callable[[], Budget] = Budget
    typical: Callable[[], Mapping[str, float]] = dict[str, float]
    passages: Callable[[Path], Finder] = no_index
    gates: Callable[[], Mapping[str, GateRecord]] = dict[str, "GateRecord"]
    contrasts: Callable[[], Mapping[str, ContrastRecord]] = dict[str, "ContrastRecord"]
    mergers: Callable[[], Mergers] = no_mergers
    personas: Callable[[], Sequence[PersonaRecord]] = tuple["PersonaRecord", ...]
    intents: Callable[[], Intents] = no_intents
    scorers: Callable[[], Mapping[str, ScorerRecord]] = dict[str, "ScorerRecord"]
    solve: Solve = nobody_solves
    plans: Callable[[str], Known] = no_plans
    sandbox: Callable[[Limits], Sandbox] = no_sandbox


def kind_of(kit: Kit, state: State, row: int) -> Kind:
    """How the row's answers are read: as its query says, else as the plan that was followed to its end, else by its choices or
    tests, else as its first arm writes."""
    query, asked, planned = state.queries[row], state.asked[row], state.planned[row]
    if query.kind is not None:
        return query.kind
    if planned is not None and planned.gives is not None:
        return planned.gives
    if query.choices:
        return "choice"
    if query.tests:
        return "code"
    return kit.registry.kind(asked[0]) if asked else "text"


def at_once(update: Awaitable[Update]) -> Update:
    """The update of a stage that waits for nothing outside this thread, without an event loop if there is none."""
    steps = update.__await__()
    try:
        next(steps)
    except StopIteration as done:
        return cast("Update", done.value)
    raise RuntimeError("this stage waits for something: await it in an event loop")
