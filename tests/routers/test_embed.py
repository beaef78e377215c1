"""The encoder on its real files: its vectors are those of the published model, and a text's vector is its own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from composer.registry.experts import Registry
from routers.embed import OnnxEncoder, Remembering
from routers.errors import RouterError
from routers.testing import HashEncoder
from routers.types import Array

TEXTS = [
    "What is 47 + 38?",
    "Sort these words alphabetically: pear, apple, fig",
    "add 47 and 38",
    "hi",
    "Extract name and city as JSON: " + "Maria, who is a nurse, moved to Lima long ago. " * 6,
    "naïve café, 東京, \U0001f600",
]


@pytest.fixture(scope="module")
def encoder(packaged: Registry) -> OnnxEncoder:
    return OnnxEncoder(*packaged.encoder_files())


def test_vectors_are_unit_rows_and_near_for_texts_that_mean_the_same(encoder: OnnxEncoder) -> None:
    vectors = encoder.encode(TEXTS)

    cosines = vectors @ vectors.T
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), encoder.dim) == (len(TEXTS), 384)
    assert np.allclose(np.diag(cosines), 1, atol=1e-6)
    assert cosines[0, 2] > 0.7 > 0.4 > cosines[0, 1]


def test_similarity_is_that_of_the_full_precision_model(encoder: OnnxEncoder) -> None:
    one, other = encoder.encode(["That is a happy person", "That is a happy dog"])

    assert float(one @ other) == pytest.approx(0.6946, abs=0.01)  # 0.6946 with the full-precision weights


def test_a_text_has_one_vector_alone_or_among_others(encoder: OnnxEncoder) -> None:
    together = encoder.encode(TEXTS * 8)

    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])

    assert np.abs(np.tile(alone, (8, 1)) - together).max() < 1e-6
    assert np.array_equal(encoder.encode(TEXTS[::-1])[::-1], encoder.encode(TEXTS))


def test_equal_texts_are_encoded_once(encoder: OnnxEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    run = encoder._run
    monkeypatch.setattr(encoder, "_run", lambda tokens: (sizes.append(len(tokens)), run(tokens))[1])

    vectors = encoder.encode(["same"] * 50 + ["other"])

    assert sum(sizes) == 2
    assert np.array_equal(vectors[0], vectors[49])


def test_a_long_text_is_cut_and_an_empty_or_broken_one_still_has_a_vector(encoder: OnnxEncoder) -> None:
    start = "word " * 254  # with its two marks 256 tokens
    vectors = encoder.encode([start, start + "and then some more", "", "half a pair \ud83d"])

    assert np.allclose(vectors[0], vectors[1], atol=1e-6)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_no_texts_give_no_rows(encoder: OnnxEncoder) -> None:
    assert encoder.encode([]).shape == (0, 384)


def test_the_fingerprint_covers_both_files(encoder: OnnxEncoder, tmp_path: Path) -> None:
    changed = tmp_path / "tokenizer.json"
    changed.write_bytes(encoder.tokenizer.read_bytes() + b"\n")

    same, other = OnnxEncoder(encoder.model, encoder.tokenizer), OnnxEncoder(encoder.model, changed)

    assert encoder.fingerprint == same.fingerprint != other.fingerprint
    assert len(encoder.fingerprint) == 64


def test_nothing_is_read_before_it_is_needed_and_a_missing_file_is_named(tmp_path: Path) -> None:
    encoder = OnnxEncoder(tmp_path / "no.onnx", tmp_path / "no.json")

    with pytest.raises(RouterError, match=r"no\.json is missing"):
        encoder.encode(["text"])
    with pytest.raises(RouterError, match=r"no\.onnx is missing"):
        _ = encoder.dim
    with pytest.raises(RouterError, match="missing"):
        _ = encoder.fingerprint


@pytest.mark.parametrize("content", [b"", b"not what it should be" * 99])
def test_a_damaged_file_is_named_with_its_remedy(encoder: OnnxEncoder, tmp_path: Path, content: bytes) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content)

    with pytest.raises(RouterError, match="damaged is not an ONNX model"):
        _ = OnnxEncoder(damaged, encoder.tokenizer).dim
    with pytest.raises(RouterError, match=r"damaged is not a tokenizer\.json"):
        OnnxEncoder(encoder.model, damaged).encode(["text"])


def test_routing_without_embedding_loads_no_heavy_library() -> None:
    heavy = ("onnxruntime", "tokenizers", "sklearn", "scipy", "pyarrow", "composer", "evals")
    modules = "skill, routers.skills, routers.select, routers.policy, routers.stats, routers.baselines, routers.testing"
    code = f"import sys, routers; bare = 'numpy' in sys.modules; import routers.{modules}"
    code += f"; print(bare, [name for name in {heavy!r} if name in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert shown == "False []\n"


def test_the_first_texts_go_through_the_model_as_written_and_agree_with_the_rest(
    packaged: Registry, encoder: OnnxEncoder
) -> None:
    warm = encoder.encode(TEXTS)
    fresh = OnnxEncoder(*packaged.encoder_files())

    first = np.concatenate([fresh.encode([text]) for text in TEXTS[:4]])
    assert "_optimised" not in vars(fresh)
    rest = fresh.encode(TEXTS[4:])

    assert "_as_written" not in vars(fresh) and "_optimised" in vars(fresh)
    assert np.abs(np.concatenate([first, rest]) - warm).max() < 1e-6


class Counting(HashEncoder):
    """Tells what it was asked to encode."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> Array:
        self.seen += texts
        return super().encode(texts)


def test_what_was_encoded_before_is_not_encoded_again(packaged: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    own = OnnxEncoder(*packaged.encoder_files())
    passes: list[int] = []
    run = own._run
    monkeypatch.setattr(own, "_run", lambda tokens: (passes.append(len(tokens)), run(tokens))[1])
    encoder = Remembering(own)

    first = encoder.encode(TEXTS)
    again = encoder.encode([*TEXTS[::-1], "new", TEXTS[0], "half a pair \ud83d"])

    assert sum(passes) == len(TEXTS) + 2
    assert np.array_equal(again[:6], first[::-1])
    assert np.array_equal(again[7], first[0])
    assert np.abs(again - own.encode([*TEXTS[::-1], "new", TEXTS[0], "half a pair \ud83d"])).max() < 1e-6
    assert encoder.encode([]).shape == (0, 384)
    assert (encoder.dim, encoder.fingerprint) == (own.dim, own.fingerprint)


def test_only_the_last_are_remembered() -> None:
    own = Counting()
    encoder = Remembering(own, most=4 * 64 * 4)  # four vectors

    encoder.encode(list("abc"))
    encoder.encode(list("bde"))  # `a` goes
    assert own.seen == list("abcde")
    assert np.array_equal(encoder.encode(list("ebcd")), HashEncoder().encode(list("ebcd")))
    assert own.seen == list("abcde")
    encoder.encode(["a"])
    assert own.seen == list("abcdea")

    many = [str(number) for number in range(100)]
    assert np.array_equal(encoder.encode(many), HashEncoder().encode(many))
    assert np.array_equal(encoder.encode(many[-4:]), HashEncoder().encode(many[-4:]))
    assert own.seen == [*"abcdea", *many]
    assert encoder._vectors is not None and len(encoder._vectors) == len(encoder._place) == len(encoder._keys) == 4


def test_threads_that_remember_together_get_right_vectors() -> None:
    encoder, wrong = Remembering(Counting(), most=30 * 64 * 4), list[str]()
    right = dict(zip(map(str, range(90)), HashEncoder().encode([str(number) for number in range(90)]), strict=True))

    def ask(seed: int) -> None:
        chance = np.random.default_rng(seed)
        for _ in range(200):
            texts = [str(number) for number in chance.integers(90, size=12)]
            wrong.extend(
                text
                for text, vector in zip(texts, encoder.encode(texts), strict=True)
                if not np.array_equal(vector, right[text])
            )

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
