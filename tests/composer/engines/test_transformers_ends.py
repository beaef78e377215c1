"""How the transformers engine refuses, dies and ends: nothing hangs, nothing is left, the message helps."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file
from transformers_kit import answers, engine, host
from transformers_kit import tiny as make_tiny
from vllm_kit import ADAPTERS, ASKED, Env, ask, chat, foreign

from composer.decoding.recipes import contrast
from composer.engines.transformers import TransformersEngine
from composer.engines.vllm_keeper import _group
from composer.errors import ConfigError, EngineError
from composer.plugins import check_options
from composer.registry.hf import when_computed
from composer.registry.vllm_home import torch_versions
from composer.types import AdapterFile, Host, Request, Sampling, Stream

ENDLESS = Sampling(max_tokens=400, temperature=2.0)


@pytest.fixture(autouse=True)
def own_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes of this machine leave nothing here."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))


def residue() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).iterdir()}


async def until_gone(group: int) -> None:
    async with asyncio.timeout(20):
        while _group(group):
            await asyncio.sleep(0.05)


async def refused(host: Host, **options: object) -> EngineError:
    before = residue()
    made = TransformersEngine(**options)  # type: ignore[arg-type]
    with pytest.raises(EngineError) as caught:
        await made.open(host)
    assert made._process is None and residue() <= before
    return caught.value


async def test_an_interpreter_without_torch_says_how_to_get_one(tmp_path: Path, tiny: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # whatever is installed beside us
    bare.chmod(0o755)

    error = await refused(Host("smol", "transformers", tiny, context=64), python=str(bare))

    assert "transformers did not start: No module named 'torch'" in error.what
    assert error.remedy is not None and "[train]" in error.remedy and "COE_VLLM" in error.remedy


async def test_an_interpreter_that_is_not_there_says_so(tmp_path: Path, tiny: Path) -> None:
    error = await refused(Host("smol", "transformers", tiny, context=64), python=str(tmp_path / "none"))

    assert error.what.startswith("transformers does not start with") and "No such file" in error.what
    assert error.remedy is not None and "COE_VLLM" in error.remedy


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (None, "transformers needs a folder of weights"),
        (Path(__file__), "no folder in Hugging Face's form"),
        (Path(__file__).parent, r"there is no \*.safetensors"),
    ],
)
async def test_what_is_no_folder_of_weights_is_refused_before_anything_starts(path: Path | None, words: str) -> None:
    for bad in (
        Host("smol", "transformers", path),
        Host("big", "transformers", path, beside=(Host("smol", "transformers", path),)),
    ):
        error = await refused(bad, python="/nowhere")
        assert error.remedy
        with pytest.raises(EngineError, match=words):
            raise error


async def test_a_base_beside_is_looked_at_as_well(tiny: Path) -> None:
    beside = Host("small", "transformers", tiny, context=4096)
    error = await refused(Host("big", "transformers", tiny, context=64, beside=(beside,)), python="/nowhere")
    assert error.where == "small" and error.remedy == "set `context` to 64 or less"

    twice = replace(beside, name="big", context=64)
    error = await refused(Host("big", "transformers", tiny, context=64, beside=(twice,)), python="/nowhere")
    assert "one name" in error.what


@pytest.mark.parametrize("options", [{"dtype": "int8"}, {"max_logprobs": -1}, {"start_within": 0}, {"eager": True}])
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        check_options(TransformersEngine, options, str)
    good: dict[str, object] = {"dtype": "bfloat16", "python": "/x", "max_logprobs": 0}
    assert check_options(TransformersEngine, good, str) == good


def test_its_release_is_that_of_three_packages(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    for name in ("torch-2.13.0+cpu", "peft-0.21.2", "transformers-5.19.0", "torchgen-1", "transformers_extra-2"):
        (packages / f"{name}.dist-info").mkdir(parents=True)
    python = str(tmp_path / "bin" / "python")

    assert torch_versions(python) == "5.19.0 torch 2.13.0+cpu peft 0.21.2"
    assert TransformersEngine.release({"python": python}) == torch_versions(python)
    assert torch_versions(str(tmp_path / "other" / "bin" / "python")) == "unknown"


def test_its_memory_goes_by_what_it_computes_in(tiny: Path) -> None:
    """A file of 32 numbers of 4 bytes."""
    sizes = [when_computed(tiny, 16, 1, dtype) for dtype in ("float32", "bfloat16", "auto")]
    caches = [2 * 512 * 4 * one for one in (4, 2)]  # keys and values, 4 numbers each, of whole blocks and spare ones

    assert [size - sizes[1] for size in sizes] == [32 * 2 + caches[0] - caches[1], 0, 32 * 2]


@pytest.mark.vllm
async def test_a_start_that_takes_too_long_is_given_up(vllm_env: Env) -> None:
    error = await refused(host(vllm_env), python=vllm_env.python, start_within=1)

    assert error.remedy == "raise option `start_within`"


@pytest.mark.vllm
async def test_a_killed_process_fails_its_requests_and_leaves_nothing(vllm_env: Env) -> None:
    before = residue()
    made = engine(vllm_env)
    await made.open(host(vllm_env, ["units"]))
    assert made._process is not None
    pid, log = made._process.pid, made._process.log
    (strong, weak), mix = contrast()
    two = Request(
        "two", (Stream("smol", "Tale:", "units", strong), Stream("smol", "Tale:", None, weak)), ENDLESS, mix=mix
    )
    work = asyncio.create_task(answers(made, [two, *(ask(str(i), f"Tale {i}:", None, ENDLESS) for i in range(11))]))
    await asyncio.sleep(1)

    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(10):
        found = await work
    await until_gone(pid)
    later = (await answers(made, [ask("later", "Hi")]))["later"]
    await made.close()

    drafts = [*found.values(), later]
    assert len(drafts) == 13 and {draft.error.kind for draft in drafts if draft.error} == {"host_died"}
    message = drafts[0].error.message if drafts[0].error else ""
    assert "killed by SIGKILL" in message and str(log) in message and log.is_file()
    assert residue() <= before
    await made.open(host(vllm_env, ["units"]))
    again = (await answers(made, [ask("q", chat(ASKED["units"][0]), "units")]))["q"]
    await made.close()
    assert ASKED["units"][1] in again.text and residue() <= before


@pytest.mark.vllm
async def test_whoever_goes_or_is_late_is_dropped(vllm_env: Env) -> None:
    made = engine(vllm_env)
    await made.open(host(vllm_env))
    try:
        assert made._pipe is not None
        late = replace(ask("late", "Tale:", None, ENDLESS), deadline=time.monotonic() + 1)
        found = await answers(made, [late, ask("good", chat("Hi"), None, Sampling(max_tokens=2))])
        gone = made.generate([replace(ask("gone", "Tale:", None, ENDLESS), deltas=True)])
        await anext(gone)
        await gone.aclose()
        await asyncio.sleep(0.5)
        state = await made._pipe.state()
    finally:
        await made.close()

    error = found["late"].error
    assert error is not None and error.kind == "timeout" and found["good"].error is None
    assert state["running"] == 0


@pytest.mark.vllm
async def test_an_adapter_that_is_not_the_models_fails_its_own_requests_alone(vllm_env: Env, tmp_path: Path) -> None:
    strange = foreign(tmp_path / "strange", lambda name: name.replace("self_attn", "attention"))
    nothing = foreign(tmp_path / "nothing", lambda name: name, zeros=True)
    pickled = AdapterFile("pickled", tmp_path / "pickled", "2" * 64)
    pickled.path.mkdir()
    shutil.copy(ADAPTERS / "units" / "adapter_config.json", pickled.path)
    (pickled.path / "adapter_model.bin").write_bytes(b"\x80\x04.")
    wide = AdapterFile("wide", tmp_path / "wide", "3" * 64)
    shutil.copytree(ADAPTERS / "units", wide.path)
    weights = load_file(wide.path / "adapter_model.safetensors")
    grown = {name: one.repeat(2, axis=1 if "lora_A" in name else 0) for name, one in weights.items()}
    save_file(grown, wide.path / "adapter_model.safetensors")
    made = engine(vllm_env)
    bad = (strange, nothing, pickled, wide)
    base = host(vllm_env, ["units"])
    await made.open(replace(base, adapters=(*bad, *base.adapters)))
    try:
        prompt = chat(ASKED["units"][0])
        found = await answers(made, [ask(one.name, prompt, one.name) for one in bad])
        good = (await answers(made, [ask("q", prompt, "units")]))["q"]
        with pytest.raises(EngineError) as caught:
            await made.attach(strange)
    finally:
        await made.close()

    told = {name: draft.error.message for name, draft in found.items() if draft.error}
    assert {draft.error.kind for draft in found.values() if draft.error} == {"refused"} and len(told) == 4
    assert "are not the model's" in told["strange"] or "not found in the base model" in told["strange"]
    assert "changes nothing" in told["nothing"] and "vLLM" not in "".join(told.values())
    assert "size mismatch" in told["wide"] and "transformers refuses the adapter" in told["wide"]
    assert caught.value.remedy is not None and "the model it was trained on" in caught.value.remedy
    assert ASKED["units"][1] in good.text


@pytest.mark.vllm
async def test_bases_of_unlike_vocabularies_are_refused(vllm_env: Env, tmp_path: Path) -> None:
    other = tiny_of(vllm_env, tmp_path)
    path = other / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    words = tokenizer["model"]["vocab"]
    one, two = (next(word for word, place in words.items() if place == wanted) for wanted in (300, 301))
    words[one], words[two] = words[two], words[one]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")

    error = await refused(
        host(vllm_env, beside=(Host("tiny", "transformers", other, context=128),)), python=vllm_env.python
    )

    assert "their vocabularies differ: token 300 is" in error.what and "to smol" in error.what
    assert error.remedy is not None and "one family" in error.remedy


@pytest.mark.vllm
async def test_a_folder_that_is_not_whole_is_refused(vllm_env: Env, tmp_path: Path) -> None:
    """transformers would fill what is missing with numbers of its own."""
    part = tiny_of(vllm_env, tmp_path)
    weights = load_file(part / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})

    error = await refused(Host("tiny", "transformers", part, context=128), python=vllm_env.python)

    assert "lacks 1 tensors" in error.what and "layers.1.mlp.up_proj" in error.what and error.remedy


def tiny_of(env: Env, folder: Path) -> Path:
    return make_tiny(env, folder / "tiny")
