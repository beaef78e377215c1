"""Bases of other vocabularies are refused by what lies on this machine, before anything is opened."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import pytest

from composer.errors import ConfigError
from composer.pipeline import Pipeline

TOKENS = [f"token{i}" for i in range(300)]


def gguf_file(path: Path, tokens: list[str]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def folder(path: Path, vocab: Any, added: list[dict[str, Any]]) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")
    told = {"model": {"type": "BPE", "vocab": vocab}, "added_tokens": added}
    (path / "tokenizer.json").write_text(json.dumps(told))


def pipeline(tmp_path: Path, engine: str, ending: str) -> Pipeline:
    """`large` against `small`, which lie beside the registry (or not)."""
    models = "".join(
        f"  {name}: {{engine: {engine}, sources: [./{name}{ending}], sha256: {letter * 64}, memory: 1MiB}}\n"
        for name, letter in (("large", "a"), ("small", "b"))
    )
    experts = "experts:\n  general: {model: large}\n  mini: {model: small}\n"
    place = tmp_path / "experts.yaml"
    place.write_text(f"models:\n{models}{experts}contrasts:\n  c: {{against: mini, arms: [general]}}\n")
    return Pipeline.from_file(place)


def test_gguf_files_are_compared_whole(tmp_path: Path) -> None:
    assert pipeline(tmp_path, "llamacpp", ".gguf").settings.contrasting  # nothing is here: nobody knows
    gguf_file(tmp_path / "large.gguf", TOKENS)
    assert pipeline(tmp_path, "llamacpp", ".gguf").settings.contrasting  # one is
    gguf_file(tmp_path / "small.gguf", [*TOKENS, "[PAD300]"])
    assert pipeline(tmp_path, "llamacpp", ".gguf").settings.contrasting

    gguf_file(tmp_path / "small.gguf", [*TOKENS[:7], "other", *TOKENS[8:]])
    with pytest.raises(ConfigError, match="token 7 is 'token7' to large and 'other' to small") as refused:
        pipeline(tmp_path, "llamacpp", ".gguf")
    assert "(contrasts.c)" in (refused.value.where or "")
    assert "one family" in (refused.value.remedy or "")

    gguf_file(tmp_path / "small.gguf", [*TOKENS, "more"])
    with pytest.raises(ConfigError, match="small has a token 300, 'more', that not all have"):
        pipeline(tmp_path, "llamacpp", ".gguf")

    (tmp_path / "small.gguf").write_bytes(b"GGUF and nothing after it")  # opening it says so
    assert pipeline(tmp_path, "llamacpp", ".gguf").settings.contrasting


@pytest.mark.parametrize("list_", [False, True], ids=["by token", "by id"])
def test_folders_are_compared_where_both_name_an_id(tmp_path: Path, list_: bool) -> None:
    def vocab(tokens: list[str]) -> Any:
        return [[token, -1.0] for token in tokens] if list_ else {token: i for i, token in enumerate(tokens)}

    folder(tmp_path / "large", vocab(TOKENS), [{"id": 300, "content": "<end>"}])
    folder(tmp_path / "same", vocab(TOKENS), [{"id": 302, "content": "<more>"}])  # other files may add what is missing
    (tmp_path / "same").rename(tmp_path / "small")
    assert pipeline(tmp_path, "transformers", "").settings.contrasting

    (tmp_path / "small").rename(tmp_path / "same")
    folder(tmp_path / "small", vocab(TOKENS), [{"id": 300, "content": "<stop>"}])
    with pytest.raises(ConfigError, match="token 300 is '<end>' to large and '<stop>' to small"):
        pipeline(tmp_path, "transformers", "")

    for nothing in (
        "",
        "[]",
        '{"model": {}}',
        '{"model": {"vocab": {"a": 999999999}}}',
        '{"model": {"vocab": {"a": -1}}}',
        '{"model": {"vocab": {"a": Infinity}}}',
    ):
        (tmp_path / "small" / "tokenizer.json").write_text(nothing)
        assert pipeline(tmp_path, "transformers", "").settings.contrasting  # opening it compares, or says what is wrong


def test_a_contrast_on_one_base_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = tmp_path / "a.gguf"
    adapter.write_bytes(b"adapter")
    sha = hashlib.sha256(b"adapter").hexdigest()
    (tmp_path / "experts.yaml").write_text(
        f"models:\n  large: {{sources: [./large.gguf], sha256: {'a' * 64}, memory: 1MiB}}\n"
        f"experts:\n  general: {{model: large}}\n  sums: {{model: large, adapter: {{path: a.gguf, sha256: {sha}}}}}\n"
        "contrasts:\n  c: {against: base}\n"
    )
    gguf_file(tmp_path / "large.gguf", TOKENS)
    monkeypatch.setattr("composer.registry.vocabularies.read_tokens", lambda _: pytest.fail("it was read"))
    assert Pipeline.from_file(tmp_path / "experts.yaml").settings.contrasting
