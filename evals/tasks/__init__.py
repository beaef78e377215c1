"""Benchmarks and the questions of the default skills; importing this loads nothing."""
