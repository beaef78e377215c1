"""Typer commands: parse, call, print. `composer.cli` joins them."""
