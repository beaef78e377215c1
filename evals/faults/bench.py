"""What every fault is measured with: the server, the nursery, a folder, and runs prepared in it."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from evals.faults.nursery import Nursery

RUN = ("run", "in.jsonl", "--out", "out.jsonl", "--config", "experts.yaml")
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of the table: `figure` says what was measured over `n` trials, `passed` whether the promise was kept."""

    id: str
    fault: str
    promise: str
    figure: str
    n: int
    passed: bool


class Bench:
    """A context manager; everything it makes lies under `folder` and is gone after it."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="coe-faults-")))
            self._ledger = self.folder / "ledger.txt"
            server = subprocess.Popen(
                [sys.executable, "-m", "evals.faults.server", str(self._ledger)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(server.communicate)
            assert server.stdout is not None
            self.url = server.stdout.readline().strip()
            self.nursery = stack.enter_context(Nursery())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def calls(self, model: str, since: int = 0) -> Counter[str]:
        """How often the server was asked each prompt (its hash) by this model's name, after byte `since` of its ledger."""
        return Counter(name for what, asked, name in self._lines(since) if what == "begun" and asked == model)

    def told(self, what: str, since: int) -> int:
        """How many calls have `begun`, were `sent` whole, or whose caller `left`, after byte `since` of the ledger."""
        return sum(line[0] == what for line in self._lines(since))

    def mark(self) -> int:
        """Where the ledger ends now."""
        return self._ledger.stat().st_size if self._ledger.exists() else 0

    def _lines(self, since: int) -> list[list[str]]:
        if not self._ledger.exists():
            return []
        with self._ledger.open() as ledger:
            ledger.seek(since)
            return [line.split() for line in ledger]

    def new(self, name: str) -> Path:
        """A folder that was not there before."""
        folder = self.folder / f"{name}{next(_NUMBERS)}"
        folder.mkdir()
        return folder

    def prepared(self, name: str, questions: Sequence[str], *models: str, slots: int = 8) -> Path:
        """A folder with `in.jsonl` and a registry of one expert per model, all of which are asked."""
        folder = self.new(name)
        self.registry(folder, *models, slots=slots)
        rows = [{"id": f"q{i}", "question": question} for i, question in enumerate(questions)]
        (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    def registry(self, folder: Path, *models: str, slots: int = 8) -> Path:
        """Write `experts.yaml`: a model and an expert per name of a model of the server."""
        options = [json.dumps({"url": self.url, "model": model}) for model in models]
        lines = [
            "models:",
            *(f"  m{i}: {{engine: openai, slots: {slots}, options: {o}}}" for i, o in enumerate(options)),
        ]
        lines += ["experts:", *(f"  e{i}: {{model: m{i}}}" for i in range(len(models)))]
        lines[-len(models)] = "  e0: {model: m0, generalist: true}"
        lines += [
            "pipeline:",
            f"  - {{use: decide, options: {{k: {len(models)}}}}}",
            "  - use: generate",
            "  - use: verify",
            "  - {use: aggregate, options: {by: majority}}",
        ]
        path = folder / "experts.yaml"
        path.write_text("\n".join(lines) + "\n")
        return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; none where it is not there."""
    return [json.loads(line) for line in path.read_text().split("\n") if line] if path.exists() else []


def digest(folder: Path) -> str:
    """The sha256 over what `out.jsonl` says: ids, answers and statuses, in their order."""
    said = [(row["id"], row["answer"], row["status"]) for row in rows_of(folder / "out.jsonl")]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest() if said else ""


def left_behind(folder: Path) -> list[str]:
    """Temporary files and locks that a run should not leave."""
    ends = (".tmp", "-journal", ".part")
    names = [path.name for path in folder.iterdir() if path.name.endswith(ends)]
    return names + [f"locks/{path.name}" for path in (folder / "locks").glob("*")]


def questions(n: int, name: str = "question") -> list[str]:
    """Different ones."""
    return [f"{name} {i}?" for i in range(n)]
