"""The cross-encoder: what its scores are, what it is refused for, and what a search with it gives."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from composer.cli import app
from composer.config import PACKAGED, load_settings
from composer.errors import ConfigError, PassageError
from composer.registry.experts import Registry
from composer.registry.indexes import content_sha
from composer.retrieval.build import build
from composer.retrieval.index import PassageIndex
from composer.retrieval.rerank import CrossEncoder
from composer.settings.specs import Settings
from routers.testing import HashEncoder
from tests.composer.overlap import write_overlap
from tests.composer.scripted import THREE

WEIGHTS = {"valve": 1.0, "opens": 4.0, "bar": 2.0, "pump": 0.5, "bird": 3.0}
NOTES = {
    "many.txt": "Valve valve valve. A valve is a valve.",
    "best.txt": "It opens at seven bar, unlike what is said of others of its kind in older books on the matter.",
    "other.txt": "A bird.",
}
QUESTION = "A valve opens"


@pytest.fixture
def overlap(tmp_path: Path) -> CrossEncoder:
    write_overlap(tmp_path / "overlap", WEIGHTS)
    return CrossEncoder.open(tmp_path / "overlap" / "model.onnx", tmp_path / "overlap" / "tokenizer.json")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    source = tmp_path / "sources"
    source.mkdir()
    for name, text in NOTES.items():
        (source / name).write_text(text, encoding="utf-8")
    build(source, tmp_path / "notes", HashEncoder(), lambda texts: [[len(text)] for text in texts])
    return tmp_path / "notes"


def test_a_pair_is_read_together(overlap: CrossEncoder) -> None:
    assert overlap.score("valve opens", ["the pump opens", "a valve", "VALVE opens", "", "bar"]) == pytest.approx(
        [4, 1, 5, 0, 0]
    )
    assert overlap.score("opens", ["opens opens"]) == pytest.approx([4]), "a word of the text counts once"
    assert overlap.score("valve", []).shape == (0,)
    assert overlap.score("half a pair \ud83d valve", ["valve \ud83d"]) == pytest.approx([1])


def test_a_score_is_the_same_alone_and_among_others_of_every_length(overlap: CrossEncoder) -> None:
    texts = [" ".join(["valve", *["x"] * length, "opens"]) for length in (0, 3, 90, 300, 1)] * 9
    together = overlap.score("opens valve bird", texts)
    assert together == pytest.approx([5] * len(texts))
    assert np.array_equal(together, np.concatenate([overlap.score("opens valve bird", [text]) for text in texts]))


def test_two_logits_give_their_difference(tmp_path: Path, overlap: CrossEncoder) -> None:
    write_overlap(tmp_path / "two", WEIGHTS, logits=2, output="class")
    two = CrossEncoder.open(tmp_path / "two" / "model.onnx", tmp_path / "two" / "tokenizer.json")
    texts = list(NOTES.values())
    assert two.score(QUESTION, texts) == pytest.approx(overlap.score(QUESTION, texts))


def test_what_is_too_long_is_cut_at_its_longer_side(tmp_path: Path, overlap: CrossEncoder) -> None:
    assert overlap.score("valve", ["x " * 507 + "valve", "x " * 508 + "valve"]) == pytest.approx([1, 0]), "512 in all"
    assert overlap.score("x " * 900 + "valve", ["valve"]) == pytest.approx([0])
    assert overlap.score("valve " + "x " * 900, ["valve"]) == pytest.approx([1])
    tokens = json.loads(overlap.tokenizer.read_text(encoding="utf-8"))
    tokens["truncation"] = {"max_length": 6, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (tmp_path / "short.json").write_text(json.dumps(tokens), encoding="utf-8")
    short = CrossEncoder.open(overlap.model, tmp_path / "short.json")
    assert short.score("valve", ["x valve", "x x valve"]) == pytest.approx([1, 0]), "six in all, as its file says"


def test_what_is_no_cross_encoder_is_told_when_it_is_opened(
    packaged: Registry, tmp_path: Path, overlap: CrossEncoder
) -> None:
    encoder, tokenizer = packaged.encoder_files()
    with pytest.raises(PassageError, match=r"1 x \d+ x 384 numbers for 1 pairs") as error:
        CrossEncoder.open(encoder, tokenizer)
    assert "reranker:" in str(error.value)
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(PassageError, match=r"bad\.onnx is not an ONNX model"):
        CrossEncoder.open(tmp_path / "bad.onnx", overlap.tokenizer)
    with pytest.raises(PassageError, match=r"gone\.json is missing"):
        CrossEncoder.open(overlap.model, tmp_path / "gone.json")
    write_overlap(tmp_path / "nan", dict.fromkeys(WEIGHTS, float("nan")))
    broken = CrossEncoder.open(tmp_path / "nan" / "model.onnx", tmp_path / "nan" / "tokenizer.json")
    with pytest.raises(PassageError, match="one or two finite ones each"):
        broken.score("valve", ["valve"])
    with pytest.raises(PassageError, match="cannot be run"):  # its tokens are beyond the model's table
        CrossEncoder.open(overlap.model, tokenizer)


def test_the_best_are_ordered_anew_and_the_others_stay_behind_them(overlap: CrossEncoder, notes: Path) -> None:
    with PassageIndex.open(notes, HashEncoder(), overlap) as index:
        (fused,) = index.search([QUESTION], 3)
        (anew,) = index.search([QUESTION], 3, rerank=3)
        (two,) = index.search([QUESTION], 3, rerank=2)
        (top,) = index.search([QUESTION, "bird"], 1, rerank=20)[:1]
    names = [hit.passage.document for hit in anew]
    assert [hit.cross for hit in fused] == [None] * 3
    assert {hit.passage.document: hit.cross for hit in anew} == pytest.approx(
        {"best.txt": 4, "many.txt": 1, "other.txt": 0}
    )
    assert names == ["best.txt", "many.txt", "other.txt"]
    assert [hit.passage.document for hit in fused] != names
    assert sorted(two[:2], key=lambda hit: -(hit.cross or 0)) == list(two[:2])
    assert {hit.passage.id for hit in two[:2]} == {hit.passage.id for hit in fused[:2]}
    assert two[2] == fused[2]
    assert top == anew[:1], "more are read than are asked for"
    by_id = {hit.passage.id: hit for hit in fused}
    assert all(
        (hit.score, hit.by_words) == (by_id[hit.passage.id].score, by_id[hit.passage.id].by_words) for hit in anew
    )


def test_an_index_without_a_cross_encoder_says_so(notes: Path) -> None:
    with PassageIndex.open(notes, HashEncoder()) as index, pytest.raises(PassageError, match="no cross-encoder"):
        index.search([QUESTION], rerank=5)


def registry_with(folder: Path, evidence: str, sha256: str) -> Settings:
    (folder / "experts.yaml").write_text(
        f"{THREE}reranker: {{sources: [overlap/model.onnx], sha256: {sha256}, tokenizer: overlap/tokenizer.json}}\n"
        f"evidence:\n  notes: {{index: ./notes, {evidence}}}\n"
        "pipeline: [{use: decide}, {use: retrieve}, {use: generate}, {use: verify}, {use: aggregate}]\n",
        encoding="utf-8",
    )
    return load_settings(folder / "experts.yaml")


def test_an_arm_has_another_record_with_another_order(overlap: CrossEncoder, notes: Path, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(overlap.model.read_bytes()).hexdigest()

    def prints(evidence: str, sha256: str = sha256) -> tuple[str, str, str]:
        settings = registry_with(tmp_path, f"k: 2, experts: [law]{evidence}", sha256)
        found = Registry(settings).prints()
        return found["law"], found["law+notes"], content_sha(settings)

    first = prints("")
    shown = [prints(", rerank: true"), prints(", rerank: 5"), prints(", rerank: true", "0" * 64)]
    tokens = overlap.tokenizer.read_text(encoding="utf-8")
    overlap.tokenizer.write_text(f"{tokens}\n", encoding="utf-8")
    shown.append(prints(", rerank: true"))
    assert prints("") == (*prints(", rerank: false")[:2], prints("")[2]) == first, "a reranker that nobody uses"
    assert prints(", rerank: true")[1] == prints(", rerank: 20")[1]
    assert {plain for plain, _, _ in shown} == {first[0]}
    assert len({reading for _, reading, _ in [first, *shown]}) == 5
    assert len({content for _, _, content in [first, *shown]}) == 5
    overlap.tokenizer.unlink()
    with pytest.raises(ConfigError, match="tokenizer") as error:
        prints(", rerank: true")
    assert "(reranker.tokenizer)" in str(error.value)
    with pytest.raises(ConfigError, match="is not there") as error:
        Registry(registry_with(tmp_path, "rerank: true", sha256)).reranker_files()
    assert "(reranker.tokenizer)" in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("rerank: true", "declares no reranker"),
        ("rerank: 5", "declares no reranker"),
        ("rerank: 0", "rerank"),
        ("rerank: 101", "rerank"),
        ("rerank: all", "rerank"),
    ],
)
def test_rerank_without_a_reranker_is_told_by_its_line(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "experts.yaml"
    path.write_text(f"{THREE}evidence:\n  notes:\n    index: ./notes\n    {row}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        load_settings(path)
    line = len(path.read_text(encoding="utf-8").splitlines())
    assert error.value.where == f"{path}:{line} (evidence.notes.rerank)"
    if message != "rerank":
        assert error.value.remedy is not None and "reranker:" in error.value.remedy


def test_the_command_shows_the_score_and_says_what_is_missing(
    overlap: CrossEncoder, notes: Path, tmp_path: Path
) -> None:
    sha256 = hashlib.sha256(overlap.model.read_bytes()).hexdigest()
    packaged = (PACKAGED.parents[1] / "experts.yaml").read_text(encoding="utf-8")
    config = tmp_path / "experts.yaml"
    config.write_text(packaged, encoding="utf-8")
    built = CliRunner().invoke(app, ["index", "build", str(tmp_path / "real"), str(tmp_path / "sources")])
    assert built.exit_code == 0, built.output
    words = ["index", "search", str(tmp_path / "real"), QUESTION, "--rerank", "--config", str(config)]
    with pytest.raises(ConfigError, match="declares none"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    block = f"reranker: {{sources: [overlap/model.onnx], sha256: {sha256}, tokenizer: overlap/tokenizer.json}}\n"
    config.write_text(packaged + block, encoding="utf-8")
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert [(hit["document"], hit["cross_encoder"]) for hit in found] == [
        ("best.txt", 4.0),
        ("many.txt", 1.0),
        ("other.txt", 0.0),
    ]
    assert "cross-encoder 4.00" in CliRunner().invoke(app, words).stdout.splitlines()[0]
    plain = json.loads(CliRunner().invoke(app, [*[word for word in words if word != "--rerank"], "--json"]).stdout)
    assert [hit["cross_encoder"] for hit in plain] == [None] * 3
