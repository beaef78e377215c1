"""`coe experts train` as a user meets it: scores, files, complaints. A real model answers; only torch is played."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_kit import READY, scripted, step
from typer.testing import CliRunner, Result

from composer.cli import app
from composer.config import PACKAGED, load_settings, packaged_registry
from composer.errors import ComposerError
from composer.registry.experts import Registry
from composer.training.base import find_trainee
from composer.types import Message

SUMS = [{"question": f"What is {a} + {a + 21}?", "answer": str(2 * a + 21)} for a in range(11, 61)]
EVENTS = [
    READY,
    step(0, None, 2.0, 0, None),
    step(9, 1.0, 0.5, 9),
    {"event": "done", "why": "patience", "steps": 30, "best": 9, "loss": 1.0, "first": 2.0, "held": 0.5, "seconds": 7.0},
]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    place = tmp_path / "sums.jsonl"
    place.write_text("".join(json.dumps(one) + "\n" for one in SUMS))
    return place


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An interpreter whose every training comes out as the packaged expert for sums."""
    monkeypatch.setattr("composer.training.base.converted", lambda *_, **__: tmp_path)
    return scripted(tmp_path, EVENTS, adapter=PACKAGED / "adapters" / "arithmetic")


def train(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["experts", "train", *map(str, words)])


def test_it_scores_before_and_after_and_writes_both_forms_and_a_note(data: Path, python: str, tmp_path: Path) -> None:
    out = tmp_path / "sums"

    done = train("--base", "smollm2", "--data", data, "--out", out, "--python", python, "--holdout", "6", "--seed", "2")

    assert done.exit_code == 0, done.output
    first, second, third = done.stdout.splitlines()
    before, after = (int(word.split("/")[0]) for word in first.split() if "/" in word)
    assert first == f"held-out questions right: before {before}/6, after {after}/6" and before < 4 < after
    assert second.startswith("held-out loss: before 2.000, after 0.500 (step 9 of 30; the held-out loss fell no longer")
    assert third == f"next: coe experts add {out}"
    assert "44 rows to learn from, 6 held back" in done.stderr and "step 9 of 600, loss 1.000" in done.stderr
    assert {path.name for path in out.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "sums.gguf", "training.json",
    }  # fmt: skip
    told = json.loads((out / "training.json").read_text())
    assert told["held_out_right"] == {"before": before, "after": after, "of": 6}
    assert told["settings"]["seed"] == 2 and told["data"]["rows"] == 44 and told["base"]["sha256"]
    assert str(tmp_path) not in (out / "training.json").read_text(), "it says nothing of this machine"
    assert not list(tmp_path.glob(".sums*")), "nothing else is left"


def test_json_has_exact_counts_and_bad_lines_end_with_3(data: Path, python: str, tmp_path: Path) -> None:
    data.write_text(data.read_text() + '{"question": "And this?"}\n')

    done = train(
        "--base", "smollm2", "--data", data, "--out", tmp_path / "o", "--python", python, "--holdout", "3", "--json"
    )

    assert done.exit_code == 3
    assert "left out: line 51: `answer` is missing" in done.stderr
    told = json.loads(done.stdout)
    assert told["left_out"] == [{"line": 51, "reason": "`answer` is missing"}]
    assert told["held_out"]["of"] == 3 and 0 <= told["held_out"]["before"] <= told["held_out"]["after"] <= 3
    assert (told["ended"], told["best_step"], told["name"]) == ("patience", 9, "o")


def test_what_failed_leaves_the_folder_as_it_was(data: Path, python: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGED / "adapters" / "units", tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    failing = scripted(tmp_path, [READY, {"event": "error", "error": "boom", "missing": None, "row": None}])

    done = train("--base", "smollm2", "--data", data, "--out", tmp_path / "old", "--python", failing, "--holdout", "1")

    assert isinstance(done.exception, ComposerError) and "boom" in done.exception.what
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--base": "smollm"}, "did you mean `smollm2`"),
        ({"--base": "sums.jsonl"}, "is no GGUF file"),
        ({"--base": "adapter"}, "is an adapter"),
        ({"--data": "none.jsonl"}, "cannot be read"),
        ({"--out": "sums.jsonl"}, "this is a file, expected a folder"),
        ({"--out": "full"}, "holds something that is no adapter"),
        ({"--rate": "0"}, "expected a number above 0"),
        ({"--rate": "nan"}, "expected a number above 0"),
        ({"--alpha": "-1"}, "expected a number above 0"),
        ({"--rank": "0"}, "expected 1 or more"),
        ({"--steps": "0"}, "expected 1 or more"),
        ({"--size": "-2"}, "expected 1 or more"),
        ({"--holdout": "0"}, "expected 1 or more"),
        ({"--holdout": "40"}, "would be held back"),
        ({"--dtype": "int8"}, "choose bfloat16 or float32"),
        ({"--start": "full"}, "holds no adapter_config.json"),
        ({"--name": "a/b/../law v2!", "--python": "none"}, "cannot be run"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(
    data: Path, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("dear to me")
    shutil.copytree(PACKAGED / "adapters" / "units", tmp_path / "adapter")
    given = {
        "--base": "smollm2",
        "--data": "sums.jsonl",
        "--out": "out",
        "--python": python,
        "--holdout": "1",
        **changes,
    }

    done = train(*(word for pair in given.items() for word in pair))

    assert isinstance(done.exception, ComposerError), done.output
    assert words in str(done.exception) and done.exception.exit_code == 2
    assert not (tmp_path / "out").exists() and (tmp_path / "full" / "mine").read_text() == "dear to me"


def test_targets_that_are_wrong_are_pointed_out(data: Path, python: str, tmp_path: Path) -> None:
    data.write_text("".join(json.dumps({**one, "target": "7"}) + "\n" for one in SUMS))

    done = train("--base", "smollm2", "--data", data, "--out", tmp_path / "o", "--python", python, "--holdout", "1")

    assert "the target of 50 rows is no right answer to them, the first on line 1" in done.stderr


def test_a_file_is_the_registrys_model_if_it_is_the_same(packaged: Registry, smollm2: Path, tmp_path: Path) -> None:
    named, file = find_trainee(packaged, "smollm2"), find_trainee(packaged, str(smollm2))

    assert (file.name, file.template, file.public) == (
        named.name,
        named.template,
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    )
    assert file.prompt("Hi") == (Message("user", "Hi"),) and file.turns("Hi") == [{"role": "user", "content": "Hi"}]


def test_the_prompt_is_what_an_expert_without_a_system_message_is_sent(packaged: Registry) -> None:
    trainee = find_trainee(packaged, "smollm2")

    assert trainee.prompt("2 + 2?") == packaged.messages("arithmetic", "2 + 2?")


# --- with torch


SKILL = [
    {"question": f"Record {name} {number}", "answer": json.dumps({"who": name, "n": number}), "kind": "json"}
    for name in "Ada Bo Cy Di Ed Flo Gus Hal Ida Jo Kim Lou".split()  # noqa: SIM905
    for number in range(3, 13)
]


def coe(folder: Path, *words: str | Path) -> subprocess.Popen[str]:
    code = "import sys; from composer.cli import main; sys.argv[0] = 'coe'; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "experts", "train", *map(str, words)],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.fixture
def records(tmp_path: Path) -> Path:
    place = tmp_path / "records.jsonl"
    place.write_text("".join(json.dumps(one) + "\n" for one in SKILL))
    return place


@pytest.mark.vllm
def test_a_few_steps_teach_an_easy_skill(vllm_env: Any, records: Path, tmp_path: Path) -> None:
    child = coe(
        tmp_path, "--base", "smollm2", "--data", records, "--out", "records", "--python", vllm_env.python,
        "--steps", "24", "--every", "12", "--holdout", "12", "--rank", "4", "--json",
    )  # fmt: skip
    out, err = child.communicate(timeout=600)

    assert child.returncode == 0, err
    told = json.loads(out)
    assert told["held_out"]["of"] == 12 and told["held_out"]["after"] >= told["held_out"]["before"] + 6, told
    assert told["held_out"]["loss_after"] < told["held_out"]["loss_before"] / 2
    assert "step 24 of 24, loss" in err and "before: " in err
    text = packaged_registry().read_text()
    (tmp_path / "experts.yaml").write_text(text)
    code = "import sys; from composer.cli import main; sys.argv[0] = 'coe'; main()"
    added = subprocess.run(
        [sys.executable, "-c", code, "experts", "add", "records", "--no-profile"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert added.returncode == 0, added.stderr
    spec = load_settings(tmp_path / "experts.yaml").experts["records"]
    assert (spec.model, spec.adapter is not None) == ("smollm2", True)


@pytest.mark.vllm
def test_ctrl_c_keeps_the_best_so_far_and_says_so(vllm_env: Any, records: Path, tmp_path: Path) -> None:
    child = coe(
        tmp_path, "--base", "smollm2", "--data", records, "--out", "records", "--python", vllm_env.python,
        "--steps", "5000", "--every", "2", "--holdout", "4", "--rank", "2", "--size", "2",
    )  # fmt: skip
    assert child.stderr is not None
    for line in child.stderr:
        if line.startswith("step 4 "):
            child.send_signal(signal.SIGINT)
            break
    out, err = child.communicate(timeout=300)

    assert child.returncode == 130, err
    assert "stopping after this step" in err and "interrupted; the best so far, step " in err and "Traceback" not in err
    assert (tmp_path / "records" / "records.gguf").is_file() and "after" not in out.splitlines()[0]
    told = json.loads((tmp_path / "records" / "training.json").read_text())
    assert told["ended"] == "stopped" and told["held_out_right"]["after"] is None
    assert not list(tmp_path.glob(".records*"))


_PROMPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from child import closing, prompt
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
turns, template = json.loads(sys.argv[3])
print(json.dumps([prompt(tokenizer, turns, template), closing(tokenizer, template, True)]))
"""


@pytest.mark.vllm
@pytest.mark.parametrize("whose", ["the registry's", "the file's own"])
def test_the_training_prompt_is_what_llama_cpp_reads(
    vllm_env: Any, packaged: Registry, smollm2: Path, whose: str
) -> None:
    import httpx
    import xllamacpp

    trainee = find_trainee(packaged, "smollm2")
    template = trainee.template if whose == "the registry's" else None
    params = xllamacpp.CommonParams()
    params.model.path, params.verbosity, params.n_ctx = str(smollm2), 0, 512
    if template is not None:
        params.chat_template = template
    server = xllamacpp.Server(params)
    url, turns = server.listening_address, trainee.turns("What is 47 + 38?\nCafé 😀")

    sent = httpx.post(f"{url}/apply-template", json={"messages": turns}).json()["prompt"]
    read = httpx.post(f"{url}/tokenize", json={"content": sent, "add_special": True, "parse_special": True}).json()
    ends = httpx.post(f"{url}/tokenize", json={"content": "<|im_end|>", "parse_special": True}).json()
    del server
    told = subprocess.run(
        [vllm_env.python, "-c", _PROMPT, str(Path(find_trainee.__code__.co_filename).parent), str(vllm_env.folder),
         json.dumps([turns, template])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert json.loads(told.stdout.splitlines()[-1]) == [read["tokens"], ends["tokens"][-1]]
