"""Checking experts: an adapter that changes nothing is found, and a broken host costs no other host."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
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


@pytest.mark.parametrize(("adapted", "bare"), [(-0.1, -0.1), (-0.1, 0.0), (-3.0, -0.1), (0.0, -50.0)])
async def test_alternatives_that_share_no_token_differ_by_a_finite_number(
    tmp_path: Path, adapted: float, bare: float
) -> None:
    def answer(request: Request) -> Draft:
        return said("x", ("a", adapted) if request.streams[0].adapter else ("b", bare))

    found = await checks(Scripted(tmp_path, answer))

    difference = found["law"].difference
    assert found["law"].ok
    assert difference is not None and 2 < difference < 100
    assert json.loads(json.dumps(difference, allow_nan=False)) == difference


async def test_what_is_impossible_is_no_difference(tmp_path: Path) -> None:
    def answer(request: Request) -> Draft:
        shift = 0.5 * (request.streams[0].adapter is not None)
        return said("x", ("a", -0.1 - shift), ("b", -math.inf if shift else -2.0))

    found = await checks(Scripted(tmp_path, answer))

    assert found["law"].difference == pytest.approx(0.5)


async def test_an_adapter_whose_base_fails_is_not_proved_to_change_it(tmp_path: Path) -> None:
    def answer(request: Request) -> Draft | Failure:
        return Failure("timeout", "too slow") if request.id == "law without its adapter" else honest(request)

    found = await checks(Scripted(tmp_path, answer))

    assert [name for name, check in found.items() if not check.ok] == ["law"]
    assert found["law"].difference is None
    assert found["law"].problem == "the adapter could not be proved to change the model: too slow"


@pytest.mark.parametrize(("silent", "who"), [("law", "the expert"), ("law without its adapter", "the model")])
async def test_without_log_probabilities_nothing_is_proved(tmp_path: Path, silent: str, who: str) -> None:
    def answer(request: Request) -> str | Draft:
        return "12" if request.id == silent else honest(request)

    found = await checks(Scripted(tmp_path, answer))

    assert [name for name, check in found.items() if not check.ok] == ["law"]
    assert (found["law"].problem or "").endswith(f"change the model: {who} gave no log-probabilities")


async def test_a_bare_model_needs_no_log_probabilities(tmp_path: Path) -> None:
    found = await checks(Scripted(tmp_path, lambda _: "12"))

    assert [name for name, check in found.items() if check.ok] == ["base", "poet"]


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


async def test_a_host_that_proves_too_large_once_it_is_here_is_not_opened(tmp_path: Path) -> None:
    class Fetched(Scripted):
        def host(self, name: str, adapters: Sequence[str]) -> Host:
            return replace(super().host(name, adapters), memory=400 * MIB)

    registry = Fetched(tmp_path, honest)

    found = await checks(registry, memory=300 * MIB)

    assert not any(check.ok for check in found.values())
    assert "model 'large' needs about 400 MiB" in (found["poet"].problem or "")
    assert [engine.opens for engine in registry.engines.values()] == [[], []]


async def test_failed_and_empty_answers_are_problems(tmp_path: Path) -> None:
    def answer(request: Request) -> str | Draft | Failure:
        return {"law": Failure("timeout", "too slow"), "base": " \n"}.get(request.id) or honest(request)

    found = await checks(Scripted(tmp_path, answer))

    assert found["law"].problem == "too slow"
    assert found["base"].problem == "the answer is empty"
    assert found["tax"].ok
