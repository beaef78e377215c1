"""The parts of a pipeline, each made on first use: the encoder, routers, what was fitted, indexes, the store, the pool."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from composer.registry.experts import Registry
from composer.registry.sources import Progress
from composer.settings.contrast import check_engines

if TYPE_CHECKING:
    from composer.answers.ballots import Aggregator
    from composer.answers.sandbox import Monty
    from composer.answers.trust import Trust
    from composer.intents import Intents
    from composer.planning.memory import Known
    from composer.pool.ledger import Ledger
    from composer.pool.pool import Pool
    from composer.pool.resolver import Drafts
    from composer.records.contrasts import ContrastRecord
    from composer.records.mergers import Mergers
    from composer.records.personas import PersonaRecord
    from composer.records.scorer import ScorerRecord
    from composer.retrieval.index import PassageIndex
    from composer.retrieval.records import GateRecord
    from composer.retrieval.rerank import Reranker
    from composer.settings.evidence import EvidenceSpec
    from composer.settings.specs import Settings
    from composer.settings.strategy import Limits
    from composer.store import DraftStore
    from routers.embed import Encoder
    from routers.types import Router

# What `coe route` never needs (the pool, the store) is imported where it is used.


class Parts:
    """What the experts of one registry file are asked with."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: Path | None,
        memory: int | None,
        offline: bool,
        progress: Progress | None,
        say: Callable[[str], None],
    ) -> None:
        """See `Pipeline`."""
        self.settings = settings
        if settings.strategic:
            from composer.answers.sandbox import check_sandbox  # noqa: PLC0415 only where programs are run

            check_sandbox(settings.where(f"experts.{settings.strategic[0].expert}.strategies"))
        self.registry = Registry(settings, offline=offline, progress=progress)
        if settings.contrasting:
            check_engines(settings, self.registry.engine)
            from composer.registry.vocabularies import check_vocabularies  # noqa: PLC0415 only for several bases

            check_vocabularies(self.registry)
        self._say = say
        self._store_path = store
        self.memory = memory if memory is not None else settings.memory
        self.drafts: Drafts | None = None  # where drafts are kept, where that is not the store
        self._store: DraftStore | None = None
        self._pool: Pool | None = None
        self._encoder: Encoder | None = None
        self._routers: dict[str, Router] = {}
        self._aggregators: dict[str, Aggregator] = {}
        self._plans_of: dict[str, Known] = {}
        self._indexes: dict[Path, PassageIndex] = {}
        self._checked: set[Path] = set()  # indexes
        self._reranker: Reranker | None = None
        self._sandboxes: dict[Limits, Monty] = {}
        self._opening = threading.Lock()

    @property
    def ledger(self) -> Ledger:
        """What was called and what it cost so far."""
        return self.pool.ledger

    @property
    def at_once(self) -> int:
        """How many models may compute at a time: as often as the threads of the greediest one fit into the processor."""
        greediest = max(model.threads for model in self.settings.models.values())
        return max(1, len(os.sched_getaffinity(0)) // greediest) if hasattr(os, "sched_getaffinity") else 1

    @property
    def opened_pool(self) -> Pool | None:
        """The pool, if anything was asked yet: looking makes none."""
        return self._pool

    @property
    def store(self) -> DraftStore:
        """The draft store."""
        if self._store is None:
            from composer.store import DraftStore  # noqa: PLC0415

            self._store = DraftStore.open(self._store_path)
        return self._store

    @property
    def pool(self) -> Pool:
        """The pool that every draft comes through."""
        if self._pool is None:
            from composer.pool.calibrate import load_speeds  # noqa: PLC0415
            from composer.pool.pool import Pool  # noqa: PLC0415

            speeds = load_speeds({name: self.registry.weights(name) for name in self.settings.models})
            store = self.drafts or self.store
            self._pool = Pool(self.registry, store, memory=self.memory, speeds=speeds, at_once=self.at_once)
        return self._pool

    def passages(self, folder: Path) -> PassageIndex:
        """The index in this folder, opened once and as long as the pipeline is. Raises PassageError, and SourceError or
        ConfigError where the cross-encoder that evidence asks for is not to be had."""
        with self._opening:  # stages look up in threads
            if folder not in self._indexes:
                from composer.retrieval.index import PassageIndex  # noqa: PLC0415

                self._indexes[folder] = PassageIndex.open(folder, self.encoder(), self.reranker())
            return self._indexes[folder]

    def sandbox(self, limits: Limits) -> Monty:
        """What runs programs within these limits, opened once and as long as the pipeline is."""
        with self._opening:  # stages run programs in threads
            if limits not in self._sandboxes:
                from composer.answers.sandbox import Monty  # noqa: PLC0415 only where programs are run

                self._sandboxes[limits] = Monty(seconds=limits.seconds, memory=limits.memory).__enter__()
            return self._sandboxes[limits]

    def check_passages(self, evidence: Sequence[EvidenceSpec]) -> None:
        """Look at the files of what may be read, once. Raises PassageError, SourceError and ConfigError, as `passages`."""
        self.registry.prints()
        for spec in evidence:
            for folder in [one for one in spec.indexes if one not in self._checked]:
                from composer.retrieval.index import checked  # noqa: PLC0415

                checked(folder, self.encoder())
                if spec.rerank:
                    self.registry.reranker_files()
                self._checked.add(folder)

    def reranker(self) -> Reranker | None:
        """The cross-encoder, where any evidence asks for it, fetched if need be."""
        if self._reranker is None and any(arm.evidence and arm.evidence.rerank for arm in self.settings.reading):
            from composer.retrieval.rerank import CrossEncoder  # noqa: PLC0415

            self._reranker = CrossEncoder.open(*self.registry.reranker_files())
        return self._reranker

    def encoder(self) -> Encoder:
        """The sentence encoder, fetched if need be. Where experts read, a question is scored and looked up with the same
        vector."""
        if self._encoder is None:
            from routers.embed import OnnxEncoder, Remembering  # noqa: PLC0415 onnxruntime: only where something is embedded

            own = OnnxEncoder(*self.registry.encoder_files())
            self._encoder = Remembering(own) if self.settings.reading else own
        return self._encoder

    def router(self, name: str) -> Router:
        """The router `name`, fitted on the profile that goes with this registry; where there is nothing to choose, or
        nothing to choose by, one that leaves everything to the generalist."""
        if name not in self._routers:
            from composer.learning.fitted import decider  # noqa: PLC0415 only where somebody is to be chosen

            self._routers[name] = decider(self.registry, name, self._say)
        return self._routers[name]

    def aggregator(self, name: str) -> Aggregator:
        """The aggregator `name`: as `coe fit answers` installed it, else as it is before it has learnt anything; read
        once. Raises InputError for `learnt` where none is installed, or one that cannot be read."""
        if name not in self._aggregators:
            from composer.learning.fitted import combiner  # noqa: PLC0415 pyarrow: only where there is something to combine

            self._aggregators[name] = combiner(self.registry, name)
        return self._aggregators[name]

    @cached_property
    def typical(self) -> Mapping[str, float]:
        """The tokens of an answer per arm, where they were measured."""
        from composer.learning.fitted import typical_tokens  # noqa: PLC0415 only where somebody foretells

        return typical_tokens(self.registry)

    @cached_property
    def gates(self) -> Mapping[str, GateRecord]:
        """The gates that `coe fit gate` installed, by the arm that reads. Raises InputError where they cannot be read."""
        from composer.learning.fitted import gates_of  # noqa: PLC0415 pyarrow: only where there is something to weigh

        return gates_of(self.registry, self._say)

    def plans(self, planner: str) -> Known:
        """The plans of this planner that `coe fit answers --plans` learnt; of another one none, and the user is told. Raises InputError
        where they cannot be read, or are of another encoder."""
        if planner not in self._plans_of:
            from composer.learning.fitted import plans_of  # noqa: PLC0415 pyarrow: only where somebody plans

            self._plans_of[planner] = plans_of(self.registry, planner, self._say)
        return self._plans_of[planner]

    @cached_property
    def contrasts(self) -> Mapping[str, ContrastRecord]:
        """The contrasts that `coe fit contrast` installed, by plain arm. Raises InputError where they cannot be read."""
        from composer.learning.fitted import contrasts_of  # noqa: PLC0415 pyarrow: only where there may be some

        return contrasts_of(self.registry, self._say)

    @cached_property
    def intents(self) -> Intents:
        """What tells the intent of a question."""
        from composer.intents import Intents  # noqa: PLC0415 only where there are personas

        return Intents.read(self.encoder().encode, self.registry.encoder_sha)

    @cached_property
    def personas(self) -> tuple[PersonaRecord, ...]:
        """What `coe fit gate` measured of personas. Raises InputError where it cannot be read."""
        from composer.learning.fitted import personas_of  # noqa: PLC0415 only where there may be some

        return personas_of(self.registry, lambda: self.intents.digest, self._say)

    @cached_property
    def mergers(self) -> Mergers:
        """Whom `coe fit answers --mergers` chose to merge. Raises InputError where it has not, or they have changed since."""
        from composer.places import mergers_folder  # noqa: PLC0415
        from composer.records.mergers import read_mergers  # noqa: PLC0415 only where the choice is left to it

        return read_mergers(mergers_folder(self.registry), self.registry.prints())

    @cached_property
    def scorers(self) -> Mapping[str, ScorerRecord]:
        """What `coe fit answers --scorer` installed, by the expert that rates. Raises InputError where it cannot be read."""
        from composer.learning.fitted import scorers_of  # noqa: PLC0415 pyarrow: only where there is something to rate

        return scorers_of(self.registry, self._say)

    @cached_property
    def trust(self) -> Trust | None:
        """How far answers of this registry are to be believed; None where nobody has measured it as it stands."""
        from composer.learning.trust import installed_trust  # noqa: PLC0415 pyarrow: only where there are answers

        return installed_trust(self.registry)

    async def aclose(self) -> None:
        """End every host and the store."""
        pool, self._pool = self._pool, None  # a run that begins meanwhile opens its own
        store, self._store = self._store, None
        try:
            if pool is not None:
                await pool.close()
        finally:
            if store is not None:
                store.close()
            self._checked = set()
            if self._indexes or self._sandboxes:
                import asyncio  # noqa: PLC0415 - `coe route` asks nobody

                await asyncio.to_thread(self._close_opened)  # a program under way is waited for, and others go on

    def _close_opened(self) -> None:
        with self._opening:
            indexes, self._indexes = self._indexes, {}
            sandboxes, self._sandboxes = self._sandboxes, {}
        for sandbox in sandboxes.values():
            sandbox.close()
        for index in indexes.values():
            index.close()
