"""What recorded traffic says about memory: how many hosts are worth being resident, and how many bytes they take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.errors import ComposerError
from composer.pool.queues import AND
from composer.serving import experts_of, put_on
from composer.store import DraftStore, RunRecord

if TYPE_CHECKING:
    from composer.pool.locality import Advice
    from composer.records.contrasts import ContrastRecord
    from composer.registry.experts import Registry

WINDOW = 16  # questions that the oracle foresees
LATEST = 10_000  # questions that are looked at: what was asked before says little about what will be
_MEBIBYTE = 2**20

Installed = Callable[["Registry"], "Mapping[str, ContrastRecord]"]
"""What `coe fit contrast` installed for a registry. Raises ComposerError where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Which hosts were needed by `questions` questions (those that the store answered alone are not among them), in
    `uses` uses. `hosts` are bytes by name, None where nobody knows; `experts`: a registry could not be read, so some of
    them are experts, each as if it had a host of its own. `advice` is None where too little was asked to say, and
    `memory` the bytes that it takes, None where a size is unknown."""

    questions: int
    uses: int
    hosts: Mapping[str, int | None]
    experts: bool
    advice: Advice | None
    memory: int | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        told = {"questions": self.questions, "uses": self.uses, "hosts": dict(self.hosts), "experts": self.experts}
        if self.advice is None:
            return told | {"advice": None}
        found = asdict(self.advice)
        srp = [{"window": window, "f1": f1, "kept": kept} for window, f1, kept in found.pop("srp")]
        return told | {"advice": found | {"memory": self.memory, "window": WINDOW, "srp": srp}}

    def lines(self) -> list[str]:
        """For people."""
        what = "experts (a registry cannot be read, so their hosts are not known)" if self.experts else "host(s)"
        head = f"traffic  {self.questions} questions needed {len(self.hosts)} {what}"
        if len(self.hosts) == 1:
            return [f"{head}, {next(iter(self.hosts))}: there is nothing to choose"]
        if self.advice is None:
            return [f"{head}: too few to say what memory is worth; {WINDOW} or more tell"] if self.questions else []
        found, n = self.advice, len(self.hosts)
        rooms = sorted({1, 2, max(1, n // 2), found.resident, min(found.resident + 1, n), n})
        rates = [", ".join(f"{100 * curve[room - 1]:.0f}" for room in rooms) for curve in (found.lru, found.hit_rate)]
        srp = ", ".join(f"{f1:.2f} over {window}" for window, f1, _ in found.srp)
        return [
            f"{head}, {self.uses} times",
            f"         there already, with room for {', '.join(map(str, rooms))} of them: {rates[0]} % of the times (LRU), "
            f"{rates[1]} % where {WINDOW} questions are foreseen (SCH)",
            f"         one set of them for all questions of a window: F1 {srp} questions (SRP)",
            f"memory   {self._advised(found)}",
        ]

    def _advised(self, found: Advice) -> str:
        if found.group:
            return "no locality: group (ask a file: `coe run`) rather than cache"
        told = f"room for {found.resident} of {len(self.hosts)} hosts is worth it"
        if self.memory is None:
            return f"{told}; how large they are is not known"
        return f"{told}: --memory {-(-self.memory // _MEBIBYTE)}MiB"


async def traffic(
    store: DraftStore, runs: Sequence[RunRecord], run_id: str | None = None, *, installed: Installed = lambda _: {}
) -> Traffic:
    """What the latest questions of a run (None: of all `runs`) needed. Registries are read where the runs found them, and
    arms count as these decode them now: with the contrasts that their `pipeline:` puts onto them, `installed` ones too."""
    asked = (await store.uses(run_id))[-LATEST:]
    places = {run.run_id: run.origin.registry_path for run in runs if run.origin is not None}
    registries = {place: _registry(place) for place in {places.get(run, "") for run, _ in asked}}
    hosts = _Hosts(installed)
    sets = [hosts.of(registries[places.get(run, "")], arms) for run, arms in asked]
    sets = [used for used in sets if used]  # nothing but what somebody else serves: it needs no room
    sizes = hosts.sizes()
    if len(sizes) < 2 or len(sets) < WINDOW:
        return Traffic(len(sets), sum(map(len, sets)), sizes, hosts.unknown, None, None)
    from composer.pool.locality import advise, uses_of  # noqa: PLC0415 numpy: only where there is enough to count

    advice = advise(uses_of(sets)[0], window=WINDOW)
    # whichever hosts are resident together: the largest of them have to fit
    known_sizes = sorted((size for size in sizes.values() if size is not None), reverse=True)
    memory = sum(known_sizes[: advice.resident]) if len(known_sizes) == len(sizes) else None
    return Traffic(len(sets), sum(map(len, sets)), sizes, hosts.unknown, advice, memory)


class _Hosts:
    """Hosts of one or several registries: equal weights under one name are one host."""

    def __init__(self, installed: Installed) -> None:
        self._installed = installed
        self.unknown = False  # whether somebody's host is
        self._labels: dict[tuple[str, str], str] = {}  # by weights and name
        self._asked: dict[str, tuple[Registry, dict[str, set[str]]]] = {}  # host: its registry, adapters by model
        self._decoded: dict[int, dict[str, str]] = {}  # arms as the pipeline of a registry decodes them

    def of(self, registry: Registry | None, arms: Sequence[str]) -> tuple[str, ...]:
        """The hosts in memory that these arms need, each once."""
        return tuple(dict.fromkeys(host for arm in arms if (host := self._host(registry, arm)) is not None))

    def sizes(self) -> dict[str, int | None]:
        """Bytes of every host that was met, with all adapters it was asked for; None where nobody knows."""
        found: dict[str, int | None] = dict.fromkeys(self._labels.values())
        for label, (registry, models) in self._asked.items():
            if all(registry.is_sized(model) for model in models):
                sizes = [
                    max(registry.estimate(model, sorted(adapters)), _measured(registry, model))
                    for model, adapters in models.items()
                ]
                found[label] = sum(sizes)
        return found

    def _host(self, registry: Registry | None, arm: str) -> str | None:
        if registry is None or arm not in registry.settings.arms:
            self.unknown = True
            return self._label("", arm)
        experts = [registry.settings.experts[name] for name in experts_of(registry, self._as_decoded(registry, arm))]
        if not any(registry.estimate(expert.model, ()) for expert in experts):
            return None  # somebody else serves it
        weights = AND.join(registry.weights(expert.model) for expert in experts)
        label = self._label(weights, AND.join(expert.model for expert in experts))
        models = self._asked.setdefault(label, (registry, {}))[1]
        for expert in experts:
            models.setdefault(expert.model, set()).update([expert.name] if expert.adapter else ())
        return label

    def _as_decoded(self, registry: Registry, arm: str) -> str:
        """The arm with the contrast that the registry's pipeline puts onto it now."""
        if id(registry) not in self._decoded:
            try:
                self._decoded[id(registry)] = put_on(registry, lambda: self._installed(registry))
            except ComposerError:  # what cannot be read is put onto nobody
                self._decoded[id(registry)] = {}
        return self._decoded[id(registry)].get(arm, arm)

    def _label(self, weights: str, name: str) -> str:
        key = weights, name
        if key not in self._labels:
            self._labels[key] = f"{name} ({weights[:8]})" if name in self._labels.values() else name
        return self._labels[key]


def _measured(registry: Registry, model: str) -> int:
    """Bytes that the host held when this machine was calibrated, which the pool counts with too; 0 if it never was."""
    from composer.pool.calibrate import load_speeds  # noqa: PLC0415

    speeds = load_speeds({model: registry.weights(model)})
    return speeds.hosts[model].memory if speeds is not None and model in speeds.hosts else 0


def _registry(place: str) -> Registry | None:
    """The registry of a run, as it is now; None where it cannot be read, or the run is from before it was kept."""
    from composer.config import load_settings  # noqa: PLC0415
    from composer.registry.experts import Registry  # noqa: PLC0415

    if not place:
        return None
    try:
        return Registry(load_settings(Path(place)), offline=True)
    except ComposerError:
        return None
