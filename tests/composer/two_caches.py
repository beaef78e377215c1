"""Contrast by hand, for the tests: two models in two places, two caches, one formula. Nothing of the package.

Run as a script by the interpreter that has torch; its argument is JSON: `models` by name (a folder, and an adapter's
folder or null), `template`, and `cases`: each two streams (model, weight, messages or prompt), alpha, tokens. What goes
out is the tokens of each case.
"""

from __future__ import annotations

import json
import math
import sys


def main() -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    job = json.loads(sys.argv[1])
    models = {}
    for name, (folder, adapter) in job["models"].items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        models[name] = (PeftModel.from_pretrained(model, adapter) if adapter else model).eval()
    tokenizer = AutoTokenizer.from_pretrained(next(iter(job["models"].values()))[0])

    def ids(prompt: object) -> list[int]:
        if isinstance(prompt, str):
            return tokenizer(prompt).input_ids
        text = tokenizer.apply_chat_template(
            prompt, chat_template=job["template"], tokenize=False, add_generation_prompt=True
        )
        return tokenizer(text, add_special_tokens=False).input_ids

    found = []
    for case in job["cases"]:
        caches, out = [None, None], []
        news = [ids(prompt) for _, _, prompt in case["streams"]]
        for _ in range(case["tokens"]):
            logits = []
            for place, (name, _, _) in enumerate(case["streams"]):
                with torch.no_grad():
                    told = models[name](torch.tensor([news[place]]), past_key_values=caches[place], use_cache=True)
                caches[place] = told.past_key_values
                logits.append(told.logits[0, -1])
            strong, weak = logits
            scores = case["streams"][0][1] * strong + case["streams"][1][1] * weak
            scores[strong < strong.max() + math.log(case["alpha"])] = -math.inf
            token = int(scores.argmax())
            out.append(token)
            news = [[token], [token]]
            if token == tokenizer.eos_token_id:
                break
        found.append(out)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
