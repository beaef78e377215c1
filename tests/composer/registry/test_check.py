"""Checking experts: an adapter that changes nothing is found, and a broken host costs no other host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from composer.config import load_settings
from composer.engines.base import Engine
from composer.engines.scripted import ScriptedEngine
from composer.errors import EngineError
from composer.registry.check import Check, check_experts
from composer.registry.experts import Registry
from composer.types import AdapterFile, Draft, Failure, Host, Measured, Request, TokenLogprob

MIB = 2**20
REGISTRY = f"""\
models:
  small: {{sources: [small.gguf], sha256: {"ab" * 32}, memory: 100MiB}}
  large: {{sources: [large.gguf], sha256: {"cd" * 32}, memory: 200MiB}}
experts:
  base: {{model: small, system: Be brief.}}
  law: {{model: small, adapter: {{path: law.gguf, sha256: {"ab" * 32}}}}}
  tax: {{model: small, adapter: {{path: tax.gguf, sha256: {"ab" * 32}}}}}
  poet: {{model: large}}
"""
Say = Callable[[Request], str | Draft | Failure]


def said(text: str, *logprobs: tuple[str, float]) -> Draft:
    return Draft("", text, "stop", logprobs=(TokenLogprob(logprobs[0][0], logprobs[0][1], logprobs),))


def honest(request: Request) -> Draft:
    """Another distribution with an adapter, and another again for another prompt (a system message, say)."""
    shift = 0.5 * (request.streams[0].adapter is not None) + 0.25 * len(request.streams[0].prompt)
    return said("12", ("12", -0.1 - shift), ("13", -2.0 - shift))


class Scripted(Registry):
    """The registry of a file, with scripted engines and no model files."""

    def __init__(self, folder: Path, answer: Say, broken: str = "") -> None:
        (folder / "experts.yaml").write_text(REGISTRY)
        super().__init__(load_settings(folder / "experts.yaml"))
        self.answer = answer
        self.broken = broken
        self.engines: dict[str, ScriptedEngine] = {}

    def host(self, name: str, adapters: Sequence[str]) -> Host:
        files = tuple(AdapterFile(adapter, Path(adapter), "") for adapter in adapters)
        return Host(name, "scripted", adapters=files, memory=self.estimate(name, adapters))

    def engine(self, name: str) -> Engine:
        engine = _Broken(self.answer) if name == self.broken else ScriptedEngine(self.answer)
        self.engines[name] = engine
        return engine


class _Broken(ScriptedEngine):
    async def open(self, host: Host) -> Measured:
        raise EngineError("it does not start")


async def checks(registry: Registry, memory: int | None = 1000 * MIB) -> dict[str, Check]:
    return {check.expert: check async for check in check_experts(registry, memory=memory)}


async def test_experts_that_answer_and_differ_from_their_base_are_well(tmp_path: Path) -> None:
    registry = Scripted(tmp_path, honest)

    found = await checks(registry)

    assert list(found) == ["base", "law", "tax", "poet"]
    assert all(check.ok and check.problem is None and check.answer == "12" for check in found.values())
    assert (found["base"].difference, found["poet"].difference) == (None, None)
    assert found["law"].difference == pytest.approx(0.5)
    assert (found["law"].model, found["law"].memory) == ("small", 100 * MIB)
    assert [engine.closes for engine in registry.engines.values()] == [1, 1]


async def test_an_adapter_that_changes_nothing_is_a_problem_whatever_the_others_are_sent(tmp_path: Path) -> None:
    def deaf(request: Request) -> Draft:
        """The adapter of `law` has no effect; the prompt has."""
        shift = 0.25 * len(request.streams[0].prompt) + 0.5 * (request.streams[0].adapter == "tax")
        return said("12", ("12", -0.1 - shift), ("13", -2.0 - shift))

    found = await checks(Scripted(tmp_path, deaf))

    assert [name for name, check in found.items() if not check.ok] == ["law"]
    assert found["law"].difference == 0
    assert found["law"].problem is not None and "the adapter changes nothing" in found["law"].problem


async def test_alternatives_that_share_no_token_differ_without_bound(tmp_path: Path) -> None:
    found = await checks(
        Scripted(tmp_path, lambda r: said("x", ("a" if r.streams[0].adapter else "b", -0.1)))  # type: ignore[arg-type]
    )

    assert found["law"].difference == float("inf")
    assert found["law"].ok


async def test_a_host_that_does_not_open_fails_its_experts_only(tmp_path: Path) -> None:
    registry = Scripted(tmp_path, honest, broken="small")

    found = await checks(registry)

    assert {name: check.ok for name, check in found.items()} == {
        "base": False,
        "law": False,
        "tax": False,
        "poet": True,
    }
    assert found["law"].problem == "it does not start"
    assert registry.engines["small"].closes == 1


async def test_a_host_that_cannot_fit_is_refused_by_name_and_line(tmp_path: Path) -> None:
    found = await checks(Scripted(tmp_path, honest), memory=150 * MIB)

    assert [name for name, check in found.items() if not check.ok] == ["poet"]
    problem = found["poet"].problem or ""
    assert "experts.yaml:3 (models.large): model 'large' needs about 200 MiB" in problem


async def test_failed_and_empty_answers_are_problems(tmp_path: Path) -> None:
    def answer(request: Request) -> str | Draft | Failure:
        return {"law": Failure("timeout", "too slow"), "base": " \n"}.get(request.id) or honest(request)

    found = await checks(Scripted(tmp_path, answer))

    assert found["law"].problem == "too slow"
    assert found["base"].problem == "the answer is empty"
    assert found["tax"].ok
