"""Arithmetic on next-token scores: several streams become one distribution. Array-neutral, and imports no engine."""
