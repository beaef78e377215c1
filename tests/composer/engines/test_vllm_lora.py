"""Adapters computed per adapter, in the interpreter that has vLLM."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

import composer

pytestmark = pytest.mark.vllm

CHECKS = Path(__file__).with_name("lora_checks.py")
ALONE = (  # the package's folder without what its __init__ needs, as `vllm_loop.py` lends it
    "import sys, types; package = types.ModuleType('composer'); "
    f"package.__path__ = {list(composer.__path__)!r}; sys.modules['composer'] = package"
)


@cache
def _found() -> dict[str, str | None]:
    done = subprocess.run(
        [os.environ["COE_VLLM"], "-c", f"{ALONE}; import runpy; runpy.run_path({str(CHECKS)!r}, run_name='__main__')"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("check", ["sums", "halves", "groups", "forgets", "installed"])
def test_every_row_gets_what_its_adapter_adds(check: str) -> None:
    if failed := _found()[check]:
        pytest.fail(failed, pytrace=False)
