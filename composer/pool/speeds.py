"""How fast this machine is: plain numbers, None where nobody has measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HostSpeed:
    """Tokens per second of one host: `prefill` reading a prompt, writing alone (`decode_one`) and with all `slots` in use
    (`decode`, together). `load` is the seconds to open it, `memory` the bytes it then held."""

    prefill: float
    decode_one: float
    decode: float
    slots: int
    load: float
    memory: int

    def decode_rate(self, calls: int) -> float:
        """Tokens per second of that many calls together: between the two that were measured, in proportion."""
        full = min(calls, self.slots)
        share = (full - 1) / (self.slots - 1) if self.slots > 1 else 1.0
        return self.decode_one + (self.decode - self.decode_one) * share

    def work_seconds(self, calls: int, tokens_in: float, tokens_out: float) -> float:
        """Seconds for `calls` that read and write so many tokens together."""
        return tokens_in / self.prefill + tokens_out / self.decode_rate(calls) if calls else 0.0


@dataclass(frozen=True, slots=True)
class Speeds:
    """What `calibrate` measured on this machine: per host, and `start` seconds plus `per_gb` for any other's load."""

    start: float
    per_gb: float
    hosts: Mapping[str, HostSpeed] = field(default_factory=dict[str, HostSpeed])

    def load_seconds(self, host: str, memory: int) -> float:
        """Seconds to open a host of `memory` bytes: as measured, else by its size."""
        speed = self.hosts.get(host)
        return speed.load if speed is not None else self.start + self.per_gb * memory / 1e9
