"""Recorded traffic, and what it says about memory: counted in a real store, told by `coe status`."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from composer.records.contrasts import ContrastRecord
from composer.running.runs import status_data, status_lines
from composer.running.traffic import traffic
from composer.store import Charge, DraftStore, Origin
from composer.types import Usage

HERE = 2**20


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """Six experts on five hosts of this machine, e0 and e5 on the same one, and one that somebody else serves."""
    models, experts = [], []
    for i in range(5):
        sha = hashlib.sha256(b"%d" % i).hexdigest()
        models.append(f"  m{i}: {{sources: [m{i}.gguf], sha256: {sha}, memory: {i + 1}MiB}}\n")
        experts.append(f"  e{i}: {{model: m{i}}}\n")
    models.append("  far: {engine: openai, options: {url: 'http://127.0.0.1:9/v1', model: far}}\n")
    experts += ["  e5: {model: m0, system: Shout.}\n", "  away: {model: far}\n"]
    path = tmp_path / "experts.yaml"
    path.write_text(f"models:\n{''.join(models)}experts:\n{''.join(experts)}")
    return path


async def record(store: DraftStore, name: str, registry: Path | str, asked: Sequence[Sequence[str]]) -> None:
    """A run of a file in which every question was answered by these experts; a `*` marks a draft out of the store."""
    origin = Origin("run", "in", f"{name}.jsonl", name, str(registry), "")
    ids = [(f"q{i}", i, "sha") for i in range(len(asked), 0, -1)]  # lines count, not names
    with await store.begin(name, "config", "code", ids, origin) as run:
        for i, arms in enumerate(asked):
            for arm in arms:
                cached = arm.endswith("*")
                run.charge(Charge(f"q{i + 1}", arm.strip("*"), "draft", 0, f"{i}{arm}", "stop", cached, Usage()))
        await run.end("finished", {})


async def serve(store: DraftStore, name: str, registry: Path, asked: Sequence[Sequence[str]]) -> None:
    """What `coe serve` leaves behind: traces, and no charges."""
    origin = Origin("serve", "", "", "", str(registry), "")
    ids = [(f"chat-{len(asked) - i}", i, "sha") for i in range(len(asked))]
    with await store.begin(name, "config", "code", ids, origin) as run:
        for (id, i, _), arms in zip(ids, asked, strict=True):
            drafts = [{"name": arm.strip("*"), "cached": arm.endswith("*")} for arm in arms]
            await run.finish(id, 0, {"trace_id": f"{name}{i}", "drafts": drafts}, "ok")


DRIFTING = [[f"e{i // 20 % 5}", f"e{(i // 20 + 1) % 5}"] for i in range(100)]


async def test_drifting_questions_are_worth_room_for_the_hosts_they_stay_with(tmp_path: Path, registry: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await record(store, "one", registry, DRIFTING)
        [run] = await store.runs()
        found = await traffic(store, [run], "one")
        data = await status_data(store, run)
        lines = await status_lines(store, run)

    assert (found.questions, found.uses, found.experts) == (100, 200, False)
    assert found.hosts == {f"m{i}": (i + 1) * HERE for i in range(5)}
    assert found.advice is not None and not found.advice.group
    assert found.memory == sum(range(6 - found.advice.resident, 6)) * HERE  # the largest have to fit
    advice = data["traffic"]["advice"]
    assert (advice["resident"], advice["memory"], advice["group"]) == (found.advice.resident, found.memory, False)
    assert len(advice["hit_rate"]) == len(advice["lru"]) == 5
    assert [row["window"] for row in advice["srp"]] == [4, 16, 64]
    json.dumps(data)
    assert "traffic  100 questions needed 5 host(s), 200 times" in lines
    assert any(line.startswith("memory   room for") and "--memory" in line for line in lines)


async def test_questions_without_locality_are_advised_to_be_grouped(tmp_path: Path, registry: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await record(store, "one", registry, [[f"e{i % 5}"] for i in range(100)])
        found = await traffic(store, await store.runs())

    assert found.advice is not None and found.advice.group
    assert found.lines()[-1] == "memory   no locality: group (ask a file: `coe run`) rather than cache"


async def test_drafts_of_the_store_and_of_others_need_no_room_and_experts_share_a_host(
    tmp_path: Path, registry: Path
) -> None:
    asked = [["e0"], ["e5", "e0"], ["e1*"], ["away"], ["e1", "away", "e2*"]]
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await record(store, "one", registry, asked)
        found = await traffic(store, await store.runs(), "one")

    assert (found.questions, found.uses, set(found.hosts)) == (3, 3, {"m0", "m1"})
    assert found.advice is None
    assert "too few to say" in found.lines()[0]


async def test_single_requests_of_a_server_are_one_stream_with_the_runs_before_and_after(
    tmp_path: Path, registry: Path
) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await record(store, "zuerst", registry, [["e3"], ["e3"]])
        await asyncio.sleep(0.002)  # runs are listed to the millisecond
        await serve(store, "serve-1-0", registry, [["e1"], ["e2*"], ["e0", "e2"]])
        await asyncio.sleep(0.002)
        await record(store, "ask", registry, [["e4"]])
        uses = await store.uses()
        alone = await traffic(store, await store.runs(), "serve-1-0")

    assert [arms for _, arms in uses] == [("e3",), ("e3",), ("e1",), ("e0", "e2"), ("e4",)]
    assert (alone.questions, alone.uses) == (2, 3)


async def test_where_the_registry_is_gone_experts_are_counted_and_no_bytes_are_named(tmp_path: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await record(store, "one", tmp_path / "gone.yaml", DRIFTING)
        found = await traffic(store, await store.runs(), "one")

    assert found.experts and set(found.hosts.values()) == {None}
    assert found.advice is not None and found.memory is None
    assert "a registry cannot be read" in found.lines()[0]
    assert found.lines()[-1].endswith("how large they are is not known")


async def test_the_same_name_for_other_weights_is_another_host(tmp_path: Path, registry: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(registry.read_text().replace(hashlib.sha256(b"1").hexdigest(), "ab" * 32))
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await record(store, "one", registry, [["e1"]] * 3)
        await record(store, "two", other, [["e1"], ["e2"]])
        found = await traffic(store, await store.runs())

    assert set(found.hosts) == {"m1", "m1 (abababab)", "m2"}


async def test_one_host_leaves_nothing_to_choose_and_nothing_asked_nothing_to_say(
    tmp_path: Path, registry: Path
) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await record(store, "one", registry, [["e1"]] * 50)
        await record(store, "two", registry, [["e1*"]] * 50)
        runs = await store.runs()
        one, two = await traffic(store, runs, "one"), await traffic(store, runs, "two")

    assert one.lines() == ["traffic  50 questions needed 1 host(s), m1: there is nothing to choose"]
    assert two.lines() == [] and two.as_dict()["advice"] is None


async def test_a_damaged_trace_costs_itself_alone(tmp_path: Path, registry: Path) -> None:
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await serve(store, "serve-1-0", registry, [["e1"], ["e2"]])

        def damage() -> None:
            import sqlite3

            connection = sqlite3.connect(tmp_path / "drafts.sqlite")
            with connection:
                connection.execute("UPDATE result SET payload = '{' WHERE custom_id = 'chat-1'")
            connection.close()

        damage()
        assert [arms for _, arms in await store.uses()] == [("e1",)]


async def test_measured_memory_counts_where_it_is_larger(
    tmp_path: Path, registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from composer.pool.speeds import HostSpeed, Speeds

    speed = HostSpeed(1, 1, 1, 1, 1, memory=9 * HERE)
    monkeypatch.setattr(
        "composer.pool.calibrate.load_speeds",
        lambda weights: Speeds(
            0, 0, {name: replace(speed, memory=2 if name == "m4" else 9 * HERE) for name in weights}
        ),
    )
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await record(store, "one", registry, [["e3"], ["e4"]])
        found = await traffic(store, await store.runs(), "one")

    assert found.hosts == {"m3": 9 * HERE, "m4": 5 * HERE}


async def test_a_draft_with_a_contrast_on_another_base_needs_the_host_of_both(tmp_path: Path, registry: Path) -> None:
    steps = "pipeline: [{use: decide}, {use: contrast}, {use: generate}, {use: verify}, {use: aggregate}]\n"
    declared = "contrasts:\n  c: {against: e2, arms: [e0, e1, e5]}\n"
    records = {"e1": ContrastRecord("e1", "e1~c", 0.5, 0.1, 0.1, 0.1, 0.1, 40, ("", ""))}
    plain = registry.read_text()
    async with DraftStore.open(tmp_path / "drafts.sqlite") as store:
        await record(store, "one", registry, [["e0~c"], ["e5~c", "e0"], ["e1"]])
        registry.write_text(plain + declared + steps)
        runs = await store.runs()
        fitted = await traffic(store, runs, installed=lambda _: records)
        nothing = await traffic(store, runs)
        registry.write_text(plain + declared + steps.replace("use: contrast}", "use: contrast, options: {use: c}}"))
        by_name = await traffic(store, runs)

    both, one = 1 * HERE + 3 * HERE, 2 * HERE
    assert fitted.hosts == {"m0&m2": both, "m0": HERE, "m1&m2": one + 3 * HERE}
    assert nothing.hosts == {"m0&m2": both, "m0": HERE, "m1": one}
    assert by_name.hosts == {"m0&m2": both, "m1&m2": one + 3 * HERE}
    assert (fitted.uses, nothing.uses, by_name.uses) == (4, 4, 3)
