"""What this machine can: measured once, remembered by weights, and good for a prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_hosts import Machine

from composer.errors import EngineError
from composer.pool.calibrate import calibrate, load_speeds, machine, speeds_file
from composer.pool.speeds import HostSpeed, Speeds
from composer.types import Caps, Failure


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COE_CACHE", str(tmp_path))
    return tmp_path


async def test_every_local_host_is_opened_measured_and_closed() -> None:
    registry = Machine(lambda _: "word " * 20, sizes={"a": 100, "far": 0}, delay=0.02, opening=0.05, caps=Caps(slots=4))
    heard: dict[str, HostSpeed] = {}

    speeds = await calibrate(registry, ["a", "far"], say=heard.__setitem__)

    assert (registry.loads, registry.held) == (["a"], [])
    assert heard == dict(speeds.hosts) and list(heard) == ["a"]
    assert (heard["a"].slots, heard["a"].memory) == (4, 100)
    assert heard["a"].load >= 0.05
    assert heard["a"].decode > 2 * heard["a"].decode_one, "four at once write more in the same time"


async def test_figures_are_remembered_by_weights() -> None:
    assert load_speeds({"a": "a"}) is None
    measured = await calibrate(Machine(), ["a", "b"])

    again = load_speeds({"renamed": "a", "other": "unknown"})

    assert again is not None and dict(again.hosts) == {"renamed": measured.hosts["a"]}
    assert speeds_file().stem == machine() and len(machine()) == 16


async def test_a_damaged_file_is_measured_again() -> None:
    await calibrate(Machine(), ["a"])
    speeds_file().write_text('{"weights": {"a": {"prefill": 1}}}')

    assert load_speeds({"a": "a"}) is None
    assert (await calibrate(Machine(), ["a"])).hosts.keys() == {"a"}


async def test_a_host_that_cannot_answer_is_named() -> None:
    registry = Machine(lambda _: Failure("bad_response", "nothing but noise"))

    with pytest.raises(EngineError, match="a: it cannot be measured: nothing but noise"):
        await calibrate(registry, ["a"])

    assert registry.held == []


def test_the_load_of_a_host_that_was_not_measured_goes_by_its_size() -> None:
    speeds = Speeds(0.5, 2.0, {"known": HostSpeed(1, 1, 1, 1, load=7.0, memory=1)})

    assert (speeds.load_seconds("known", 10**9), speeds.load_seconds("new", 10**9)) == (7.0, 2.5)
