"""Every error we raise: what happened, where, and the next step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from composer.exits import CORRUPT, EXHAUSTED, UNAVAILABLE, USAGE


class ComposerError(Exception):
    """A failure the user can act on.

    `what` says what was found and what was expected, `where` names the file, line or field, `remedy` the next step.
    `code` is stable and meant for programs; `exit_code` is what the command ends with.
    """

    code = "error"
    exit_code: int = USAGE

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        super().__init__(what, where, remedy)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        step = f"\n  next: {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{step}"

    def as_dict(self) -> dict[str, str | None]:
        """The same as data, for `--json`."""
        return {"code": self.code, "what": self.what, "where": self.where, "remedy": self.remedy}


class ConfigError(ComposerError):
    """The registry file, or a setting, is not what it must be."""

    code = "config"


class LockError(ConfigError):
    """An expert is not what the lock file says."""

    code = "lock"
    exit_code = CORRUPT


class InputError(ComposerError):
    """A file or a row that the user gave cannot be used."""

    code = "input"


class OutputFullError(InputError):
    """There is no room for an output file; what it would hold is in the store."""

    code = "output_full"
    exit_code = EXHAUSTED


class RequestError(ComposerError):
    """A request that contradicts itself, or that its engine cannot serve."""

    code = "request"


class SourceError(ComposerError):
    """A model file could not be fetched, or is not the file that was pinned."""

    code = "source"
    exit_code = UNAVAILABLE


class UnreachableError(SourceError):
    """A source could not be asked at all: no network, no such host, or offline by wish."""

    code = "unreachable"


class EngineError(ComposerError):
    """A host did not start, died, or answered what cannot be trusted."""

    code = "engine"
    exit_code = UNAVAILABLE


class RoutingError(ComposerError):
    """The routing inside a model cannot be controlled: its family is not known, or it routes otherwise than its family."""

    code = "routing"


class MemoryBudgetError(ComposerError):
    """What has to be resident does not fit into the memory budget."""

    code = "memory"
    exit_code = UNAVAILABLE


class ServeError(ComposerError):
    """The server cannot listen."""

    code = "serve"
    exit_code = 6


class PassageError(ComposerError):
    """An index of passages is missing, damaged, or of another encoder."""

    code = "index"
    exit_code = UNAVAILABLE


class StoreError(ComposerError):
    """The draft store cannot be opened or written."""

    code = "store"
    exit_code = UNAVAILABLE


class StoreLockedError(StoreError):
    """Another process works on the same run."""

    code = "locked"


class StoreFullError(StoreError):
    """There is no room for another draft; everything that was stored is kept."""

    code = "store_full"
    exit_code = EXHAUSTED


class StoreCorruptError(StoreError):
    """Stored data do not match their checksum or schema."""

    code = "corrupt"
    exit_code = CORRUPT


def suggest(name: str, known: Iterable[str]) -> str:
    """What to write instead of a misspelt name.

    >>> suggest("contxt", ["context", "slots"])
    'did you mean `context`? known: context, slots'
    """
    import difflib  # noqa: PLC0415 only a mistake needs it

    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean `{close[0]}`? " if close else ""
    return guess + f"known: {', '.join(known) or 'none'}"


def child(path: str, key: str | int) -> str:
    """The path one step further down.

    >>> child("pipeline", 2), child("models", "smollm2")
    ('pipeline[2]', 'models.smollm2')
    """
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


@contextmanager
def plain_errors() -> Iterator[None]:
    """Around a group of tasks: the first error that one of them raised is raised as it is, not as one of a group."""
    try:
        yield
    except BaseExceptionGroup as whys:
        raise whys.exceptions[0] from None
