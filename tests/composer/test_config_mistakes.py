"""Mistakes in experts.yaml: each is told with its line, its path and a remedy."""

from __future__ import annotations

import pytest
from registry_texts import GENERAL, MODEL, REGISTRY, SHA, Load, told

IN_A_MODEL = {
    "misspelt key": ("contxt: 5", "contxt", "unknown key `contxt`", "did you mean `context`?"),
    "text for a number": ("context: many", "context", "found 'many', expected a whole number", "`context: 2048`"),
    "quoted number": ('context: "2048"', "context", "found '2048'", "remove the quotes: 2048"),
    "fraction": ("slots: 2.5", "slots", "found 2.5, expected a whole number", "`slots: 8`"),
    "too small": ("context: 1", "context", "found 1, expected a number greater than or equal to 16", "2048"),
    "no for false": ("completion: no", "completion", "`no` is text in YAML 1.2", "write false"),
    "yes for true": ("completion: Yes", "completion", "`Yes` is text in YAML 1.2", "write true"),
    "on for true": ("completion: on", "completion", "`on` is text in YAML 1.2", "write true"),
    "off for false": ("completion: off", "completion", "`off` is text in YAML 1.2", "write false"),
    "quoted boolean": ('completion: "false"', "completion", "`false` is text", "write false, unquoted"),
    "number for text": ("base: 1.10", "base", "found 1.1, expected text", "quote what is meant as text"),
    "boolean for text": ("base: true", "base", "found true, expected text", "quote what is meant as text"),
    "nothing": ("engine:", "engine", "found nothing, expected text", "`engine: llamacpp`"),
    "size without unit": ("memory: 350M", "memory", "'350M' is no size", "350MiB"),
    "number for a size": ("memory: 350", "memory", "found 350, expected text", "`memory: 350MiB`"),
    "half a price": ("price: {in: 1}", "price.out", "`out` is missing", "`out: 0.6`"),
    "no number at all": ("price: {in: .nan, out: 1}", "price.in", "expected a finite number", "`in: 0.15`"),
    "text for a mapping": ("price: free", "price", "found 'free', expected a mapping", "`price: {in: 0.0, out: 0.0}`"),
    "list for a mapping": ("sampling: [1]", "sampling", "found a list of 1, expected a mapping", "max_tokens"),
    "number in a list": ("sampling: {stop: [a, 1]}", "sampling.stop[1]", "found 1, expected text", "quote"),
    "nested option": ("options: {a: [1]}", "options.a", "found a list of 1", "for example"),
    "completion with template": (
        "completion: true\n    template: t.jinja",
        "template",
        "no chat template",
        "remove one",
    ),
}


@pytest.mark.parametrize(("line", "at", "what", "remedy"), IN_A_MODEL.values(), ids=IN_A_MODEL)
def test_a_mistake_in_a_model_names_line_path_and_remedy(
    load: Load, line: str, at: str, what: str, remedy: str
) -> None:
    error = told(load, REGISTRY.replace(MODEL, f"{MODEL}    {line}\n"))

    number = 5 if "\n" in line else 4
    assert error.where == f"experts.yaml:{number} (models.small.{at})"
    assert what in error.what
    assert remedy in str(error.remedy)


IN_THE_EXPERTS = {
    "unknown model": (
        GENERAL,
        "general: {model: smal}",
        "6 (experts.general.model)",
        "no model is called 'smal'",
        "`small`",
    ),
    "unknown kind": (
        GENERAL,
        "general: {model: small, answers: numbr}",
        "6 (experts.general.answers)",
        "'number', 'choice', 'list', 'set', 'json', 'math', 'code' or 'text'",
        "did you mean `number`?",
    ),
    "case twins": (
        GENERAL,
        f"{GENERAL}\n  General: {{model: small}}",
        "7 (experts.General)",
        "differs only by case from `general` on line 6",
        "rename",
    ),
    "same name twice": (GENERAL, f"{GENERAL}\n  {GENERAL}", "7 (experts.general)", "on line 6 and on line 7", "rename"),
    "number as name": (GENERAL, "1.10: {model: small}", "6 (experts)", "`1.10` is a number", 'quote it: "1.10"'),
    "boolean as name": (GENERAL, "true: {model: small}", "6 (experts)", "`true` is a boolean", 'quote it: "true"'),
    "path as name": (GENERAL, "a/b: {model: small}", "6 (experts.a/b)", "'a/b' is no name", "rename"),
    "two generalists": (
        GENERAL,
        "a: {model: small, generalist: true}\n  b: {model: small, generalist: true}",
        "7 (experts.b.generalist)",
        "`a` is one already",
        "keep one",
    ),
    "no generalist": (
        GENERAL,
        "a: {model: small, generalist: false}",
        "5 (experts)",
        "no expert is the generalist",
        "write",
    ),
    "empty expert": (GENERAL, "general:", "6 (experts.general)", "found nothing", "`general: {model: smollm2}`"),
    "answers fill the context": (
        GENERAL,
        "general: {model: small, sampling: {max_tokens: 2048}}",
        "6 (experts.general.sampling.max_tokens)",
        "leave no room",
        "`context`",
    ),
    "adapter without sha256": (
        f", sha256: {SHA}}}",
        "}",
        "9 (experts.law.adapter.sha256)",
        "`sha256` is missing",
        "add",
    ),
    "adapter of nothing": (
        f"path: law.gguf, sha256: {SHA}",
        "",
        "9 (experts.law.adapter)",
        "expected one of `path`, `sum` and `cross`, found nothing",
        "keep one",
    ),
    "adapter of two kinds": (
        f"sha256: {SHA}}}",
        "sum: {law: 1}}",
        "9 (experts.law.adapter)",
        "found `path` and `sum`",
        "keep one",
    ),
    "file with a rank": (
        f"sha256: {SHA}}}",
        f"sha256: {SHA}, rank: 4}}",
        "9 (experts.law.adapter.rank)",
        "has the rank",
        "remove",
    ),
    "mixture of nobody": (
        f"path: law.gguf, sha256: {SHA}",
        "sum: {lwa: 1}",
        "9 (experts.law.adapter.sum.lwa)",
        "no expert is called 'lwa'",
        "law",
    ),
    "mixture of the bare model": (
        f"path: law.gguf, sha256: {SHA}",
        "cross: {general: 1}",
        "9 (experts.law.adapter.cross.general)",
        "general has no adapter with a `path`",
        "that have one",
    ),
    "mixture of itself": (
        f"path: law.gguf, sha256: {SHA}",
        "sum: {law: 1}",
        "9 (experts.law.adapter.sum.law)",
        "law has no adapter with a `path`",
        "that have one",
    ),
    "mixture with a pin": (
        f"path: law.gguf, sha256: {SHA}",
        f"sum: {{law: 1}}, sha256: {SHA}",
        "9 (experts.law.adapter.sha256)",
        "no file to pin",
        "remove",
    ),
    "empty mixture": (
        f"path: law.gguf, sha256: {SHA}",
        "sum: {}",
        "9 (experts.law.adapter.sum)",
        "expected 1 or more",
        "",
    ),
    "adapter as text": ("{path: law.gguf", "law.gguf #", "9 (experts.law.adapter)", "expected a mapping", "path: "),
    "adapter from a hub": ("law.gguf", "hf:a/b@c/d", "9 (experts.law.adapter.path)", "`hf:`", "default:file"),
    "short sha256": (f"    sha256: {SHA}", "    sha256: abc", "4 (models.small.sha256)", "64 lower-case hex", "sha256"),
    "model without sha256": (f"    sha256: {SHA}\n", "", "2 (models.small.sha256)", "missing", "sha256sum"),
    "model without sources": (MODEL, "", "2 (models.small.sources)", "nothing to load", "hf:owner/repo@revision/file"),
    "stage twice": ("use: aggregate", "use: decide", "12 (pipeline[1].use)", "stands twice", "remove"),
    "misspelt stage key": (
        "use: aggregate",
        "us: aggregate",
        "12 (pipeline[1].us)",
        "unknown key",
        "did you mean `use`?",
    ),
    "bare stage": ("use: aggregate", "aggregate", "12 (pipeline[1])", "found 'aggregate', expected a mapping", "use: "),
    "one stage": ("  - use: aggregate\n", "", "10 (pipeline)", "expected 2 or more", "pipeline"),
    "misspelt group": ("pipeline:", "pipelin:", "10 (pipelin)", "unknown key", "did you mean `pipeline`?"),
}


@pytest.mark.parametrize(("old", "new", "at", "what", "remedy"), IN_THE_EXPERTS.values(), ids=IN_THE_EXPERTS)
def test_a_mistake_among_the_experts_names_line_path_and_remedy(
    load: Load, old: str, new: str, at: str, what: str, remedy: str
) -> None:
    assert old in REGISTRY

    error = told(load, REGISTRY.replace(old, new, 1))

    assert error.where == f"experts.yaml:{at}"
    assert what in error.what
    assert remedy in str(error.remedy)


def test_several_mistakes_are_all_placed(load: Load) -> None:
    error = told(load, REGISTRY.replace(MODEL, MODEL + "    slots: x\n    threads: y\n"))

    assert error.where == "experts.yaml:4 (models.small.slots)"
    assert "also wrong: experts.yaml:5 (models.small.threads)" in error.what


def test_an_unknown_key_does_not_repeat_its_value(load: Load) -> None:
    error = told(load, REGISTRY.replace(MODEL, MODEL + "    api_key: sk-canary-123\n"))

    assert "canary" not in str(error)
