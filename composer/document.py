"""A settings file as text, and as plain data that remembers its lines. Costs nothing to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.errors import ConfigError

MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """A mapping as plain data. `lines` maps a path such as `models.smollm2.context` or `pipeline[2].use` to its line
    (from 1), and the empty path to the first one; `name` is what messages call the file."""

    name: str
    data: dict[str, Any]
    lines: dict[str, int]

    def where(self, path: str) -> str:
        """`file:line (path)`; a path that is not in the file has the line of the nearest one above it."""
        near = path
        while near not in self.lines:
            near = near[: max(near.rfind("."), near.rfind("["), 0)]
        return f"{self.name}:{self.lines[near]}" + (f" ({path})" if path else "")


def text_of(path: Path) -> str:
    """The text of the file at `path`, at most 1 MiB of UTF-8. Raises ConfigError naming file, line and remedy."""
    name = shown(path)
    try:
        if not path.is_file():
            problem = "is not a file" if path.exists() else "is not there"
            raise ConfigError(problem, where=name, remedy="check the path of the registry file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as why:
        raise ConfigError(f"cannot be read: {why.strerror}", where=name, remedy="check the file's permissions") from why
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            "is larger than 1 MiB: a registry names models, it does not hold them",
            where=name,
            remedy="check that this is the registry file",
        )
    try:
        return raw.decode("utf-8-sig")  # a byte order mark is allowed and means nothing
    except UnicodeDecodeError as why:
        line = raw.count(b"\n", 0, why.start) + 1
        raise ConfigError(
            f"byte {why.start + 1} (0x{raw[why.start]:02x}) is not UTF-8",
            where=f"{name}:{line}",
            remedy="save the file as UTF-8",
        ) from why


def shown(path: Path) -> str:
    """Relative to the working directory where it lies inside; control characters as escapes."""
    full = Path(path).absolute()
    short = full.relative_to(Path.cwd()) if full.is_relative_to(Path.cwd()) else full
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(short))
