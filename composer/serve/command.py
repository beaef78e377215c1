"""The verb `coe serve`: parses, calls, prints. Everything else is imported when it runs."""

# ruff: noqa: PLC0415
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    host: Annotated[str, typer.Option(help="The address to serve; others than this machine's own need a key.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys that open the door, one per line (or one in COE_API_KEY).")
    ] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="Another name that clients call this server by.")] = None,
    queue: Annotated[int, typer.Option(min=1, help="Most answers under way; more are told to come back.")] = 256,
    each: Annotated[
        int | None, typer.Option(min=1, help="Most of these for one key (or for all, without keys); a quarter of them.")
    ] = None,
    deadline: Annotated[float, typer.Option(min=1, help="Most seconds of an answer.")] = 600,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that answers under way get when told to stop.")] = 10,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The registry file.")] = None,
    memory: Annotated[str | None, typer.Option(help="Most memory for resident models, such as 1GiB.")] = None,
    offline: Annotated[bool, typer.Option("--offline", envvar="COE_OFFLINE", help="Fetch nothing.")] = False,
) -> None:
    """Serve the experts to OpenAI's clients: set their base URL to http://127.0.0.1:8000/v1."""
    from composer.config import parse_size
    from composer.pipeline import Pipeline
    from composer.registry.progress import console_progress
    from composer.serve.guard import read_keys
    from composer.serve.server import limits_of
    from composer.serve.server import serve as serve_pipeline
    from composer.show import printable

    def say(text: str) -> None:
        typer.echo(printable(text), err=True)

    keys = read_keys(api_key_file)
    size = parse_size(memory, "--memory") if memory is not None else None
    pipeline = Pipeline.from_file(config, memory=size, offline=offline, progress=console_progress(), say=say)
    limits = limits_of(pipeline.settings, queue=queue, each=each, deadline=deadline, grace=grace)
    code = serve_pipeline(pipeline, keys, host=host, port=port, names=allow_host or (), limits=limits, say=say)
    raise typer.Exit(code)
