"""What a machine of scripted hosts is like, and how often what of it breaks (R31)."""

from __future__ import annotations

import random
from dataclasses import dataclass

from composer.types import Caps

CLOSING = 0.5  # seconds that the end of a host may take


@dataclass(frozen=True, slots=True)
class Nature:
    """What kind of machine it is, and how often what breaks: shares of the calls, of the openings, of the store's tasks.

    `deaf` engines know no deadline; `grows` are the bytes a host takes above its estimate.
    """

    caps: Caps
    memory: int
    copies: int
    at_once: int
    patience: float
    opening: float
    word: float  # seconds
    closing: float
    store: float
    deaf: bool
    grows: dict[str, int]
    killed: float
    deadly: float
    hangs: float
    slow: float
    noise: float
    cut: float
    bug: float
    refuses: float  # to open
    missing: float  # files
    full: float  # the store

    @property
    def calm(self) -> bool:
        """Whether nothing breaks by itself."""
        return not any((self.killed, self.deadly, self.hangs, self.noise, self.cut, self.bug, self.refuses))


def nature(chance: random.Random) -> Nature:
    """A machine drawn at random; most have one or two faults, and one in five has none."""

    def often(*shares: float) -> float:
        return chance.choice(shares) if chance.random() < fault else 0.0

    fault, live = chance.choice([0.0, 0.2, 0.2, 0.4, 0.8]), chance.random() < 0.2
    return Nature(
        caps=Caps(
            contrast=True,
            slots=chance.randint(1, 4),
            mixed_adapters=chance.random() < 0.3,
            adapters="live" if live else "fixed",
            adapter_slots=chance.choice([1, 2, None]) if live else None,
        ),
        memory=chance.choice([90, 110, 130, 190, 250, 400]),
        copies=chance.choice([1, 1, 2, 3]),
        at_once=chance.choice([1, 1, 2, 3]),
        patience=chance.choice([0.5, 5.0, 30.0]),
        opening=chance.choice([0.0, 0.5, 5.0]),
        word=chance.choice([0.0, 0.05, 0.5]),
        closing=chance.choice([0.0, CLOSING]),
        store=chance.choice([0.0, 0.002, 0.05, 1.0]),
        deaf=chance.random() < 0.2,
        grows={chance.choice("abc"): chance.randint(1, 80)} if chance.random() < 0.2 else {},
        killed=often(0.1, 0.5),
        deadly=often(0.02, 0.2),
        hangs=often(0.05),
        slow=often(0.1),
        noise=often(0.05, 0.3),
        cut=often(0.05),
        bug=often(0.02),
        refuses=often(0.1, 0.5),
        missing=often(0.05),
        full=often(0.03),
    )
