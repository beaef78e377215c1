"""Measures systems on benchmarks: `coe eval …`. Nothing below imports it."""

__all__: list[str] = []
