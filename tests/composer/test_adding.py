"""Experts get into the registry file: what their files say of them, what they show, and nothing else of it is touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from composer.adding import plan_file, plan_mixture, scores_of, shown_skills, stands_in
from composer.config import PACKAGED, load_settings, packaged_registry
from composer.errors import ConfigError, InputError
from composer.profile import EMPTY, Profile
from composer.registry.experts import Registry
from composer.registry.lock import read_lock
from composer.rewrite import with_rows
from evals.tasks.skills import items

ADAPTERS = PACKAGED / "adapters"


def coe(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from composer.cli import main; sys.argv[0] = 'coe'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=cwd,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A registry of one's own: the packaged one without the expert for sorting, whose PEFT folder lies beside it."""
    text = packaged_registry().read_text()
    begin, end = text.index("  sorting:\n"), text.index("  extraction:\n")
    (tmp_path / "experts.yaml").write_text(text[:begin] + text[end:])
    shutil.copytree(ADAPTERS / "sorting", tmp_path / "sorting")
    (tmp_path / "sorting" / "sorting.gguf").unlink()
    return tmp_path


def registry(folder: Path) -> Registry:
    return Registry(load_settings(folder / "experts.yaml"))


def test_a_peft_folder_is_added_measured_and_claims_what_it_shows(own: Path) -> None:
    rows = [json.loads(line) for line in (PACKAGED / "items.jsonl").read_text().splitlines()]
    few = [row for row in rows if row["task"] == "sorting"][:8]
    (own / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    before = (own / "experts.yaml").read_text()

    done = coe("experts", "add", "sorting", "--data", "few.jsonl", cwd=own)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sorting: sorting, written into ")
    assert "its layers fit smollm2" in done.stderr and "sorting: right" in done.stderr
    expert = registry(own).settings.experts["sorting"]
    assert (expert.skills, expert.answers, expert.model) == (("sorting",), "list", "smollm2")
    after = (own / "experts.yaml").read_text()
    new = after[(at := after.index("  sorting:\n")) : after.index("\nencoder:")]
    assert after[:at] + after[at + len(new) :] == before


def test_where_no_skill_is_shown_what_follows_and_what_mends_it_is_told(own: Path) -> None:
    rows = [json.loads(line) for line in (PACKAGED / "items.jsonl").read_text().splitlines()]
    others = [row for row in rows if row["task"] == "arithmetic"][:8]
    (own / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))

    done = coe("experts", "add", "sorting", "--data", "others.jsonl", cwd=own)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sorting: no skill shown, written into ")
    assert "no question will be routed to sorting" in done.stderr and "coe profile FILE --config " in done.stderr


def test_a_dry_run_shows_the_row_and_writes_nothing(own: Path) -> None:
    before = (own / "experts.yaml").read_text()

    done = coe("experts", "add", "sorting", "--name", "order", "--skills", "sorting, words", "--dry-run", cwd=own)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("experts:\n  order:\n    model: smollm2\n    adapter:\n      path: sorting\n")
    assert done.stdout.endswith("    skills: [sorting, words]\n")
    assert (own / "experts.yaml").read_text() == before


def test_a_mixture_is_written_without_being_measured(own: Path) -> None:
    done = coe("experts", "add", "--sum", "arithmetic=0.6,units=0.6", "--rank", "4", "--no-profile", cwd=own)

    assert done.returncode == 0, done.stderr
    assert "measure it with `coe profile`" in done.stderr
    assert str(registry(own).settings.experts["arithmetic-units"].adapter) == "sum of 0.6 arithmetic, 0.6 units, rank 4"


def test_a_lock_file_takes_the_new_expert_in(own: Path) -> None:
    assert coe("experts", "lock", cwd=own).returncode == 0
    locked = read_lock(own / "experts.lock")

    done = coe("experts", "add", "sorting", "--no-profile", cwd=own)

    now = read_lock(own / "experts.lock")
    assert done.returncode == 0 and locked is not None and now is not None, done.stderr
    assert now.keys() - locked.keys() == {"sorting"} and now["units"] == locked["units"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "expected one of PATH, --sum and --cross"),
        (("sorting", "--sum", "units=1"), "expected one of PATH, --sum and --cross"),
        (("--sum", "units"), "'units' is no expert with its weight"),
        (("--cross", "dates=1"), "no expert is called 'dates'"),
        (("sorting", "--name", "Units"), "an expert is called 'Units' already"),
        (("sorting", "--base", "smol"), "no model is called 'smol'"),
        (("none",), "none is not there"),
        (("sorting", "--data", "none.jsonl"), "none.jsonl"),
    ],
)
def test_what_cannot_be_added_leaves_the_file_as_it_was(own: Path, words: tuple[str, ...], told: str) -> None:
    before = (own / "experts.yaml").read_text()

    done = coe("experts", "add", *words, cwd=own)

    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
    assert (own / "experts.yaml").read_text() == before


def test_the_packaged_registry_is_not_changed(tmp_path: Path) -> None:
    done = coe("experts", "add", ADAPTERS / "dates", cwd=tmp_path)

    assert done.returncode == 2 and "copy it to ./experts.yaml" in done.stderr


def test_a_gguf_adapter_finds_its_base_by_its_layers(own: Path) -> None:
    plan = plan_file(registry(own), ADAPTERS / "dates" / "dates.gguf", name=None, base=None)

    assert (plan.name, plan.row["model"], plan.notes) == ("dates", "smollm2", ("its layers fit smollm2",))


def test_an_adapter_that_fits_nothing_or_several_says_so(own: Path) -> None:
    text = (own / "experts.yaml").read_text()
    config = own / "sorting" / "adapter_config.json"
    config.write_text(config.read_text().replace("SmolLM2-135M-Instruct", "SmolLM2-360M"))

    with pytest.raises(
        ConfigError, match=r"sorting fits no model of the registry\n  sorting/adapter_config.json: base"
    ):
        plan_file(registry(own), own / "sorting", name=None, base=None)

    model = text[text.index("  smollm2:\n") : text.index("\nexperts:")]
    (own / "experts.yaml").write_text(
        text.replace("\nexperts:", model.replace("smollm2:", "again:", 1) + "\nexperts:", 1)
    )
    with pytest.raises(ConfigError, match=r"dates\.gguf fits several models: smollm2, again"):
        plan_file(registry(own), ADAPTERS / "dates" / "dates.gguf", name=None, base=None)


def test_a_model_gets_a_row_of_its_own(own: Path) -> None:
    writer = gguf.GGUFWriter(own / "Tiny (v2).gguf", "llama")
    writer.add_context_length(512)
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    plan = plan_file(registry(own), own / "Tiny (v2).gguf", name=None, base=None)
    (own / "experts.yaml").write_text(plan.text((own / "experts.yaml").read_text()))

    found = load_settings(own / "experts.yaml").models["tiny-v2"]
    assert (found.context, found.completion, found.sources[0]) == (512, True, found.sources[0])
    assert "no chat template" in plan.notes[0] and registry(own).host("tiny-v2", ()).path == own / "Tiny (v2).gguf"


@pytest.fixture
def folder(own: Path) -> Path:
    """A model as transformers saves one."""
    place = own / "Tiny (hf)"
    place.mkdir()
    tensors = {"model.embed_tokens.weight": np.zeros((8, 4), np.float32)}
    save_file(tensors, place / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    (place / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 512}))
    (place / "tokenizer.json").write_text("{}")
    (place / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return place


def test_a_folder_of_hugging_face_becomes_a_model_that_vllm_serves(own: Path, folder: Path) -> None:
    done = coe("experts", "add", folder.name, "--no-profile", "--name", "tiny", cwd=own)

    assert done.returncode == 0, done.stderr
    found = load_settings(own / "experts.yaml").models["tiny"]
    assert (found.engine, found.context, found.completion) == ("vllm", 512, False)
    assert "vLLM serves it" in done.stderr and registry(own).host("tiny", ()).path == folder


def without_template(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")


def test_a_folder_without_a_template_continues_text(own: Path, folder: Path) -> None:
    without_template(folder)

    plan = plan_file(registry(own), folder, name=None, base=None)

    assert plan.model is not None and plan.model["completion"] is True and plan.name == "tiny-hf"


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda place: (place / "config.json").unlink(), "neither config.json nor adapter_config.json"),
        (lambda place: (place / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda place: (place / "tokenizer.json").unlink(), "has no tokenizer"),
        (lambda place: (place / "model-00001-of-00001.safetensors").unlink(), "holds no weights"),
        (
            lambda place: (place / "model.safetensors.index.json").write_text('{"weight_map": {"a": "other"}}'),
            "not whole: other",
        ),
        (
            lambda place: (place / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}'),
            "asks for code of another place: evil.py",
        ),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused_with_its_reason(
    own: Path, folder: Path, harm: Callable[[Path], None], told: str
) -> None:
    harm(folder)

    with pytest.raises(ConfigError, match=told):
        plan_file(registry(own), folder, name=None, base=None)


def test_a_peft_folder_finds_its_base_among_folders_too(own: Path) -> None:
    place = own / "smol"
    shutil.copytree(ADAPTERS / "units", own / "units")
    place.mkdir()
    named = load_file(ADAPTERS / "units" / "adapter_model.safetensors")
    shapes: dict[str, list[int]] = {"model.embed_tokens": [49152, 576]}
    for name, tensor in named.items():
        module, _, which = name.removeprefix("base_model.model.").partition(".lora_")
        side = shapes.setdefault(module, [0, 0])
        side[which.startswith("A")] = tensor.shape[1 if which.startswith("A") else 0]
    tensors = {f"{name}.weight": np.zeros(shape, np.float16) for name, shape in shapes.items()}
    save_file(tensors, place / "model.safetensors")
    (place / "config.json").write_text('{"model_type": "llama"}')
    (place / "tokenizer.json").write_text("{}")
    coe("experts", "add", "smol", "--no-profile", cwd=own)

    plan = plan_file(registry(own), own / "units", name="more", base="smol")

    assert plan.row["model"] == "smol"
    with pytest.raises(ConfigError, match="smol is a folder, which takes no GGUF adapter"):
        plan_file(registry(own), ADAPTERS / "dates" / "dates.gguf", name=None, base="smol")


def test_a_mixture_of_nobody_is_refused(own: Path) -> None:
    with pytest.raises(ConfigError, match="no expert is called 'law'"):
        plan_mixture(registry(own), {"law": 1.0}, form="sum", rank=None, name=None)


def test_conversion_from_the_command_line_gives_the_packaged_file(own: Path) -> None:
    done = coe("experts", "convert", "sorting", "--base", "smollm2", "--out", "made.gguf", cwd=own)

    assert done.returncode == 0 and done.stdout == "made.gguf\n", done.stderr
    ours, theirs = (
        gguf.GGUFReader(str(path)).tensors for path in (own / "made.gguf", ADAPTERS / "sorting" / "sorting.gguf")
    )
    assert {t.name: t.data.tobytes() for t in ours} == {t.name: t.data.tobytes() for t in theirs}


# Rows in the file


def test_rows_go_to_the_end_of_their_group_and_comments_stay() -> None:
    text = (
        "# head\nmodels:  # weights\n    m: {sources: [a]}   # one\n    # last\n\n\n# then\nexperts:\n  a: {model: m}\n"
    )

    made = with_rows(text, "models", {"n": {"sources": ["b c.gguf"], "sha256": "1" * 64, "context": 16}})

    assert made == text.replace(
        "    # last\n",
        '    # last\n    n:\n      sources: [b c.gguf]\n      sha256: "' + "1" * 64 + '"\n      context: 16\n',
    ).replace('"' + "1" * 64 + '"', json.dumps("1" * 64))
    assert (
        with_rows("experts:\n  a: {}", "experts", {"b": {"model": "no"}})
        == 'experts:\n  a: {}\n  b:\n    model: "no"\n'
    )


def test_a_group_on_one_line_is_refused() -> None:
    with pytest.raises(InputError, match="does not begin a list of lines"):
        with_rows("experts: {a: {model: m}}\n", "experts", {"b": {}})


# What it shows


def profile(*rows: tuple[str, str, int, float]) -> Profile:
    """Of (skill, arm, question, score)."""
    schema = EMPTY.table.schema
    told = [
        {"question": f"{skill}{i}", "text": "", "skill": skill, "split": "profile", "arm": arm, "score": score, "answer": "", "length": 1}
        for skill, arm, i, score in rows
    ]  # fmt: skip
    return Profile(type(EMPTY.table).from_pylist(told, schema=schema), EMPTY.vectors, "", {})


def test_it_claims_what_it_is_better_at_and_nothing_that_few_questions_or_chance_say() -> None:
    found = profile(
        *(("sums", arm, i, float(arm == "new")) for arm in ("new", "general") for i in range(10)),
        *(("few", arm, i, float(arm == "new")) for arm in ("new", "general") for i in range(7)),
        *(("even", arm, i, float((i % 2 == 0) == (arm == "new"))) for arm in ("new", "general") for i in range(20)),
        *(("alone", "new", i, float(i > 0)) for i in range(20)),
    )

    assert shown_skills(found, "new", "general") == ["alone", "sums"]
    told = list(scores_of(found, "new", "general"))
    assert (told[0], told[-1]) == ("alone: right 95.0 % of 20", "sums: right 100.0 % of 10, general 0.0 %")


def test_a_mixture_stands_in_for_a_part_that_it_loses_at_most_a_point_against(own: Path) -> None:
    plan = plan_mixture(registry(own), {"arithmetic": 0.5, "units": 0.5}, form="sum", rank=None, name="both")
    (own / "experts.yaml").write_text(plan.text((own / "experts.yaml").read_text()))
    found = profile(
        *(("arithmetic", arm, i, 1.0) for arm in ("both", "arithmetic") for i in range(10)),
        *(("units", arm, i, float(arm == "units" or i > 0)) for arm in ("both", "units") for i in range(10)),
        *(("sorting", arm, i, float(arm == "units")) for arm in ("both", "units") for i in range(10)),
    )

    lines = list(stands_in(found, "both", registry(own)))

    assert lines == [
        "against arithmetic on 10 of its questions: loses 0.0 points: may stand in for arithmetic",
        "against units on 10 of its questions: loses 10.0 points: keep units",
    ]
    assert list(stands_in(found, "units", registry(own))) == []


@pytest.mark.parametrize("skill", ["numerals", "wordforms"])
def test_the_packaged_specialists_that_are_not_in_the_registry_can_be_added(tmp_path: Path, skill: str) -> None:
    shutil.copy(packaged_registry(), tmp_path / "experts.yaml")
    asked = items(skill, "calibration", 20, 5)  # problems that nobody was trained on
    rows = [
        {"id": one.id, "question": one.question, "answer": one.answer, "kind": one.kind, "task": skill} for one in asked
    ]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = coe("experts", "add", ADAPTERS / skill, "--data", "few.jsonl", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{skill}: {skill}, written into ")
    assert "its layers fit smollm2" in done.stderr and f"{skill}: right " in done.stderr
    assert registry(tmp_path).settings.experts[skill].skills == (skill,)
