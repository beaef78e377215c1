"""Is the predicted order of alternative plans the measured one? Real models, several ways to do the same work on this machine.

What `coe calibrate` measures says what each way would take (`composer/pool/plan.py`); each is then done, all in turn and
then all once more, and the quicker time counts: a machine is never quite alone. Where two come out the wrong way round, all
are measured and done again, up to five times: what others do here passes, a wrong prediction stays.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from composer.pool.calibrate import measure
from composer.pool.locality import by_next_use
from composer.pool.plan import Batch, Forecast, Lane, Machine, Plan, forecast
from composer.pool.pool import Pool
from composer.pool.speeds import Speeds
from composer.registry.experts import Registry
from composer.types import Request
from evals.bench.pool_real import SHORT, Bench, budget_of, make_registry
from evals.bench.pool_scripts import Nothing, requests_of, traffic

HOSTS, QUESTIONS, TIMES, MOST = 4, 10, 2, 5
ORDERED = (1, 2, 3)  # rooms
GROUPED = ((1, 1), (2, 1), (3, 1), (2, 2), (3, 2))  # room, and hosts at once
APART = 1.5  # predictions that differ by this factor have to come out in their order; nearer ones may be noise


@dataclass(frozen=True, slots=True)
class Way:
    """A way to do the work, as it was predicted and how long it took; `times` are seconds of wall time, one per turn."""

    name: str
    loads: int
    predicted: float
    times: tuple[float, ...]

    @property
    def measured(self) -> float:
        """The quickest."""
        return min(self.times)

    @property
    def noise(self) -> float:
        """By which factor the turns differ."""
        return max(self.times) / min(self.times)


async def compare(folder: Path, say: Callable[[str], None] = print) -> list[Way]:
    """Predict and do every way, in a `folder` with room for the weights."""
    bench = Bench(make_registry(folder, HOSTS), _rows(), folder)
    typical = await bench.typical()
    took: dict[str, list[float]] = {}
    speeds, found = Speeds(0.0, 0.0), list[Way]()
    for turn in range(MOST):
        speeds = await _calibrated(bench.registry, speeds)
        for name, work in _ways(bench, speeds).items():
            took.setdefault(name, []).append((await bench.spent(work())).wall)
            say(f"turn {turn + 1}: {name}: {took[name][-1]:.1f} s")
        predicted = await _predicted(bench, speeds, typical)
        found = [Way(name, *predicted[name], tuple(times)) for name, times in took.items()]
        if turn + 1 >= TIMES and not wrong_pairs(found):
            break
    return found


def _rows() -> list[list[str]]:
    """Each question asks two experts of `HOSTS`, or one that is popular alone."""
    return [list(dict.fromkeys(f"e{int(expert[1:]) % HOSTS:02}" for expert in row[:2])) for row in traffic(QUESTIONS)]


def _asked(bench: Bench) -> list[Request]:
    return [request for place, row in enumerate(bench.rows) for request in requests_of(place, row, SHORT)]


async def _calibrated(registry: Registry, before: Speeds) -> Speeds:
    """Every host measured once more; of each figure the best that was seen."""
    hosts = dict(before.hosts)
    for name in registry.settings.models:
        new = await measure(registry.engine(name), registry.host(name, ()))
        old = hosts.get(name, new)
        hosts[name] = replace(
            new,
            prefill=max(old.prefill, new.prefill),
            decode_one=max(old.decode_one, new.decode_one),
            decode=max(old.decode, new.decode),
            load=min(old.load, new.load),
        )
    return Speeds(0.0, 0.0, hosts)


def _order_name(room: int) -> str:
    return f"question order, room for {room}"


def _group_name(room: int, at_once: int) -> str:
    return f"grouped, room for {room}, {at_once} at once"


def _ways(bench: Bench, speeds: Speeds) -> dict[str, Callable[[], Awaitable[None]]]:
    """How each way is done. In question order the victim is who is needed last: the plan foretells no other."""
    victim = by_next_use([request.arm for request in _asked(bench)])
    ways: dict[str, Callable[[], Awaitable[None]]] = {}
    for room in ORDERED:
        ways[_order_name(room)] = partial(bench.question_order, room, victim)
    for room, at_once in GROUPED:
        ways[_group_name(room, at_once)] = partial(
            bench.ours, stream=False, at_once=at_once, memory=budget_of(room), speeds=speeds
        )
    return ways


async def _predicted(bench: Bench, speeds: Speeds, typical: Mapping[str, float]) -> dict[str, tuple[int, float]]:
    """Loads and seconds of each way, as the plan foretells them."""
    asked, registry = _asked(bench), bench.registry
    found: dict[str, Forecast] = {}
    for room in ORDERED:
        plan = Plan(tuple(Batch(registry.host_of(request.arm), (Lane(None, (request,)),)) for request in asked))
        machine = Machine(registry.estimate, registry.weights, limit=budget_of(room), ahead=False)
        found[_order_name(room)] = forecast(plan, machine, typical=typical, speeds=speeds)
    for room, at_once in GROUPED:
        pool = Pool(registry, Nothing(), memory=budget_of(room), at_once=at_once, speeds=speeds)
        found[_group_name(room, at_once)] = await pool.preview(asked, typical)
        await pool.close()
    return {name: (told.loads, told.seconds or 0.0) for name, told in found.items()}


def wrong_pairs(ways: Sequence[Way], apart: float = APART) -> list[tuple[Way, Way]]:
    """The pairs (quicker by prediction first) whose predictions differ by the factor `apart`, and that came out the other
    way round."""
    pairs = (sorted(pair, key=lambda way: way.predicted) for pair in combinations(ways, 2))
    return [(a, b) for a, b in pairs if b.predicted >= apart * a.predicted and b.measured <= a.measured]


def kendall(ways: Sequence[Way]) -> tuple[float, int]:
    """Kendall's tau of predicted and measured seconds over the pairs that differ, measured, by more than their own turns
    do; and how many pairs those are."""
    told = [
        (a.predicted < b.predicted) == (a.measured < b.measured)
        for a, b in combinations(ways, 2)
        if max(a.measured, b.measured) / min(a.measured, b.measured) > max(a.noise, b.noise)
    ]
    return (2 * sum(told) - len(told)) / max(1, len(told)), len(told)


def table(ways: Sequence[Way]) -> list[str]:
    """Predicted and measured seconds, quickest prediction first, and how well the orders agree."""
    lines = [f"{'way':40}{'loads':>7}{'predicted s':>13}{'measured s':>12}{'of it':>8}"]
    for way in sorted(ways, key=lambda way: way.predicted):
        lines.append(
            f"{way.name:40}{way.loads:7}{way.predicted:13.1f}{way.measured:12.1f}{way.predicted / way.measured:8.2f}"
        )
    tau, pairs = kendall(ways)
    total = len(ways) * (len(ways) - 1) // 2
    lines.append(f"Kendall's tau {tau:.2f} over the {pairs} of {total} pairs that differ by more than their own turns")
    lines.append(f"predictions {APART} times apart that came out the other way round: {len(wrong_pairs(ways))}")
    return lines


async def plans() -> dict[str, Any]:
    """The table on stdout, and its figures."""
    with tempfile.TemporaryDirectory() as name:
        ways = await compare(Path(name), say=lambda _: None)
    print("\n".join(table(ways)), flush=True)
    tau, pairs = kendall(ways)
    told = [
        {"way": way.name, "loads": way.loads, "predicted": round(way.predicted, 1), "times": way.times} for way in ways
    ]
    return {"ways": told, "kendall": tau, "pairs": pairs, "wrong": len(wrong_pairs(ways))}
