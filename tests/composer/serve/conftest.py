"""What the tests of the server share."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted import THREE, Scripted

from composer.profiling import profile_file


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Pipelines whose experts answer from a script."""
    return Scripted(tmp_path, monkeypatch)


@pytest.fixture
def measured(bench: Scripted) -> None:
    """A profile, without which only the generalist is asked."""
    source = bench.folder / "questions.jsonl"
    source.write_text(
        "".join(f'{{"id": "q{i}", "question": "sum {i}", "answer": "{i}", "task": "t"}}\n' for i in range(4))
    )
    profile_file(bench.pipeline(THREE, lambda request: "7"), source, None)
