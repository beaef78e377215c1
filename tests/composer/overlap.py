"""A tiny cross-encoder for tests: an ONNX model of the usual form that has learnt nothing and counts words.

No package of the registries carries a cross-encoder, and neither torch nor onnx is a dependency of the tests; so the few
protobuf messages that a model file is made of are written here by hand. onnxruntime runs it like any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType


def write_overlap(folder: Path, weights: Mapping[str, float], *, logits: int = 1, output: str = "logits") -> str:
    """Write `model.onnx` and `tokenizer.json` into `folder`; the sha256 of the model.

    The logit of a pair is the summed weight of the question's words that the text holds too: every word of the one is
    compared with every word of the other. With two logits the first is always 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    words = [*_SPECIAL, *weights]
    tokens = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokens.normalizer, tokens.pre_tokenizer = Lowercase(), Whitespace()
    tokens.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokens.save(str(folder / "tokenizer.json"))
    table = np.array([0.0] * len(_SPECIAL) + list(weights.values()), dtype=np.float32)
    (folder / "model.onnx").write_bytes(_model(table, logits, output))
    return hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()


def _model(table: np.ndarray, logits: int, output: str) -> bytes:
    nodes = [
        _node("Cast", ["token_type_ids"], "type", to=_FLOAT),
        _node("Cast", ["attention_mask"], "mask", to=_FLOAT),
        _node("Sub", ["one", "type"], "first"),
        _node("Gather", ["table", "input_ids"], "weight"),
        _node("Mul", ["weight", "first"], "asked"),  # the weights of the question's words
        _node("Mul", ["mask", "type"], "given"),  # 1 for a word of the text
        _node("Unsqueeze", ["input_ids"], "rows", axes=[2]),
        _node("Unsqueeze", ["input_ids"], "columns", axes=[1]),
        _node("Equal", ["rows", "columns"], "equal"),
        _node("Cast", ["equal"], "same", to=_FLOAT),
        _node("Unsqueeze", ["given"], "among", axes=[1]),
        _node("Mul", ["same", "among"], "both"),
        _node("ReduceMax", ["both"], "held", axes=[2], keepdims=0),
        _node("Mul", ["asked", "held"], "share"),
        _node("ReduceSum", ["share"], output if logits == 1 else "second", axes=[1], keepdims=1),
    ]
    if logits == 2:
        nodes += [
            _node("Mul", ["second", "zero"], "nothing"),
            _node("Add", ["nothing", "one"], "base"),
            _node("Add", ["second", "one"], "above"),
            _node("Concat", ["base", "above"], output, axis=1),
        ]
    constants = {"table": table, "one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}
    graph = [_bytes(1, node) for node in nodes] + [_bytes(2, b"overlap")]
    graph += [_bytes(5, _tensor(name, value)) for name, value in constants.items()]
    graph += [_bytes(11, _value(name, _INT64)) for name in ("input_ids", "attention_mask", "token_type_ids")]
    graph += [_bytes(12, _value(output, _FLOAT))]
    opset = _number(2, 11)  # the last in which axes are attributes
    return _number(1, 7) + _bytes(8, opset) + _bytes(7, b"".join(graph))


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: int | Sequence[int]) -> bytes:
    told = [_bytes(1, name.encode()) for name in inputs] + [_bytes(2, output.encode()), _bytes(4, kind.encode())]
    for name, value in attributes.items():
        if isinstance(value, int):
            told.append(_bytes(5, _bytes(1, name.encode()) + _number(3, value) + _number(20, 2)))
        else:
            whole = b"".join(_number(8, one) for one in value)
            told.append(_bytes(5, _bytes(1, name.encode()) + whole + _number(20, 7)))
    return b"".join(told)


def _tensor(name: str, value: np.ndarray) -> bytes:
    shape = b"".join(_number(1, size) for size in value.shape)
    return shape + _number(2, _FLOAT) + _bytes(8, name.encode()) + _bytes(9, value.tobytes())


def _value(name: str, kind: int) -> bytes:
    sizes = b"".join(_bytes(1, _bytes(2, size)) for size in (b"batch", b"width"))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, sizes)))


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
