"""vLLM as one writes it by hand: `LLM.generate` on a list of prompts. The yardstick of `evals.bench.engines_vllm`.

Run as a script by the interpreter that has vLLM. One JSON line comes in: `{"engine": {…}, "prompts": […], "tokens": N}`;
then a line per batch to run, and one goes out for each: `{"wall": …, "cpu": …, "tokens": …}`.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main() -> None:
    """Open the model, then run the same batch once per line."""
    sys.path.pop(0)  # this folder has an `engines.py`
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # vLLM's own words are no figures
    config = json.loads(sys.stdin.readline())
    from vllm import LLM, SamplingParams

    llm = LLM(**config["engine"])
    sampling = SamplingParams(temperature=0.0, max_tokens=config["tokens"], seed=0)
    for _ in sys.stdin:
        wall, cpu = time.monotonic(), time.process_time()
        found = llm.generate(config["prompts"], sampling, use_tqdm=False)
        told = {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}
        told["tokens"] = sum(len(one.outputs[0].token_ids) for one in found)
        print(json.dumps(told), file=reply, flush=True)


if __name__ == "__main__":
    main()
