"""The index: what is found, what is read again, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import composer.retrieval.index as index_module
from composer.cli import app
from composer.errors import InputError, PassageError
from composer.registry.experts import Registry
from composer.registry.indexes import MANIFEST
from composer.retrieval.build import Built, build, dense_index, set_probes, token_offsets
from composer.retrieval.index import CORPUS, DENSE, MIDDLE, PassageIndex
from routers.embed import OnnxEncoder
from routers.types import Array

TOPICS = {
    "cats.txt": "A cat purrs when it is content. Cats sleep most of the day.",
    "ships.txt": "A ship is steered with a rudder. Sails catch the wind.",
    "bread.txt": "Bread is baked of flour and water. Yeast makes the dough rise.",
}


class Hashed:
    """Words as directions: a stand-in for the encoder in tests of what is read and kept, not of what is found."""

    dim = 64

    def __init__(self, name: str = "hashed", fail_after: int | None = None) -> None:
        self.fingerprint, self.fail_after, self.seen = name, fail_after, list[str]()

    def encode(self, texts: Sequence[str]) -> Array:
        found = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            if self.fail_after is not None and len(self.seen) >= self.fail_after:
                raise KeyboardInterrupt
            self.seen.append(text)
            for word in text.lower().split():
                found[row, int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.dim] += 1
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def words(texts: Sequence[str]) -> list[list[int]]:
    return [[place for place, char in enumerate(f"{text} ") if char == " "] for text in texts]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name, text in TOPICS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def built(source: Path, place: Path, encoder: Hashed | None = None) -> Built:
    return build(source, place, encoder or Hashed(), words, most=20, least=10)


def test_the_real_encoder_finds_by_meaning_and_words_find_by_name(
    packaged: Registry, source: Path, tmp_path: Path
) -> None:
    (source / "code.txt").write_text("Error E4711 means that the valve is stuck.", encoding="utf-8")
    encoder = OnnxEncoder(*packaged.encoder_files())
    offsets = token_offsets(packaged.encoder_files()[1])
    done = build(source, tmp_path / "index", encoder, offsets)
    assert (done.manifest.documents, done.embedded, done.manifest.recall) == (4, 4, 1.0)
    with PassageIndex.open(tmp_path / "index", encoder) as index:
        asked = ["Why does a feline hum?", "E4711", "How does dough get bigger?"]
        found = index.search(asked, 2)
        assert [hits[0].passage.document for hits in found] == ["cats.txt", "code.txt", "bread.txt"]
        alone = [index.search([one], 2)[0] for one in asked]
        assert [[hit.passage.id for hit in hits] for hits in alone] == [
            [hit.passage.id for hit in hits] for hits in found
        ]
        (hits,) = index.search(["E4711"], 4, by="words")
        assert [(hit.passage.id, hit.by_meaning, hit.by_words) for hit in hits] == [("code.txt#0", None, 1)]
        (hits,) = index.search(["purring"], 1, by="meaning")
        assert hits[0].by_words is None
        assert 0 < (hits[0].cosine or 0) < 1


def test_ranks_are_fused_by_their_reciprocals(source: Path, tmp_path: Path) -> None:
    built(source, tmp_path / "index")
    with PassageIndex.open(tmp_path / "index", Hashed()) as index:
        (hits,) = index.search(["the rudder of a ship"], 3)
    for hit in hits:
        ranks = [rank for rank in (hit.by_meaning, hit.by_words) if rank is not None]
        assert hit.score == pytest.approx(sum(1 / (60 + rank) for rank in ranks))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].passage.document == "ships.txt"


def test_only_what_changed_is_embedded_again(source: Path, tmp_path: Path) -> None:
    built(source, tmp_path / "index")
    again = built(source, tmp_path / "index", encoder := Hashed())
    assert (again.embedded, again.dropped, encoder.seen) == (0, 0, [])
    (source / "cats.txt").unlink()
    (source / "ships.txt").write_text("A ship floats.", encoding="utf-8")
    (source / "new.txt").write_text("Something new.", encoding="utf-8")
    changed = built(source, tmp_path / "index", encoder)
    assert (changed.embedded, changed.dropped, changed.manifest.documents) == (2, 1, 3)
    built(source, tmp_path / "other")
    with PassageIndex.open(tmp_path / "index", encoder) as one, PassageIndex.open(tmp_path / "other", encoder) as other:
        asked = ["ship", "flour", "new", "cat"]
        assert one.search(asked, 5) == other.search(asked, 5), "as if it had been built at once"


def test_a_build_that_was_stopped_goes_on_and_the_old_index_serves_meanwhile(source: Path, tmp_path: Path) -> None:
    built(source, place := tmp_path / "index")
    for number in range(600):
        (source / f"many-{number:03}.txt").write_text(f"Text number {number}.", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        built(source, place, Hashed(fail_after=300))
    with PassageIndex.open(place, Hashed()) as index:
        assert index.manifest.documents == 3
    done = built(source, place)
    assert done.manifest.documents == 603
    assert done.embedded == 600 - 256, "what had been stored was not embedded again"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "index"], "nothing is left beside it"


def test_how_close_questions_are_to_the_passages(source: Path, tmp_path: Path) -> None:
    encoder = Hashed()
    built(source, place := tmp_path / "index")
    questions = ["A ship is steered with a rudder. Sails catch the wind.", "zebra", "a zebra and a ship"]
    asked = encoder.encode(questions)
    with PassageIndex.open(place, encoder) as index:
        close = index.closeness(questions, asked)
    top, gap, near = close.top, close.gap, close.near
    everything = encoder.encode(list(TOPICS.values()))
    cosines = np.sort(asked @ everything.T, axis=1)
    middle = everything.mean(axis=0)
    assert top == pytest.approx(cosines[:, -1], abs=1e-6)
    assert top[0] == pytest.approx(1)
    assert gap == pytest.approx(cosines[:, -1] - cosines[:, 0], abs=1e-6), "the last of three stands for the fifth"
    assert near == pytest.approx(asked @ middle / np.linalg.norm(middle), abs=1e-6)
    assert close.overlap is not None
    unheard, once = np.log(1 + 3), np.log(1 + 3 / 2)  # of three passages none has the word, or one
    assert close.overlap == pytest.approx([1, 0, once / (once + unheard)], abs=1e-6)


@pytest.mark.parametrize("name", [CORPUS, DENSE, MIDDLE, "data.npy", "vocabulary.json"])
def test_damage_is_told_when_it_is_opened_and_mended_by_building(source: Path, tmp_path: Path, name: str) -> None:
    built(source, place := tmp_path / "index")
    whole = (place / name).read_bytes()
    (place / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(match=f"sha256 of {name}") as error:
        PassageIndex.open(place, Hashed())
    assert "coe index build" in str(error.value)
    (place / name).unlink()
    with pytest.raises(match=f"{name} cannot be read"):
        PassageIndex.open(place, Hashed())
    built(source, place)
    PassageIndex.open(place, Hashed()).close()


def test_an_index_of_another_encoder_is_refused_and_built_anew(source: Path, tmp_path: Path) -> None:
    built(source, place := tmp_path / "index")
    with pytest.raises(match="another encoder"):
        PassageIndex.open(place, Hashed("other"))
    assert built(source, place, Hashed("other")).embedded == 3


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', '{"version": 99}', "[" * 100_000])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(PassageError):
        PassageIndex.open(tmp_path, Hashed())


def test_an_open_index_stays_what_it_was_when_another_takes_its_place(source: Path, tmp_path: Path) -> None:
    built(source, place := tmp_path / "index")
    asked = ["ship", "flour", "cat"]
    with PassageIndex.open(place, Hashed()) as index:
        (source / "a.txt").write_text("A new ship, before all others.", encoding="utf-8")
        built(source, place)
        before = index.search(asked, 3)
        shutil.rmtree(place)
        assert index.search(asked, 3) == before
    assert {hit.passage.document for hits in before for hit in hits} == set(TOPICS)


@pytest.mark.parametrize("name", [CORPUS, DENSE, "data.npy"])
@pytest.mark.parametrize("cut", [True, False])
def test_an_open_index_whose_files_are_written_into_finds_nothing_more(
    source: Path, tmp_path: Path, name: str, cut: bool
) -> None:
    built(source, place := tmp_path / "index")
    with PassageIndex.open(place, Hashed()) as index:
        assert index.search(["ship"])[0]
        with (place / name).open("r+b") as file:
            if cut:
                file.truncate(8)
            else:
                file.seek(100)
                file.write(b"damage")
        with pytest.raises(PassageError, match="written into") as error:
            index.search(["ship"])
        assert "coe index build index" in str(error.value)


def test_an_index_that_is_replaced_while_it_is_opened_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(source, place := tmp_path / "index")
    load = index_module.load_words

    def slowly(folder: Path) -> object:
        (source / "a.txt").write_text("A new ship, before all others.", encoding="utf-8")
        built(source, place)
        return load(folder)

    monkeypatch.setattr(index_module, "load_words", slowly)
    with pytest.raises(PassageError, match="put in its place meanwhile"):
        PassageIndex.open(place, Hashed())


def test_a_folder_that_holds_something_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="something that is no index"):
        built(source, source)
    assert sorted(path.name for path in source.iterdir()) == sorted(TOPICS)


def test_nothing_to_index(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"no document holds any text; 1 could not be read, first a\.txt"):
        built(tmp_path / "docs", tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_texts_without_words_are_found_by_meaning_alone(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("§ § §", encoding="utf-8")
    built(tmp_path / "docs", tmp_path / "index")
    with PassageIndex.open(tmp_path / "index", Hashed()) as index:
        assert index.search(["§", "the"], 3)[0][0].passage.id == "a.txt#0"


def test_inverted_lists_are_looked_into_until_the_recall_is_reached() -> None:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(50, 32))
    vectors = (centres[rng.integers(50, size=4000)] + rng.normal(size=(4000, 32))).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    asked = vectors[:100] + rng.normal(size=(100, 32)).astype(np.float32) * 0.05
    index = dense_index(vectors, exact_below=1000)
    recall = set_probes(index, vectors, asked)
    assert recall >= 0.98
    assert 4 <= index.nprobe < index.nlist


def test_the_command_builds_and_searches(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COE_INDEXES", str(tmp_path / "indexes"))
    (source / "bad.txt").write_bytes(b"\xff")
    done = CliRunner().invoke(app, ["index", "build", "mine", str(source), "--json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert (data["documents"], data["embedded"]) == (3, 3)
    assert data["unread"] == [{"where": "bad.txt", "reason": "is not UTF-8 (byte 0)"}]
    found = CliRunner().invoke(app, ["index", "search", "mine", "What makes dough rise?", "-k", "1", "--json"])
    (hit,) = json.loads(found.stdout)
    assert hit["document"] == "bread.txt"
    assert TOPICS["bread.txt"][hit["start"] : hit["end"]] == hit["text"]
    shown = CliRunner().invoke(app, ["index", "search", "mine", "What makes dough rise?", "-k", "1"])
    assert shown.stdout.startswith("bread.txt#0  meaning 1, words 1")


def test_a_link_to_the_index_stays_one(source: Path, tmp_path: Path) -> None:
    built(source, tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    built(source, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    shutil.rmtree(tmp_path / "real")
    with pytest.raises(match="there is no index"):
        PassageIndex.open(tmp_path / "link", Hashed())
