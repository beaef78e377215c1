"""Readers of the public originals of recorded answers: what each file is, and how an answer is read out of a reply.

Only forms that were seen are read; nothing is fetched, and no pickle is opened. Every answer is extracted again, by one
rule for all models of a benchmark; what an original says of its own replies (`pred`) is not looked at.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from composer.answers.extract import LOOK, extract
from composer.answers.grade import canonical_gold
from composer.errors import InputError
from composer.recorded import read_routerbench
from composer.types import Kind
from evals.tasks.originals_files import (
    Asked,
    BadRow,
    Found,
    choices_of,
    clean,
    documents,
    evaluated,
    lines_of,
    number_of,
    rows_of,
    text_of,
)

_REFERENCE = "gpt4_1106_preview"  # whose replies AlpacaEval 2 compares with
_ANNOTATIONS = Path("weighted_alpaca_eval_gpt4_turbo", "annotations.json")
_CHARS = 4.0  # characters of a token, as in `composer.recorded`

_ONWARD = re.compile(r"\S[ \t\r]{0,20}\n\s{0,20}question\s?\d{0,3}\s?:", re.IGNORECASE)
_STATEMENT = re.compile(r"\banswer\b[^.\n=:]{0,40}?(?:\bis\b|[:=])|(?=\\boxed\{)", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=\S)(?:\.\s|\n)")
_FIELD = re.compile(r'"answer"\s{0,20}:\s{0,20}')
_DECODER = json.JSONDecoder(strict=False)  # replies break lines inside their JSON texts


def read_mmlu_pro(source: Path, found: Found) -> None:
    """MMLU-Pro's `eval_results`: `model_outputs_MODEL_5shots.zip` (or the `.json` that is in it), and folders
    `MODEL/SUBJECT_result.json`; each a list of rows with the reply in `model_outputs` or `response`.

    `3_1` in a file's name is 3.1 in the model's. Summaries are passed over. The answer is read by `stated_letter`.
    """
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.suffix in (".zip", ".json"))
    for path in files:
        if path.stem.endswith("summary"):
            continue
        model = _mmlu_model(path)
        if model is None:
            found.refuse(str(path), "no model in its name: expected model_outputs_MODEL_5shots or MODEL/SUBJECT_result")
            continue
        for file, place, row in rows_of(path, found):
            try:
                options = choices_of(row.get("options"))
                gold = canonical_gold(text_of(row, "answer"), "choice", options)
                if gold is None:
                    raise BadRow("`answer` is no letter of the options")
                number = row.get("question_id")
                if not isinstance(number, int | str):
                    raise BadRow("`question_id` is missing")
                asked = Asked(
                    f"mmlupro:{number}", "mmlu_pro", text_of(row, "category"), text_of(row, "question"), options, gold
                )
                reply = text_of(row, "model_outputs" if "model_outputs" in row else "response", empty=True)
            except BadRow as why:
                found.refuse(file, str(why), place)
            else:
                found.add(model, asked, file, place, answer=stated_letter(reply, options), chars=len(reply))


def read_zeroeval(source: Path, found: Found) -> None:
    """ZeroEval's `result_dirs`: `gsm/MODEL.json` (benchmark gsm8k) and `crux/MODEL.json` (cruxeval_o), greedy runs; each a
    list of rows with the reply in `output[0]`, which was asked to be JSON with an `answer`.

    GSM8K: the number of that field (the first one, or what follows its last "="); where there is no field, the number
    that `extract` reads in the reply. CRUXEval: the field as a Python `literal`; a reply without it has no answer.
    """
    home = source / "result_dirs" if (source / "result_dirs").is_dir() else source
    tasks = {"gsm": "gsm8k", "crux": "cruxeval_o"}
    if not any((home / task).is_dir() for task in tasks):
        raise InputError(
            "there is neither a folder gsm nor a folder crux here",
            where=str(source),
            remedy="name the folder result_dirs of a checkout of ZeroEval",
        )
    for task, benchmark in tasks.items():
        for path in sorted((home / task).glob("*.json")):
            for file, place, row in rows_of(path, found):
                try:
                    number = re.search(r"#(\d+)\Z", text_of(row, "id"))
                    if number is None:
                        raise BadRow("`id` has no number")
                    outputs = row.get("output")
                    if not isinstance(outputs, list) or not outputs or not isinstance(outputs[0], str):
                        raise BadRow("`output` is no list of texts")
                    gold, answer = _zeroeval(task, text_of(row, "answer"), outputs[0])
                    asked = Asked(f"{benchmark}:{number[1]}", benchmark, benchmark, text_of(row, "question"), gold=gold)
                except BadRow as why:
                    found.refuse(file, str(why), place)
                else:
                    found.add(path.stem, asked, file, place, answer=answer, chars=len(outputs[0]))


def read_alpaca_eval(source: Path, found: Found) -> None:
    """AlpacaEval 2's `results`: `MODEL/weighted_alpaca_eval_gpt4_turbo/annotations.json`, a list of rows.

    The mark is `preference` - 1: 0 where the reference (`output_1`) was preferred, 1 where the model (`output_2`) was.
    There are no answers. The category is `dataset`.
    """
    if not source.is_dir():
        raise InputError("this is no folder", where=str(source), remedy="name the folder results of a checkout")
    folders = [source] if (source / _ANNOTATIONS).is_file() else sorted(p for p in source.iterdir() if p.is_dir())
    without = [folder.name for folder in folders if not (folder / _ANNOTATIONS).is_file()]
    if without:
        named = ", ".join(without[:5]) + (", …" if len(without) > 5 else "")
        found.remarks.append(f"{len(without)} of {len(folders)} folders have no {_ANNOTATIONS}: {named}")
    for folder in folders:
        if folder.name in without:
            continue
        for file, place, row in rows_of(folder / _ANNOTATIONS, found):
            try:
                if row.get("generator_1") != _REFERENCE:
                    raise BadRow(f"`generator_1` is not {_REFERENCE}")
                mark = number_of(row, "preference", 1.0, 2.0) - 1.0
                text = text_of(row, "instruction")
                asked = Asked(_id("alpaca_eval2", text), "alpaca_eval2", text_of(row, "dataset"), text)
                length = len(text_of(row, "output_2", empty=True))
            except BadRow as why:
                found.refuse(file, str(why), place)
            else:
                found.add(folder.resolve().name, asked, file, place, mark=mark, chars=length)


def read_llmrouter(source: Path, found: Found) -> None:
    """LLMRouter's routing data: `default_routing_train_data.jsonl` and `default_routing_test_data.jsonl` (or one such
    file, whatever its name), and prices from `default_llm.json` in the same folder tree.

    Multiple choice (`em_mc`) and GSM8K are extracted and marked again; what other metrics mark (code that was run, F1)
    is taken as `performance` has it, without an answer. A reply that is the text of a failed call is refused.
    """
    prices = _prices(source, found)
    for path in [source] if source.is_file() else sorted(source.rglob("default_routing_*_data.jsonl")):
        for place, row in lines_of(path, found):
            try:
                model, reply = text_of(row, "model_name"), text_of(row, "response", empty=True)
                if reply.startswith(("ERROR", "API Error")):
                    raise BadRow("the call failed, there is no reply")
                asked, answer, mark = _llmrouter(row, reply)
            except BadRow as why:
                found.refuse(str(path), str(why), place)
            else:
                found.add(
                    model, asked, str(path), place, answer=answer, mark=mark, chars=len(reply), price=prices.get(model)
                )


def read_routerbench_csv(source: Path, found: Found) -> None:
    """RouterBench's table as a CSV (see `composer.recorded.read_routerbench`); the published one is a pickle, which the
    user exports. A prompt that is the text of a Python list is the lines of that list.

    The form has prices and no costs, so a recorded cost becomes the price of a million tokens of that very reply: what
    is read back is the recorded cost. Raises InputError for a cell that is no number.
    """
    record = read_routerbench(source)
    texts = [_unwrapped(text) for text in record.text]
    outcomes = record.outcomes
    for place, arm, mark, length, cost in zip(
        outcomes.question.tolist(),
        outcomes.arm.tolist(),
        outcomes.score.tolist(),
        outcomes.length.tolist(),
        outcomes.cost.tolist(),
        strict=True,
    ):
        written = length or len(texts[place])
        price = (0.0, cost * 1e6 * _CHARS / written) if written and not math.isnan(cost) else None
        asked = Asked(record.ids[place], "routerbench", record.category[place], texts[place])
        found.add(outcomes.arms[arm].name, asked, str(source), place + 1, mark=mark, chars=length, price=price)


KINDS: Mapping[str, Callable[[Path, Found], None]] = {
    "alpaca_eval": read_alpaca_eval,
    "llmrouter": read_llmrouter,
    "mmlu_pro": read_mmlu_pro,
    "routerbench": read_routerbench_csv,
    "zeroeval": read_zeroeval,
}


# --- answers


def stated_letter(reply: str, options: tuple[str, ...]) -> str | None:
    """The letter of the option that `reply` states: the last "answer is …", "answer: …" or \\boxed{…} from which
    `extract` reads a letter (given as such, in brackets, or as the text of one option), up to the end of that sentence.
    None where nothing is stated, however much the reasoning speaks of one option, unless the reply is the letter alone.
    Base models go on with questions of their own: what follows a line that begins with "Question:" is not looked at.

    >>> stated_letter("So A is wrong. The answer is (B). Option C is close.", ("x", "y", "z"))
    'B'
    >>> stated_letter("B seems to be likely.", ("x", "y", "z")) is None
    True
    """
    onward = _ONWARD.search(reply)
    own = (reply[: onward.start() + 1] if onward else reply)[-LOOK:]
    ends = [match.end() for match in _STATEMENT.finditer(own)]
    if not ends:
        return extract(own, "choice", options) if len(own.strip()) < 20 else None
    heads = (_SENTENCE.split(own[end : end + 400].lstrip(), maxsplit=1)[0] for end in reversed(ends))
    return next((letter for head in heads if (letter := extract(f"answer: {head}", "choice", options))), None)


def literal(text: str) -> str:
    """A Python literal in one canonical form (order in sets and dicts makes no difference); a text that is no literal is
    taken as the string, as replies leave out its quotes.

    >>> literal("{'b': 1, 'a': [2,3]}"), literal("'ab'"), literal("ab"), literal("6,8")
    ("{'a': [2, 3], 'b': 1}", "'ab'", "'ab'", "'6,8'")
    """
    plain = text.strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a reply is nothing to warn of
            value = ast.literal_eval(plain[:LOOK])
        return repr(text) if isinstance(value, tuple) and not plain.startswith("(") else _canonical(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return repr(text)


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        pairs = sorted((_canonical(key), _canonical(item)) for key, item in value.items())
        return f"{{{', '.join(f'{key}: {item}' for key, item in pairs)}}}"
    if isinstance(value, set):
        return f"{{{', '.join(sorted(map(_canonical, value)))}}}" if value else "set()"
    if isinstance(value, list):
        return f"[{', '.join(map(_canonical, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_canonical, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def _zeroeval(task: str, told: str, reply: str) -> tuple[str, str | None]:
    """The canonical right answer and the reply's."""
    said = _said(reply)
    if task == "crux":
        return literal(told), None if said is None else literal(said)
    gold = extract(told, "number")
    if gold is None:
        raise BadRow("`answer` is no number")
    return gold, extract(reply if said is None else f"Answer: {said}", "number")


def _said(reply: str) -> str | None:
    """The last `answer` field of the JSON in `reply`, which may be broken around it; None where there is no such field."""
    ends = [match.end() for match in _FIELD.finditer(reply)]
    if not ends:
        return None
    try:
        value, _ = _DECODER.raw_decode(reply, ends[-1])
    except (ValueError, RecursionError):
        line = reply[ends[-1] :].split("\n", 1)[0].rstrip(", \t\r")
        if line.count("}") > line.count("{"):
            line = line[: line.rindex("}")]
        return line.strip().strip('"')
    return value if isinstance(value, str) else repr(value)


def _llmrouter(row: Mapping[str, Any], reply: str) -> tuple[Asked, str | None, float | None]:
    """The question of a row of routing data, and the reply's answer or mark."""
    task, text, metric = text_of(row, "task_name"), text_of(row, "query"), text_of(row, "metric")
    truth = row.get("ground_truth")
    told = clean(truth) if isinstance(truth, str) else json.dumps(truth)
    if metric not in ("em_mc", "GSM8K"):
        asked = Asked(_id("llmrouter", task, text, told), "llmrouter_mix", task, text, gold=told)
        return asked, None, number_of(row, "performance", 0.0, 1.0)
    kind: Kind = "choice" if metric == "em_mc" else "number"
    options = choices_of(row.get("choices")) if metric == "em_mc" else ()
    gold = canonical_gold(told, kind, options)
    if gold is None:
        raise BadRow(f"`ground_truth` is no {kind}")
    asked = Asked(_id("llmrouter", task, text, told), "llmrouter_mix", task, text, options, gold)
    return asked, extract(reply, kind, options), None


# --- files


def _mmlu_model(path: Path) -> str | None:
    named = re.fullmatch(r"model_outputs_(.+?)(?:_\d+shots?)?", path.stem)
    if named:
        return re.sub(r"(?<=\d)_(?=\d)", ".", named[1])
    folder = path.resolve().parent.name
    return folder if path.stem.endswith("_result") and folder != "eval_results" else None


def _prices(source: Path, found: Found) -> Mapping[str, tuple[float, float]]:
    """model -> USD per million tokens in and out, from `default_llm.json`; empty where there is no such file."""
    prices: dict[str, tuple[float, float]] = {}
    files = sorted(source.rglob("default_llm.json")) if source.is_dir() else []
    for file, content in documents(files[0], found) if files else ():
        for model, row in content.items() if isinstance(content, dict) else ():
            try:
                prices[model] = (number_of(row, "input_price", 0.0), number_of(row, "output_price", 0.0))
            except (BadRow, AttributeError) as why:
                found.refuse(file, f"no price of {model}: {why}")
    found.remarks.append(
        f"prices are from {files[0]}" if prices else "there are no prices: no default_llm.json has any"
    )
    return prices


def _unwrapped(prompt: str) -> str:
    value = evaluated(prompt)
    parts = value if isinstance(value, list) and all(isinstance(part, str) for part in value) else [prompt]
    return clean("\n".join(parts))


def _id(name: str, *parts: str) -> str:
    return f"{name}:{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"
