"""The training recipe: batches, pace, and a conversion that keeps the adapter's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest

from evals.tasks.skills import SKILLS, items, split_of
from evals.train.base import TEMPLATE, base_gguf, prompt
from evals.train.batches import Example, batches, drills, encode, mix
from evals.train.convert import interleave, to_gguf
from evals.train.lora import pace
from evals.train.measure import handwritten, right, shown

_HEAD = 64


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


def test_reordered_rows_give_the_same_attention_in_the_rotation_of_llama_cpp() -> None:
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 2 * _HEAD, 3))  # two heads, from three inputs
    rows, angles = rng.normal(size=(5, 3)), rng.normal(size=(5, _HEAD // 2))

    def halves(vectors: np.ndarray) -> np.ndarray:  # transformers turns (i, i + half)
        a, b = np.split(vectors.reshape(5, 2, _HEAD), 2, axis=-1)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def pairs(vectors: np.ndarray) -> np.ndarray:  # llama.cpp turns (2 i, 2 i + 1)
        a, b = np.moveaxis(vectors.reshape(5, 2, _HEAD // 2, 2), -1, 0)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(5, 2, _HEAD)

    ours = np.einsum("ihd,jhd->hij", halves(rows @ query.T), halves(rows @ key.T))
    q, k = interleave(query, 2), interleave(key, 2)
    theirs = np.einsum("ihd,jhd->hij", pairs(rows @ q.T), pairs(rows @ k.T))

    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def _folder(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """A PEFT folder with these tensors."""
    from safetensors.numpy import save_file

    path.mkdir()
    save_file(tensors, str(path / "adapter_model.safetensors"))
    (path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "owner/base", "lora_alpha": 8, "r": 4})
    )
    return path


def _read(path: Path) -> tuple[dict[str, np.ndarray], float]:
    """The tensors and the alpha of a GGUF adapter."""
    from gguf import GGUFReader

    reader = GGUFReader(str(path))
    alpha = reader.fields["adapter.lora.alpha"]
    tensors = {tensor.name: np.array(tensor.data, dtype=np.float32) for tensor in reader.tensors}
    return tensors, float(alpha.parts[alpha.data[0]][0])


def test_conversion_renames_and_reorders_only_the_outer_side_of_q_and_k(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    stem = "base_model.model.model.layers.3"
    names = {"self_attn.q_proj": "attn_q", "mlp.down_proj": "ffn_down"}
    tensors = {
        f"{stem}.{name}.lora_{side}.weight": rng.normal(size=shape).astype("float16")
        for name in names
        for side, shape in (("A", (4, 96)), ("B", (128, 4)))
    }

    path = to_gguf(_folder(tmp_path / "some", tensors), tmp_path / "some.gguf")

    found, alpha = _read(path)
    q = tensors[f"{stem}.self_attn.q_proj.lora_B.weight"]
    assert alpha == 8.0 and len(found) == 4
    np.testing.assert_array_equal(found["blk.3.attn_q.weight.lora_b"], interleave(q, 2))
    for name, short in names.items():
        same = tensors[f"{stem}.{name}.lora_A.weight"]
        np.testing.assert_array_equal(found[f"blk.3.{short}.weight.lora_a"], same)
    down = tensors[f"{stem}.mlp.down_proj.lora_B.weight"]
    np.testing.assert_array_equal(found["blk.3.ffn_down.weight.lora_b"], down)


def test_a_foreign_tensor_is_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "odd", {"base_model.model.lm_head.lora_A.weight": np.zeros((4, 8))})

    with pytest.raises(ValueError, match="lm_head"):
        to_gguf(folder, tmp_path / "odd.gguf")


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
    found, alpha = _read(to_gguf(tmp_path / "tiny", tmp_path / "tiny.gguf"))

    merged = transformers.LlamaForCausalLM(config).eval()
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for layer in range(2):
        for part, short in parts.items():
            down, up = (found[f"blk.{layer}.{short}.weight.lora_{side}"] for side in "ab")
            if short in ("attn_q", "attn_k"):  # undo the order of llama.cpp
                up = up.reshape(2, _HEAD // 2, 2, -1).swapaxes(1, 2).reshape(up.shape)
            before[f"model.layers.{layer}.{part}.weight"] += alpha / recipe.rank * torch.tensor(up @ down)
    merged.load_state_dict(before)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, wanted, atol=2e-3, rtol=1e-2)

    turns = [{"role": "user", "content": "Hi"}]
    assert Template(TEMPLATE).render(messages=turns, add_generation_prompt=True) == prompt("Hi")
