"""experts.yaml -> Settings: checked once, here; past this file nobody checks again."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from composer.document import Document
from composer.errors import ConfigError, suggest
from composer.settings.adapter import adapter_of
from composer.settings.contrast import contrast_of
from composer.settings.evidence import evidence_of
from composer.settings.formcache import read_rows
from composer.settings.persona import personas_of
from composer.settings.sources import SOURCE, PathSource, Source, parse_source, scheme
from composer.settings.specs import ArmSpec, EncoderSpec, ExpertSpec, ModelSpec, Price, Settings, StageSpec
from composer.settings.strategy import in_prose, strategies_of
from composer.types import DEFAULT_ENGINE, Sampling

if TYPE_CHECKING:
    from composer.settings.form import (
        EncoderRow,
        EvidenceRow,
        ExpertRow,
        ModelRow,
        RegistryRow,
        RerankerRow,
        SamplingRow,
        StageRow,
    )

PACKAGED = Path(__file__).resolve().parent / "default"
"""What `default:` means in a registry: the data that come with this package."""

AUTO = "auto"  # the name of `pipeline:` beside those of experts and `pipelines:`
_PASSAGE_TOKENS, _PASSAGE_TEMPERATURE = 100, 0.7  # where a writer's own row says nothing: a model's are for answers
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_UNITS = (
    {"B": 1}
    | {f"{k}B": 1000**i for i, k in enumerate("KMGT", 1)}
    | {f"{k}IB": 1024**i for i, k in enumerate("KMGT", 1)}
)
_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?) ?([KMGT]?I?B)", re.IGNORECASE)


def schema() -> dict[str, Any]:
    """The file's form as a JSON schema (draft 7, what editors' YAML servers know)."""
    from composer.settings.form import RegistryRow  # noqa: PLC0415 pydantic, which a file that was read before does not need

    found = RegistryRow.model_json_schema(ref_template="#/definitions/{model}")
    rows = {name: row | {"title": name.strip("_")} for name, row in found.pop("$defs").items()}
    head = {"$schema": "http://json-schema.org/draft-07/schema#"}
    return head | found | {"title": "experts.yaml", "definitions": rows}


def find_registry(config: Path | None = None, cwd: Path | None = None) -> Path:
    """The registry file to use: `config` (the --config flag), else ./experts.yaml, else the one that COE_CONFIG names,
    else the user's own (~/.config/coe/experts.yaml on Linux), else the packaged one.

    A flag is asked for here and now, so it wins over the file of the project that one works in; a variable is set once
    for everything, so it does not. If the file that either names is not there, that is a ConfigError, never a reason
    to look further.
    """
    here = cwd or Path.cwd()
    if config:
        return _named(here / config, "--config")
    if _is_there(here / "experts.yaml"):
        return here / "experts.yaml"
    if variable := os.environ.get("COE_CONFIG"):
        return _named(here / variable, "COE_CONFIG")
    from platformdirs import user_config_path  # noqa: PLC0415 most often a nearer file is found

    own = user_config_path("coe", appauthor=False) / "experts.yaml"
    return own if _is_there(own) else packaged_registry()


def _named(path: Path, asked: str) -> Path:
    if not path.is_file():
        raise ConfigError(f"{path} is no file", where=asked, remedy=f"correct {asked}, or leave it out")
    return path


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()  # a dangling link is somebody's registry: reading it says what is wrong


def packaged_registry() -> Path:
    """The registry that comes with the package; in a source checkout it is the one at the top."""
    places = (PACKAGED / "experts.yaml", PACKAGED.parents[1] / "experts.yaml")
    for path in places:
        if path.is_file():
            return path
    raise ConfigError("the packaged registry is missing", where=str(places[0]), remedy="install the package again")


def load_settings(path: Path) -> Settings:
    """The registry file at `path`, checked but for the existence of the files it names. Raises ConfigError."""
    document, rows = read_rows(path)
    return _Reading(path, document).settings(rows)


def parse_size(text: str, where: str | None = None) -> int:
    """Bytes of a size that people write. Raises ConfigError.

    >>> parse_size("350MiB"), parse_size("1.5 GB")
    (367001600, 1500000000)
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ConfigError(
            f"{text!r} is no size", where=where, remedy="write a number with its unit, such as 350MiB or 4GB"
        )
    return int(float(found[1]) * _UNITS[found[2].upper()])


class _Reading:
    """One file on its way into Settings: the checks that look at more than one field."""

    def __init__(self, path: Path, document: Document) -> None:
        self.path, self.document = path.absolute(), document

    def error(self, at: str, what: str, remedy: str) -> ConfigError:
        return ConfigError(what, where=self.document.where(at), remedy=remedy)

    def settings(self, rows: RegistryRow) -> Settings:
        self.check_names("models", rows.models)
        self.check_names("experts", rows.experts)
        models = {name: self.model(name, row) for name, row in rows.models.items()}
        general = self.generalist(rows.experts)
        experts = {name: self.expert(name, rows.experts, models, name == general) for name in rows.experts}
        settings = Settings(
            path=self.path,
            config_sha=hashlib.sha256(json.dumps(self.document.data).encode()).hexdigest(),
            models=models,
            experts=experts,
            encoder=self.encoder(rows.encoder, "encoder") if rows.encoder else None,
            reranker=self.encoder(rows.reranker, "reranker") if rows.reranker else None,
            profile=self.inside(rows.profile, "profile") if rows.profile is not None else None,
            pipeline=self.pipeline(rows.pipeline, "pipeline"),
            pipelines=self.pipelines(rows.pipelines, rows.experts),
            memory=self.size(rows.memory, "memory"),
            document=self.document,
            reading=self.reading(
                rows.evidence, experts, encoder=rows.encoder is not None, reranker=rows.reranker is not None
            ),
        )
        self.check_names("contrasts", rows.contrasts)
        found: list[ArmSpec] = []
        for name, contrast in rows.contrasts.items():
            spec, arms = contrast_of(name, contrast, settings.arms, experts, self.error)
            found += [replace(arm, name=f"{arm.name}~{name}", contrast=spec) for arm in arms]
        return replace(settings, contrasting=tuple(found))

    def reading(
        self, rows: Mapping[str, EvidenceRow], experts: Mapping[str, ExpertSpec], *, encoder: bool, reranker: bool
    ) -> tuple[ArmSpec, ...]:
        """Every expert that answers with each evidence that it may be given."""
        self.check_names("evidence", rows)
        answering = [name for name, expert in experts.items() if expert.writes == "answers" and expert.prose]
        found = []
        for name, row in rows.items():
            at = f"evidence.{name}.experts"
            spec = evidence_of(name, row, experts, self.inside, self.error, encoder=encoder, reranker=reranker)
            for expert in answering if row.experts is None else row.experts:
                if expert not in experts:
                    raise self.error(at, f"no expert is called {expert!r}", suggest(expert, answering))
                if expert not in answering:
                    writes = experts[expert].writes if experts[expert].prose else "programs alone"
                    raise self.error(at, f"{expert} writes {writes} and reads none", "name experts that answer")
                found.append(ArmSpec(f"{expert}+{name}", expert, spec))
        return tuple(found)

    def check_names(self, group: str, names: Mapping[str, Any]) -> None:
        """Names become file names, arms and arguments: plain, and different even where case does not count."""
        folded: dict[str, str] = {}
        for name in names:
            at = f"{group}.{name}"
            if not _NAME.fullmatch(name):
                raise self.error(
                    at,
                    f"{name!r} is no name: expected a letter or digit, then at most 63 letters, digits, `.`, `_` or `-`",
                    "rename it",
                )
            twin = folded.setdefault(name.casefold(), name)
            if twin != name:
                line = self.document.lines[f"{group}.{twin}"]
                raise self.error(
                    at, f"`{name}` differs only by case from `{twin}` on line {line}", "rename one of them"
                )

    def generalist(self, rows: Mapping[str, ExpertRow]) -> str:
        """The one declared, else the first without an adapter that is not declared otherwise."""
        declared = [name for name, row in rows.items() if row.generalist]
        for name in declared:
            writes = rows[name].writes if in_prose(rows[name].strategies) else "programs alone"
            if writes != "answers":
                what = f"the generalist answers, this expert writes {writes}"
                raise self.error(f"experts.{name}.generalist", what, "remove one of the two")
        if len(declared) > 1:
            at = f"experts.{declared[1]}.generalist"
            raise self.error(at, f"a second generalist: `{declared[0]}` is one already", "keep one `generalist: true`")
        answering = {name: row for name, row in rows.items() if row.writes == "answers" and in_prose(row.strategies)}
        bare = [name for name, row in answering.items() if row.adapter is None and row.generalist is None]
        if not declared and not bare:
            raise self.error(
                "experts", "no expert is the generalist", "write `generalist: true` at one, or add one without adapter"
            )
        return (declared or bare)[0]

    def model(self, name: str, row: ModelRow) -> ModelSpec:
        at = f"models.{name}"
        if row.sources and row.sha256 is None:
            raise self.error(
                f"{at}.sha256",
                "`sha256` is missing: a source counts only for the very file",
                "add what `sha256sum FILE` prints",
            )
        if not row.sources and (row.engine == DEFAULT_ENGINE or row.sha256):
            raise self.error(
                f"{at}.sources", "`sources` is missing: there is nothing to load", f"add `sources:`, a list of {SOURCE}"
            )
        if row.completion and row.template is not None:
            raise self.error(
                f"{at}.template", "a model that only completes has no chat template", "remove one of the two"
            )
        return ModelSpec(
            name=name,
            engine=row.engine,
            sources=self.sources(row.sources, f"{at}.sources"),
            sha256=row.sha256,
            base=row.base,
            context=row.context,
            template=self.inside(row.template, f"{at}.template") if row.template is not None else None,
            completion=row.completion,
            sampling=_sampling(Sampling(), row.sampling),
            memory=self.size(row.memory, f"{at}.memory"),
            price=Price(row.price.tokens_in, row.price.tokens_out) if row.price else None,
            slots=row.slots,
            threads=row.threads,
            replicas=row.replicas,
            options=tuple(row.options.items()),
            allow_code=row.allow_code,
        )

    def expert(
        self, name: str, rows: Mapping[str, ExpertRow], models: Mapping[str, ModelSpec], generalist: bool
    ) -> ExpertSpec:
        at, row = f"experts.{name}", rows[name]
        if row.model not in models:
            raise self.error(f"{at}.model", f"no model is called {row.model!r}", suggest(row.model, models))
        model = models[row.model]
        sampling = model.sampling
        if row.writes == "knowledge":
            sampling = replace(
                sampling, max_tokens=_PASSAGE_TOKENS, temperature=_PASSAGE_TEMPERATURE, schema=None, stop=()
            )
        sampling = _sampling(sampling, row.sampling)
        if sampling.max_tokens >= model.context:
            raise self.error(
                f"{at}.sampling.max_tokens",
                f"{sampling.max_tokens} answer tokens leave no room for a question in a context of {model.context}",
                f"raise `context` of {row.model}, or lower `max_tokens`",
            )
        if row.system is not None and model.completion:
            raise self.error(
                f"{at}.system", f"{row.model} only completes text and knows no system message", "remove `system`"
            )
        self.check_names(f"{at}.personas", row.personas)
        if row.personas and (model.completion or row.writes != "answers"):
            what = f"{row.model} only completes text" if model.completion else f"it writes {row.writes}"
            raise self.error(f"{at}.personas", f"a persona is a part of a system message, and {what}", "remove it")
        if row.writes != "answers" and [one.use for one in row.strategies] != ["prose"]:
            raise self.error(
                f"{at}.strategies",
                f"strategies are ways to answer, this expert writes {row.writes}",
                "remove one of the two",
            )
        return ExpertSpec(
            name=name,
            model=row.model,
            adapter=adapter_of(name, rows, self.inside, self.error),
            description=row.description,
            skills=tuple(row.skills),
            answers=row.answers,
            sampling=sampling,
            generalist=generalist,
            system=row.system,
            writes=row.writes,
            personas=personas_of(name, row.personas, self.error),
            strategies=strategies_of(name, row.strategies, self.size, self.error),
            prose=in_prose(row.strategies),
        )

    def encoder(self, row: EncoderRow | RerankerRow, at: str) -> EncoderSpec:
        tokenizer = self.inside(row.tokenizer, f"{at}.tokenizer")
        return EncoderSpec(self.sources(row.sources, f"{at}.sources"), row.sha256, tokenizer)

    def pipelines(self, rows: Mapping[str, list[StageRow]], experts: Iterable[str]) -> dict[str, tuple[StageSpec, ...]]:
        """Those asked by name, beside the experts and `auto`."""
        self.check_names("pipelines", rows)
        taken = {name.casefold() for name in (AUTO, *experts)}
        for name in rows:
            if name.casefold() in taken:
                raise self.error(f"pipelines.{name}", f"`{name}` is {AUTO!r} or an expert already", "rename it")
        return {name: self.pipeline(steps, f"pipelines.{name}") for name, steps in rows.items()}

    def pipeline(self, rows: list[StageRow], at: str) -> tuple[StageSpec, ...]:
        names = [row.use for row in rows]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise self.error(f"{at}[{i}].use", f"the stage `{name}` stands twice", "remove one of them")
        lines = self.document.lines
        return tuple(StageSpec(row.use, row.options, lines.get(f"{at}[{i}]", 1)) for i, row in enumerate(rows))

    def sources(self, texts: list[str], at: str) -> tuple[Source, ...]:
        """Each source as the fetcher takes it; paths made absolute."""
        found: list[Source] = []
        for i, text in enumerate(texts):
            place = f"{at}[{i}]"
            if scheme(text) in ("pypi", "hf"):
                found.append(parse_source(text, self.document.where(place)))
            else:
                found.append(PathSource(str(self.inside(text, place))))
        return tuple(found)

    def inside(self, text: str, at: str) -> Path:
        """The absolute path of `default:file` or of a path relative to this file: neither may leave its folder, by
        `..` or by a link. An absolute path is taken as it stands: whoever writes this file may name any."""
        if not text.strip() or "\\" in text or text.startswith(("~", "//")) or not text.isprintable():
            raise self.error(
                at, f"{text!r} is no path", "write a full path, or one relative to this file, parted by `/`"
            )
        kind = scheme(text)
        packaged = kind == "default"
        if kind and not packaged:
            raise self.error(
                at,
                f"{text!r}: `{kind}:` names no file here",
                f"write {SOURCE}" if "sources" in at else "write a path, or default:file",
            )
        if not packaged and Path(text).is_absolute():
            return Path(text)
        root = PACKAGED if packaged else self.path.parent.resolve()
        down = text.removeprefix("default:")
        path = (root / down).resolve()
        if not _stays(down) or not path.is_relative_to(root):
            raise self.error(
                at,
                f"{text!r} leaves {'the package data' if packaged else 'the folder of this file'}",
                "put the file into that folder, or write its full path",
            )
        return path

    def size(self, text: str | None, at: str) -> int | None:
        return None if text is None else parse_size(text, self.document.where(at))


def _stays(path: str) -> bool:
    """Whether a relative path goes down only."""
    return not path.startswith("/") and ".." not in PurePosixPath(path).parts


def _sampling(base: Sampling, row: SamplingRow) -> Sampling:
    """`base` with what the row sets."""
    changes = {name.removeprefix("json_"): value for name, value in vars(row).items() if value is not None}
    if "template" in changes:
        changes["template"] = tuple(sorted({**dict(base.template), **changes["template"]}.items()))
    if "stop" in changes:
        changes["stop"] = tuple(changes["stop"])
    return replace(base, **changes)
