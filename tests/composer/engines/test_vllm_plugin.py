"""The logits processor alone, in vLLM's own `LLM`: the documented example as it stands, and what becomes of a lonely stream."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from vllm_kit import ADAPTERS, ROOT, Env, drafts

from composer.decoding.recipes import contrast
from composer.engines.vllm import VllmEngine
from composer.types import Request, Sampling, Stream

pytestmark = pytest.mark.vllm

QUESTIONS = ("Q: What is 12 + 30?\nA:", "Q: How many minutes are 3 hours?\nA:")
LONELY = """
import json, os, sys
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
reply = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
from vllm import LLM, SamplingParams
llm = LLM(model=sys.argv[1], dtype="bfloat16", max_model_len=256, max_num_seqs=4, enforce_eager=True,
          generation_config="vllm", async_scheduling=False,
          logits_processors=["composer.engines.vllm_contrast:Contrast"])
def said(places, **more):
    extra = {"contrast_group": "g", "contrast_weights": [1.5, -0.5], **more.pop("extra", {})}
    sampling = [SamplingParams(**{"temperature": 0.0, "max_tokens": 12} | more, extra_args=extra | {"contrast_place": place})
                for place in places]
    try:
        found = llm.generate(["Once there was a clock, and"] * len(places), sampling, use_tqdm=False)
    except Exception as why:
        return f"{type(why).__name__}: {why}"
    return [[len(one.outputs[0].token_ids), one.outputs[0].stop_reason, one.outputs[0].text] for one in found]
told = {
    "whole": said([0, 1]),
    "drawn": said([0, 1], temperature=1.0, seed=4),
    "penalty": said([0, 1], repetition_penalty=1.2),
    "seedless": said([0, 1], temperature=1.0),
    "no token": said([0], extra={"contrast_broken": 3}),
    "no sense": said([0, 1], extra={"contrast_alpha": 7}),
    "marked": said([0], stop_token_ids=[3], extra={"contrast_broken": 3}),
    "still there": said([0, 1]),
    "twice": said([0, 0], extra={"contrast_group": "h"}),
}
print(json.dumps(told), file=reply, flush=True)
os._exit(0)
"""


def run(env: Env, script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script as somebody else would run it, with nothing but this package on the path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COE"))}
    environment = inherited | {
        "PYTHONPATH": str(ROOT),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return subprocess.run(
        [env.python, str(script), *arguments], env=environment, capture_output=True, text=True, check=False
    )


async def test_the_documented_example_says_what_our_engine_says(vllm_env: Env, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "contrast.md").read_text(encoding="utf-8")
    [example] = re.findall(r"## Alone in vLLM\n.*?```python\n(.*?)```", page, re.DOTALL)
    script = tmp_path / "pair.py"
    script.write_text(example, encoding="utf-8")
    done = run(vllm_env, script, str(vllm_env.folder), str(ADAPTERS / "arithmetic"))
    said = [ast.literal_eval(line) for line in done.stdout.splitlines() if line.startswith(("'", '"'))]

    weights, mix = contrast(0.5)
    engine = VllmEngine(python=vllm_env.python, dtype="float32", in_process=True)
    await engine.open(vllm_env.host("smol", ["arithmetic"]))
    try:
        asked = [
            Request(
                question,
                (Stream("smol", question, "arithmetic", weights[0]), Stream("smol", question, None, weights[1])),
                Sampling(max_tokens=32),
                mix=mix,
            )
            for question in QUESTIONS
        ]
        found = await drafts(engine, asked)
    finally:
        await engine.close()

    assert done.returncode == 0, done.stderr[-2000:]
    assert said == [found[question].text for question in QUESTIONS]
    assert len(set(said)) == 2 and all(said)


def test_a_stream_without_its_partner_ends_marked_or_raises_and_never_goes_on(vllm_env: Env, tmp_path: Path) -> None:
    script = tmp_path / "lonely.py"
    script.write_text(LONELY, encoding="utf-8")
    done = run(vllm_env, script, str(vllm_env.folder))

    assert done.returncode == 0 and done.stdout, done.stderr[-2000:]
    told = json.loads(done.stdout)
    for name in ("whole", "drawn", "still there"):
        first, second = told[name]
        assert first == second and first[0] == 12, name
    assert told["whole"] == told["still there"] != told["drawn"]
    assert "repetition penalty" in told["penalty"] and "seed" in told["seedless"]
    assert "stop_token_ids" in told["no token"] and "contrast_place" in told["no sense"]
    [(tokens, reason, text)] = told["marked"]
    assert (tokens, reason, text) == (1, 3, ""), "not one token of its own"
    assert "lost step: streams 0, 0 of 2" in told["twice"]
