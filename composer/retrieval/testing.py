"""The promises every gate keeps, as one function, on a simulated corpus (METHODS D): it covers half of the topics, and misleads
on the other half."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from composer.errors import InputError
from composer.retrieval.choosing import BothWays, Costs
from composer.retrieval.gate import Gate, Signals
from composer.retrieval.records import GateRecord, read_records, write_records


def simulate(n: int, seed: int = 0) -> BothWays:
    """`n` questions of twenty topics; of the ten that are covered the expert knows little, and reads it where passages are
    near; in the others it knows more than the distractors it would be given."""
    rng = np.random.default_rng(seed)
    topics = np.random.default_rng(0).normal(size=(20, 32))
    topic = rng.integers(20, size=n)
    covered = topic < 10
    vectors = topics[topic] + 0.5 * rng.normal(size=(n, 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    knows = rng.random(n) < np.where(covered, 0.2, 0.7)
    reading = (rng.random(n) < np.where(covered, 0.85, np.where(knows, 0.6, 0.05))).astype(float)
    signals = Signals(
        length=rng.integers(20, 200, size=n).astype(float),
        entropy=np.maximum(0, np.where(knows, 0.3, 0.9) + 0.3 * rng.normal(size=n)),
        margin=np.clip(np.where(knows, 0.7, 0.3) + 0.2 * rng.normal(size=n), 0, 1),
        confidence=np.where(knows, -0.3, -0.8) + 0.3 * rng.normal(size=n),
        top=np.where(covered, 0.7, 0.55) + 0.08 * rng.normal(size=n),
        gap=np.where(covered, 0.2, 0.05) + 0.05 * rng.normal(size=n),
        near=0.3 + 0.1 * rng.normal(size=n),
        overlap=np.clip(np.where(covered, 0.8, 0.6) + 0.2 * rng.normal(size=n), 0, 1),
        vectors=vectors,
    )
    return BothWays(signals, knows.astype(float), reading)


def check_gate(make: Callable[[], Gate], name: str) -> None:
    """Assert what every gate promises: it learns alike from the same questions, tells a gain for each question whatever
    stands beside it, looks at nothing but the signals that it names and those that are there before anybody is asked,
    says so where one is missing or there are too few questions, and comes back from disk as it was. `make` is its
    factory, `name` that of its entry point."""
    learn, ask = simulate(200), simulate(60, seed=1).signals
    gate = make().fit(learn.signals, learn.without, learn.reading)
    gain = gate.gain(ask)
    assert gain.shape == (60,), f"{gain.shape}: expected a gain per question"
    assert not np.isnan(gain).any(), "a gain that is no number"
    again = make().fit(learn.signals, learn.without, learn.reading)
    assert (again.gain(ask) == gain).all(), "fitted twice on the same questions it decides otherwise"
    rows = np.random.default_rng(2).permutation(60)[:20]
    assert np.allclose(gate.gain(ask.rows(rows)), gain[rows]), "a gain depends on the other questions"
    everything = {one.name for one in fields(ask)}
    assert gate.needs <= everything, f"needs {sorted(gate.needs - everything)}, which are no signals"
    spared: dict[str, Any] = dict.fromkeys(everything - gate.needs - {"length"})
    assert np.allclose(gate.gain(replace(ask, **spared)), gain), "looks at a signal that it does not name"
    for signal in gate.needs - {"length"}:
        try:
            missing: dict[str, Any] = {signal: None}
            gate.gain(replace(ask, **missing))
        except InputError as why:
            assert signal in why.what, f"{signal} is missing, and the error does not say so"
        else:
            raise AssertionError(f"does not notice that {signal} is missing")
    if gate.needs:
        few = learn.rows(np.arange(5))
        try:
            make().fit(few.signals, few.without, few.reading)
        except InputError:
            pass
        else:
            raise AssertionError("learns from five questions")
    with tempfile.TemporaryDirectory() as folder:
        record = GateRecord("reads", "plain", name, {name: gate}, Costs(1.0), 0.1, 60.0, ("a", "b"))
        write_records(Path(folder) / "gates", {"reads": record}, encoder="e")
        found, stale = read_records(Path(folder) / "gates", {"plain": "a", "reads": "b"}, encoder="e")
        assert not stale
        assert (found["reads"].gates[name].gain(ask) == gain).all(), "decides otherwise when it is read again"
