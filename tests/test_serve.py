"""`coe serve` as a user meets it: the official client, real models, a real process; one base URL is all that changes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from composer.config import packaged_registry

KEY = "key-for-tests-0123456789"
PANEL = """
  panel:
    - {use: decide, options: {k: 2}}
    - use: generate
    - use: verify
    - {use: aggregate, options: {by: majority}}
"""
SUM = [{"role": "user", "content": "What is 47 + 38?"}]
ENDLESS = {"max_tokens": 1900, "temperature": 2.0, "top_p": 1.0}


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str

    def client(self, key: str = KEY, **options: object) -> openai.OpenAI:
        """The official client, told the base URL and the key."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, timeout=240, **options)  # type: ignore[arg-type]

    def hosts(self) -> list[int]:
        """Processes of ours that serve a model."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in task.read_text().split()]


def start(folder: Path, *words: str, **env: str) -> Server:
    """The command in a fresh process, once it serves."""
    code = "import sys; from composer.cli import main; sys.argv[0] = 'coe'; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--port", "0", *words],
        cwd=folder,
        env={**os.environ, "COE_STORE": str(folder / "drafts.sqlite"), **env},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"serving (http://\S+)/v1", line)
        if found:
            return Server(process, found[1])
    raise AssertionError(f"it ended with {process.wait()}")


@contextmanager
def serving(folder: Path, *words: str, **env: str) -> Iterator[Server]:
    server = start(folder, *words, **env)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
        server.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that leave it as it was, with a key and a pipeline by name."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "experts.yaml").write_text(packaged_registry().read_text().rstrip() + PANEL)
    with serving(folder, COE_API_KEY=KEY) as found:
        yield found


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_official_client_lists_the_models(server: Server) -> None:
    with server.client() as client:
        names = [model.id for model in client.models.list()]
        one = client.models.retrieve("arithmetic")

    assert names == ["auto", "general", "arithmetic", "sorting", "extraction", "units", "planned", "panel"]
    assert one.owned_by == "coe"


def test_the_official_client_gets_an_answer_and_is_told_whose(server: Server) -> None:
    with server.client() as client:
        told = client.chat.completions.create(model="auto", messages=SUM)

    assert told.choices[0].message.content == "47 + 38 = 85"
    assert told.choices[0].finish_reason == "stop"
    assert told.usage is not None and told.usage.completion_tokens > 3
    about = told.model_extra["x_coe"]
    assert (about["experts"], about["status"], about["answer"]) == (["arithmetic"], "ok", "85")
    assert about["trace_id"] and told._request_id == told.id


def test_the_official_client_reads_a_stream_as_it_is_written(server: Server) -> None:
    ask = [{"role": "user", "content": "Say the names of the days of the week."}]
    times: list[float] = []
    with server.client() as client:
        stream = client.chat.completions.create(
            model="general", messages=ask, stream=True, stream_options={"include_usage": True}, max_tokens=40
        )
        chunks = []
        for chunk in stream:
            chunks.append(chunk)
            times.append(time.monotonic())
        whole = client.chat.completions.create(model="general", messages=ask, max_tokens=40)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 10 and times[-1] - times[1] > 0.05
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage or whole.usage is not None


def test_the_documented_example_runs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "docs" / "serve.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]

    exec(code.replace("http://127.0.0.1:8000", server.url).replace('"none"', repr(KEY)), {})

    assert capsys.readouterr().out == "47 + 38 = 85 ['arithmetic']\n"


def test_a_conversation_reaches_the_expert(server: Server) -> None:
    turns = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And of Italy?"},
    ]
    with server.client() as client:
        told = client.chat.completions.create(model="general", messages=turns, max_tokens=20)

    assert "Rome" in (told.choices[0].message.content or "")


def test_a_named_pipeline_asks_several_and_sends_one_answer(server: Server) -> None:
    with server.client() as client:
        told = client.chat.completions.create(model="panel", messages=SUM)
        chunks = list(client.chat.completions.create(model="panel", messages=SUM, stream=True))

    assert len(told.model_extra["x_coe"]["experts"]) == 2
    assert told.choices[0].message.content
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert texts == [told.choices[0].message.content]


def test_several_draws_of_one_question(server: Server) -> None:
    with server.client() as client:
        told = client.chat.completions.create(
            model="general", messages=SUM, n=3, temperature=1.5, seed=1, max_tokens=12
        )
        again = client.chat.completions.create(
            model="general", messages=SUM, n=3, temperature=1.5, seed=1, max_tokens=12
        )

    texts = [choice.message.content for choice in told.choices]
    assert len(texts) == 3 and len(set(texts)) > 1
    assert {choice.finish_reason for choice in told.choices} <= {"stop", "length"}
    assert len(again.choices) == 3


def test_mistakes_come_as_the_clients_own_errors(server: Server) -> None:
    with server.client(max_retries=0) as client, server.client(key="wrong" * 6, max_retries=0) as stranger:
        with pytest.raises(openai.NotFoundError, match="no model is called 'gpt-4'"):
            client.chat.completions.create(model="gpt-4", messages=SUM)
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="auto", messages=SUM, logprobs=True)
        with pytest.raises(openai.BadRequestError) as unknown:
            client.chat.completions.create(model="auto", messages=SUM, extra_body={"api_base": "http://127.0.0.1:9"})
        with pytest.raises(openai.BadRequestError) as long:
            client.chat.completions.create(model="general", messages=[{"role": "user", "content": "word " * 3000}])
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()

    assert (refused.value.param, unknown.value.param) == ("logprobs", "api_base")
    assert long.value.code == "context_length_exceeded"


async def test_64_callers_at_once_are_all_answered(server: Server) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, timeout=240, max_retries=0) as client:
        told = await asyncio.gather(
            *(
                client.chat.completions.create(
                    model="auto" if i % 2 else "arithmetic",
                    messages=[{"role": "user", "content": f"What is {i + 11} + {i + 21}?"}],
                    max_tokens=6,
                )
                for i in range(64)
            )
        )

    answers = [one.choices[0].message.content or "" for one in told]
    # each begins with the sum that was asked: nobody got a neighbour's answer
    assert sum(answer.startswith(f"{i + 11} +") for i, answer in enumerate(answers)) >= 60
    assert len(server.hosts()) == 1


def test_health_and_readiness(server: Server) -> None:
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, timeout=120) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json()["status"] == "ready"
        assert client.get("/readyz", headers={"host": "evil.example"}).status_code == 421
    assert httpx.get(f"{server.url}/readyz").status_code == 401


def test_no_host_inherits_the_key(server: Server) -> None:
    with server.client() as client:
        client.chat.completions.create(model="general", messages=SUM, max_tokens=4)

    [host] = server.hosts()
    assert KEY.encode() not in Path(f"/proc/{host}/environ").read_bytes()


def test_a_reader_who_leaves_stops_the_engine(server: Server) -> None:
    ask = [{"role": "user", "content": f"Write a long story. {time.time()}"}]
    with server.client() as client:
        stream = client.chat.completions.create(model="general", messages=ask, stream=True, **ENDLESS)  # type: ignore[call-overload]
        for _, chunk in zip(range(5), stream, strict=False):
            assert chunk.choices[0].finish_reason is None
        stream.close()
    [host] = server.hosts()
    deadline = time.monotonic() + 20
    idle = False
    while not idle and time.monotonic() < deadline:
        before = cpu_seconds(host)
        time.sleep(0.5)
        idle = cpu_seconds(host) - before < 0.1

    assert idle


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_answers_end_and_leaves_nothing_running(tmp_path: Path, which: signal.Signals, code: int) -> None:
    server = start(tmp_path)
    with server.client(max_retries=0) as client, ThreadPoolExecutor(1) as pool:
        client.chat.completions.create(model="general", messages=SUM, max_tokens=4)
        hosts = server.hosts()
        asked = pool.submit(
            client.chat.completions.create, model="general", messages=SUM, max_tokens=60, temperature=2.0
        )
        time.sleep(0.3)
        server.process.send_signal(which)
        whole = asked.result()
    said = server.process.communicate(timeout=30)[1]

    assert whole.choices[0].finish_reason in ("stop", "length")
    assert server.process.returncode == code
    assert "stopping" in said and "Traceback" not in said
    assert hosts and not any(Path(f"/proc/{pid}").exists() for pid in hosts)
    assert not list((tmp_path / "locks").glob("*"))


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    server = start(tmp_path)
    with server.client(max_retries=0) as client, ThreadPoolExecutor(1) as pool:
        client.chat.completions.create(model="general", messages=SUM, max_tokens=4)
        hosts = server.hosts()
        asked = pool.submit(client.chat.completions.create, model="general", messages=SUM, **ENDLESS)  # type: ignore[arg-type]
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        said = server.process.communicate(timeout=30)[1]
        took = time.monotonic() - began
        with pytest.raises(openai.APIError):
            asked.result()

    assert took < 3 and server.process.returncode == 143
    assert "Traceback" not in said
    assert hosts and not any(Path(f"/proc/{pid}").exists() for pid in hosts)


def test_an_open_address_without_a_key_is_refused(tmp_path: Path) -> None:
    code = "import sys; from composer.cli import main; sys.argv = ['coe', 'serve', '--host', '0.0.0.0']; main()"

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert "can be reached from other machines" in done.stderr and "--api-key-file" in done.stderr


def test_what_was_served_can_be_replayed_byte_by_byte(tmp_path: Path) -> None:
    with serving(tmp_path, "--offline", COE_API_KEY=KEY) as server:
        said = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Good morning!"},
            {"role": "assistant", "content": "Good morning."},
            *SUM,
        ]
        wish: dict[str, object] = {"temperature": 0.7, "seed": 3, "max_tokens": 20}
        reply = server.client().chat.completions.create(model="general", messages=said, **wish)  # type: ignore[call-overload]
        trace = reply.model_dump()["x_coe"]["trace_id"]
    code = "import sys; from composer.cli import main; sys.argv[0] = 'coe'; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "replay", trace, "--json"],
        env={**os.environ, "COE_STORE": str(tmp_path / "drafts.sqlite")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["equal"] is True
