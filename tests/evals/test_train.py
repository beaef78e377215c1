"""The training recipe: batches, pace, and a conversion that keeps the adapter's numbers."""

from __future__ import annotations

from pathlib import Path
from random import Random

import gguf
import numpy as np
import pytest

from composer.registry.bases import GgufBase
from composer.registry.convert import convert_peft
from composer.registry.gguf import Header
from evals.tasks.skills import SKILLS, items, split_of
from evals.train.base import TEMPLATE, base_gguf, prompt
from evals.train.batches import Example, batches, drills, encode, mix
from evals.train.lora import pace
from evals.train.measure import handwritten, right, shown

_HEAD = 64  # the width of one attention head


class _Letters:
    """A tokenizer of one number per character."""

    def __call__(self, text: str, *, add_special_tokens: bool) -> _Letters:
        self.input_ids = [ord(letter) for letter in text]
        return self


def test_a_mix_has_equal_shares_and_only_training_items() -> None:
    lessons = mix(["sorting", "units", "arithmetic"], 301, 5)

    tasks = [lesson.item.task for lesson in lessons]
    assert sorted(tasks.count(task) for task in set(tasks)) == [100, 100, 101]
    assert {lesson.item.split for lesson in lessons} == {"train"}
    assert lessons == mix(["sorting", "units", "arithmetic"], 301, 5)


@pytest.mark.parametrize("skill", [name for name, taught in SKILLS.items() if taught.bare])
def test_a_drill_solves_several_training_problems_in_order(skill: str) -> None:
    for lesson in drills(skill, 40, 3):
        asked, solved = lesson.item.question.split("; "), lesson.target.split("; ")

        assert len(asked) == len(solved) == 4 and lesson.item.split == "train"
        assert right(lesson.item.kind, solved[-1], lesson.item.answer)


def test_a_drill_has_no_problem_of_another_split() -> None:
    for lesson in drills("arithmetic", 60, 4):
        for solved in lesson.target.split("; "):
            a, sign, b = solved.split(" ")[:3]
            key = {"+": "{0}plus{1}", "-": "{1}-{0}", "*": "{0}times{1}"}[sign]
            assert split_of(key.format(*sorted((int(a), int(b))))) == "train"


def test_the_loss_starts_where_the_target_starts() -> None:
    [lesson] = mix(["sorting"], 1, 0)

    [example] = encode(_Letters(), [lesson])

    text = "".join(map(chr, example.tokens))
    assert text == prompt(lesson.item.question) + lesson.target + "<|im_end|>"
    assert text[example.start :] == lesson.target + "<|im_end|>"


def test_batches_are_full_and_pad_little() -> None:
    rng = Random(1)
    examples = [Example((0,) * rng.randint(20, 60), 10) for _ in range(960)]

    made = batches(examples, 8, 2)

    padded = sum(8 * max(len(one.tokens) for one in batch) for batch in made)
    assert len(made) == 120 and all(len(batch) == 8 for batch in made)
    assert padded < 1.06 * sum(len(one.tokens) for one in examples)


def test_the_learning_rate_rises_and_falls_to_nearly_nothing() -> None:
    rates = [pace(step, 50, 10) for step in range(1, 51)]

    assert max(rates) == rates[9] == 1.0 and rates[-1] == pytest.approx(0.03)


def test_a_missing_base_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pass --base"):
        base_gguf(tmp_path / "none.gguf")


@pytest.mark.parametrize(
    ("kind", "reply", "answer", "verdict"),
    [
        ("number", "64 * 7 = 420 + 28 = 448", "448", True),
        ("number", "420 minutes", "420", True),
        ("number", "none", "4", False),
        ("list", "a, b, c", "a, b, c", True),
        ("list", "b, a, c", "a, b, c", False),
        ("json", '{"age":3,"name":"Al"}', '{"name":"Al","age":3}', True),
        ("json", '{"age":', '{"age":3}', False),
        ("text", "1 Monday, 2 Tuesday\nAnswer: Tuesday", "Tuesday", True),
        ("text", "April 7.", "7 April|April 7", True),
    ],
)
def test_replies_are_judged_by_kind(kind: str, reply: str, answer: str, verdict: bool) -> None:
    assert right(kind, reply, answer) is verdict  # type: ignore[arg-type]


def test_the_base_is_told_the_form_and_shown_three_examples() -> None:
    [item] = items("units", "test", 1)

    messages = shown(item, items("units", "train", 3))

    assert [turn["role"] for turn in messages] == ["user", "assistant"] * 3 + ["user"]
    assert messages[-1]["content"] == f"{item.question}\nAnswer with the number only."
    assert len(handwritten("units")) == 25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_converted_adapter_merged_by_hand_gives_the_logits_of_peft(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from jinja2 import Template

    from evals.train.lora import Recipe, _adapted, save

    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=128, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    plain = transformers.LlamaForCausalLM(config).eval()
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    recipe = Recipe(("sorting",), 1)
    tuned = _adapted(recipe, plain).eval()
    for name, value in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.05)
    ids = torch.arange(20).reshape(2, 10)
    with torch.no_grad():
        wanted = tuned(ids).logits
    save(tuned, recipe, tmp_path / "tiny")
    parts = {
        "self_attn.q_proj": ("attn_q", 128, 128),
        "self_attn.k_proj": ("attn_k", 128, 128),
        "self_attn.v_proj": ("attn_v", 128, 128),
        "self_attn.o_proj": ("attn_output", 128, 128),
        "mlp.gate_proj": ("ffn_gate", 128, 96),
        "mlp.up_proj": ("ffn_up", 128, 96),
        "mlp.down_proj": ("ffn_down", 96, 128),
    }
    told = {"general.architecture": "llama", "llama.block_count": 2, "llama.attention.head_count": 2}
    shapes = {f"blk.{i}.{short}.weight": (reads, writes) for i in range(2) for short, reads, writes in parts.values()}
    convert_peft(tmp_path / "tiny", GgufBase("tiny", Header(told, shapes)), tmp_path / "tiny.gguf")
    reader = gguf.GGUFReader(str(tmp_path / "tiny.gguf"))
    found = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    alpha = recipe.alpha

    merged = transformers.LlamaForCausalLM(config).eval()
    for layer in range(2):
        for part, (short, _, _) in parts.items():
            down, up = (found[f"blk.{layer}.{short}.weight.lora_{side}"] for side in "ab")
            if short in ("attn_q", "attn_k"):  # undo the order of llama.cpp
                up = up.reshape(2, _HEAD // 2, 2, -1).swapaxes(1, 2).reshape(up.shape)
            before[f"model.layers.{layer}.{part}.weight"] += alpha / recipe.rank * torch.tensor(up @ down)
    merged.load_state_dict(before)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, wanted, atol=2e-3, rtol=1e-2)

    turns = [{"role": "user", "content": "Hi"}]
    assert Template(TEMPLATE).render(messages=turns, add_generation_prompt=True) == prompt("Hi")
