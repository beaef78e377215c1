"""LiteLLM behind our own limits, retries and rules, against a provider on loopback."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from composer.engines.litellm import LiteLLMEngine, check_version
from composer.engines.testing import check_engine
from composer.errors import EngineError
from composer.types import Delta, Draft, Host, Message, Request, Sampling, Stream
from evals.faults.bench import Bench
from evals.faults.server import answer_to

pytestmark = pytest.mark.filterwarnings("ignore")  # of the library, and of what it is made of
HOST = Host("far", "litellm", slots=4)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as running:
        yield running


def engine(bench: Bench, model: str, **options: Any) -> LiteLLMEngine:
    return LiteLLMEngine(model=f"openai/{model}", url=f"{bench.url}/v1", **{"retries": 0} | options)


async def asked(bench: Bench, model: str, request: Request | None = None, **options: Any) -> Draft:
    made = engine(bench, model, **options)
    await made.open(HOST)
    request = request or Request("a", (Stream("far", (Message("user", "Hi there"),)),))
    [draft] = [piece async for _, piece in made.generate([request]) if isinstance(piece, Draft)]
    await made.close()
    return draft


async def test_it_keeps_the_contract_of_engines(bench: Bench) -> None:
    await check_engine(lambda: engine(bench, "ok"), HOST, ["one", "two"])


async def test_a_whole_reply_is_a_draft_and_its_price_is_unknown_not_zero(bench: Bench) -> None:
    draft = await asked(bench, "ok")

    assert draft.ok and draft.text == answer_to("Hi there")
    assert (draft.usage.tokens_in, draft.usage.tokens_out, draft.usage.cost) == (7, 7, None)
    assert draft.served_by == "far"


async def test_a_known_price_is_charged(bench: Bench) -> None:
    draft = await asked(bench, "gpt-4o-mini")

    assert draft.ok and draft.usage.cost is not None and draft.usage.cost > 0


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("eof@2", "bad_response"),
        ("eof@4", "bad_response"),
        ("rst@2", "bad_response"),
        ("done-nofinish", "bad_response"),
        ("badjson@1", "bad_response"),
        ("inband-error", "bad_response"),
        ("empty", "bad_response"),
        ("status:400", "refused"),
        ("status:401", "refused"),
        ("status:404", "refused"),
        ("status:429", "overloaded"),
        ("status:500", "bad_response"),
        ("status:503", "overloaded"),
        ("context:5", "too_long"),
        ("wrong-model", "wrong_model"),
    ],
)
async def test_every_failure_is_one_of_ours(bench: Bench, model: str, kind: str) -> None:
    since = bench.mark()

    draft = await asked(bench, model)

    assert draft.error is not None and draft.error.kind == kind
    assert bench.told("begun", since) == 1, "its own retries are off"


async def test_a_name_that_the_provider_uses_can_be_declared_and_is_told(bench: Bench) -> None:
    draft = await asked(bench, "wrong-model", serves_as="another")

    assert draft.ok and draft.served_by == "far (another)"


@pytest.mark.parametrize("model", ["hang", "hang@2", "drip:0.2"])
async def test_the_deadline_holds(bench: Bench, model: str) -> None:
    request = Request("a", (Stream("far", "Hi"),), deadline=time.monotonic() + 0.5)

    draft = await asked(bench, model, request)

    assert draft.error is not None and draft.error.kind == "timeout"
    assert request.deadline is not None and time.monotonic() < request.deadline + 2


async def test_what_may_pass_is_asked_again_when_the_server_wishes(bench: Bench) -> None:
    began = time.monotonic()

    draft = await asked(bench, "wish-seconds:1", retries=2)

    assert draft.ok
    assert time.monotonic() - began >= 1


async def test_pieces_are_told_as_they_come(bench: Bench) -> None:
    made = engine(bench, "ok")
    await made.open(HOST)
    request = Request("a", (Stream("far", "Hi"),), Sampling(stop=("\n",), top_p=0.9), deltas=True)
    told = [piece async for _, piece in made.generate([request])]
    await made.close()

    assert "".join(piece.text for piece in told if isinstance(piece, Delta)) == answer_to("Hi")


async def test_no_key_of_the_environment_is_sent_that_the_registry_does_not_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    made = engine(bench, "ok")
    await made.open(HOST)

    assert made._asked(Request("a", (Stream("far", "Hi"),)))["api_key"] == "none"
    await made.close()


@pytest.mark.parametrize("found", ["1.82.7", "1.82.8", "1.83.6", "0.1.0"])
def test_releases_that_must_not_be_imported_are_refused(monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setattr("composer.engines.litellm.version", lambda _: found)

    with pytest.raises(EngineError, match="is not imported"):
        check_version("far")


def test_it_is_not_imported_before_a_model_opens() -> None:
    code = "import sys, composer.engines.litellm; assert 'litellm' not in sys.modules"

    subprocess.run([sys.executable, "-P", "-c", code], check=True)
