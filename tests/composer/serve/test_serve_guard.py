"""Who comes in: keys on every route, Host names, sizes; and the socket, whoever has it already."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted import ONE, Scripted
from served import KEY, LIMITS, ask, chat, guarded, served
from starlette.routing import Route

from composer.errors import ConfigError, ServeError
from composer.serve.app import build
from composer.serve.guard import Guard, Keys, is_loopback, read_keys
from composer.serve.port import bind
from composer.serve.server import limits_of, serve

OPEN = {"authorization": f"Bearer {KEY}"}


async def test_no_route_answers_without_the_key(bench: Scripted) -> None:
    async with served(bench.pipeline(ONE), keys=Keys([KEY])) as (client, door):
        routes = [(route.path, sorted(route.methods or ())) for route in build(door).routes if isinstance(route, Route)]
        paths = [path.replace("{name}", "auto") for path, _ in routes] + [
            *("/", "/docs", "/redoc", "/openapi.json", "/metrics/", "//metrics", "/%2e%2e/metrics", "/v1", "/admin"),
            *("/v1/completions", "/v1/embeddings", "/favicon.ico", "/healthz?key=x"),
        ]
        for path in paths:
            for method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE"):
                told = await client.request(method, path)
                assert told.status_code == 401, (method, path)
                assert told.headers["www-authenticate"] == "Bearer"
        opened = {path: (await client.get(path, headers=OPEN)).status_code for path in paths}

    assert len(routes) == 6
    assert opened["/v1/models"] == opened["/healthz"] == opened["/readyz"] == opened["/metrics"] == 200
    assert (opened["/v1/chat/completions"], opened["/docs"], opened["/openapi.json"]) == (405, 404, 404)


@pytest.mark.parametrize(
    "told", [f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer", "", f"Bearer {KEY}é"]
)
def test_only_the_whole_key_opens(told: str) -> None:
    keys = Keys(["x" * 30, KEY])

    assert keys.caller(told) is None
    assert keys.caller(f"bearer {KEY}")
    assert KEY not in repr(vars(keys))


def test_keys_come_from_a_file_and_the_environment_and_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}  # Ann's\n\n")
    monkeypatch.setenv("COE_API_KEY", "e" * 30)

    keys = read_keys(file)

    assert keys.caller(f"Bearer {KEY}") and keys.caller(f"Bearer {'e' * 30}")
    assert "COE_API_KEY" not in os.environ
    assert not read_keys(None)


@pytest.mark.parametrize(("text", "line"), [("short\n", ":1"), (f"{KEY}\nwith blank {KEY}\n", ":2"), ("# none\n", "")])
def test_a_weak_key_is_refused_and_never_repeated(tmp_path: Path, text: str, line: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)

    with pytest.raises(ConfigError) as refused:
        read_keys(file)

    assert refused.value.where == f"{file}{line}" and "secrets.token_urlsafe" in (refused.value.remedy or "")
    assert "short" not in str(refused.value) and KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "any_address", "status"),
    [
        ("coe", False, 200),
        ("COE:8000", False, 200),
        ("evil.example", False, 421),
        ("evil.example:8000", True, 421),
        ("coe.evil.example", False, 421),
        ("192.0.2.7:8000", False, 421),
        ("192.0.2.7:8000", True, 200),
        ("[2001:db8::1]:8000", True, 200),
        ("", True, 421),
        ("coe:x", False, 421),
        ("coe@evil.example", False, 421),
        ("[::1", True, 421),
        ("[::1]@evil.example", True, 421),
    ],
)
async def test_foreign_host_names_are_misdirected(bench: Scripted, host: str, any_address: bool, status: int) -> None:
    async with guarded(bench.pipeline(ONE)) as (_, door):
        app = Guard(build(door), door, Keys(), {"coe"}, LIMITS, any_address=any_address)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            told = await client.get("/healthz", headers={"host": host, "origin": "http://evil.example"})

    assert told.status_code == status
    assert not [name for name in told.headers if name.startswith("access-control")]


@pytest.mark.parametrize("stream", [False, True])
async def test_no_web_page_may_read_an_answer(bench: Scripted, stream: bool) -> None:
    evil = {"origin": "http://evil.example"}
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    async with served(bench.pipeline(ONE)) as (client, _):
        told = [
            await client.post("/v1/chat/completions", json=ask(stream=stream), headers=evil),
            await client.post("/v1/chat/completions", json=ask("nobody"), headers=evil),
            await client.options("/v1/chat/completions", headers=evil | asks),
            *[await client.get(path, headers=evil) for path in ("/v1/models", "/metrics", "/readyz", "/nowhere")],
        ]

    assert [one.status_code for one in told] == [200, 404, 405, 200, 200, 200, 404]
    assert not [name for one in told for name in one.headers if name.startswith("access-control")]


async def test_a_foreign_host_name_is_misdirected_on_every_path_with_and_without_a_key(bench: Scripted) -> None:
    async with served(bench.pipeline(ONE), keys=Keys([KEY])) as (client, door):
        paths = [route.path.replace("{name}", "auto") for route in build(door).routes if isinstance(route, Route)]
        told = [
            await client.request(method, path, headers={"host": "evil.example", **key})
            for path in [*paths, "/nowhere"]
            for method in ("GET", "POST", "HEAD", "OPTIONS")
            for key in ({}, OPEN)
        ]

    assert {one.status_code for one in told} == {421}


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{" + b" " * LIMITS.bytes, "application/json", 413),
        (b'{"model": "auto"}', "text/plain", 415),
        (b'{"model": "auto"}', "application/x-www-form-urlencoded", 415),
        (b'{"model": "auto"}', "application/json; charset=utf-8", 400),
        (b"[" * 100_000, "application/json", 400),
    ],
)
async def test_bodies_are_bounded_and_json(bench: Scripted, body: bytes, kind: str, status: int) -> None:
    async def pieces() -> Any:  # without a length beforehand
        yield body

    async with served(bench.pipeline(ONE)) as (client, _):
        for content in (body, pieces()):
            told = await client.post("/v1/chat/completions", content=content, headers={"content-type": kind})
            assert told.status_code == status
            assert told.json()["error"]["message"]


async def test_headers_are_bounded(bench: Scripted) -> None:
    async with served(bench.pipeline(ONE)) as (client, _):
        told = await client.get("/healthz", headers={f"x-{i}": "y" for i in range(LIMITS.headers)})

    assert (told.status_code, told.json()["error"]["code"]) == (431, "too_many_headers")


async def test_an_unknown_model_is_404_and_nothing_is_asked(bench: Scripted) -> None:
    async with served(bench.pipeline(ONE)) as (client, _):
        told = await chat(client, ask("../../etc/passwd"))

    assert (told.status_code, told.json()["error"]["code"]) == (404, "model_not_found")
    assert bench.engines == []


# The address


def test_an_address_that_others_reach_needs_a_key(bench: Scripted) -> None:
    pipeline = bench.pipeline(ONE)

    for host in ("0.0.0.0", "::", "192.0.2.7", "example.org"):
        with pytest.raises(ConfigError, match="no key") as refused:
            serve(pipeline, Keys(), host=host, port=0, limits=limits_of(pipeline.settings), say=print)
        assert "--api-key-file" in (refused.value.remedy or "")


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("127.8.8.8", True), ("LOCALHOST", True), ("0.0.0.0", False), ("x", False)]
)
def test_loopback_is_what_only_this_machine_reaches(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_a_port_in_use_names_its_holder_and_a_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(ServeError) as refused:
            bind("127.0.0.1", port)

    assert refused.value.what == f"port {port} of 127.0.0.1 is in use by process {os.getpid()} " + (
        f"({Path('/proc/self/comm').read_text().strip()})"
    )
    free = int((refused.value.remedy or "").rpartition(" ")[2])
    assert port < free < port + 50
    bind("127.0.0.1", port).close()


def test_an_address_of_another_machine_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"192\.0\.2\.7"):
        bind("192.0.2.7", 0)
    with pytest.raises(ConfigError, match="is no address"):
        bind("no such host", 0)
