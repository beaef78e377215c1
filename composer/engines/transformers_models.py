"""A base of Hugging Face's form with its adapters, as transformers and PEFT compute it: text to tokens, tokens to scores.

Loaded by `transformers_child.py` in the interpreter that has torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import peft
import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

from composer.decoding.moe import Moe, check, routing
from composer.decoding.policies import RankExpert
from composer.errors import RoutingError

if TYPE_CHECKING:
    from routers.types import Array

_WEIGHTS = "adapter_model.safetensors"
_OURS = frozenset(inspect.signature(transformers.PreTrainedTokenizerBase.apply_chat_template).parameters)


class Base:
    """One model in memory. An adapter is attached beside the weights, never merged into them: the base stays as it was.

    Raises ValueError for a folder that does not hold the whole model, and what transformers raises for one it cannot read.
    """

    def __init__(self, name: str, folder: Path, *, dtype: str, template: str | None, context: int) -> None:
        self.name, self.context = name, context
        self._template = template
        transformers.utils.logging.disable_progress_bar()  # an error quotes the log
        place: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **place)
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            **place,
        )
        if missing := sorted(told["missing_keys"]):  # transformers would make them up
            raise ValueError(f"{folder} lacks {len(missing)} tensors of the model: {', '.join(missing[:3])}")
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: Any = model.to(self._device).eval()
        self._peft: Any = None
        self._moe: Moe | RoutingError | None = None  # what `check` said of it, once it was asked
        self._layers: list[Any] = []
        self._active: str | None = None
        ends = model.generation_config.eos_token_id
        known = ends if isinstance(ends, list) else [ends]
        self.ends = frozenset(one for one in (*known, self.tokenizer.eos_token_id) if one is not None)

    def vocabulary(self) -> list[str]:
        """The tokens by id; "" where an id has none."""
        known = self.tokenizer.get_vocab()
        tokens = [""] * (max(known.values()) + 1)
        for token, place in known.items():
            tokens[place] = token
        return tokens

    # Text and tokens

    def read(self, asked: Mapping[str, Any], options: Mapping[str, Any]) -> list[int]:
        """The tokens of a `prompt` as it stands, marked as the tokenizer marks the beginning of a text, or of `messages` in
        the chat template with these options. Raises ValueError."""
        if "messages" not in asked:
            return self._ids(asked["prompt"])
        if taken := sorted(_OURS & options.keys()):
            raise ValueError(f"{', '.join(taken)}: no option of a chat template")
        if self._template is None and not self.tokenizer.chat_template:
            raise ValueError(f"{self.name} has no chat template")
        text = self.tokenizer.apply_chat_template(
            asked["messages"], chat_template=self._template, add_generation_prompt=True, tokenize=False, **options
        )
        return self._ids(text, marked=False)

    def _ids(self, text: str, *, marked: bool = True) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=marked).input_ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def spell(self, token: int) -> str:
        """One token, a special one too."""
        return str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))

    # Scores

    def stream(self, adapter: str | None, prompt: Sequence[int], *, weak: bool = False) -> Stream:
        """A source of scores after this prompt; `weak`: by the weak routing of a mixture-of-experts model. Raises
        RoutingError for a model that has none that can be controlled."""
        if weak:
            self._checked()
        return Stream(self, adapter, prompt, transformers.DynamicCache(config=self._model.config), weak)

    def scores(
        self, adapter: str | None, tokens: Sequence[int], cache: Any, last: int = 1, *, weak: bool = False
    ) -> Array:
        """The scores [last, tokens of the vocabulary] of what follows each of the last tokens, in float32. Raises ValueError
        where they are no numbers."""
        self._use(adapter)
        with torch.inference_mode(), self._routed(weak=weak):
            ids = torch.tensor([list(tokens)], device=self._device)
            found = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=last).logits[0]
            scores: Array = found.float().cpu().numpy()
        if np.isnan(scores).any():
            raise ValueError("its scores are no numbers: the weights do not bear this `dtype`")
        return scores

    def after(self, adapter: str | None, prompt: Sequence[int], target: str) -> tuple[list[int], Array]:
        """The target's own tokens, and the scores [targets, tokens of the vocabulary] by which each was to come. Raises
        ValueError for a target without tokens."""
        ids = self._ids(target, marked=False)
        if not ids:
            raise ValueError("the target has no tokens")
        cache = transformers.DynamicCache(config=self._model.config)
        return ids, self.scores(adapter, [*prompt, *ids], cache, len(ids) + 1)[:-1]

    def _routed(self, *, weak: bool) -> AbstractContextManager[object]:
        """Routed by the model itself, or in each layer to the best expert that it would not choose."""
        if not weak:
            return nullcontext()
        moe = self._checked()
        return routing(moe, {"weak": (RankExpert(moe.default_k),)})

    def _checked(self) -> Moe:
        """The model's routing, looked at once. Raises RoutingError, also what it raised the first time."""
        if self._moe is None:
            try:
                self._moe = check(self._model)
            except RoutingError as why:
                self._moe = why
        if isinstance(self._moe, RoutingError):
            raise self._moe.with_traceback(None)
        return self._moe

    # Adapters

    def attach(self, name: str, folder: Path) -> None:
        """Read a PEFT folder; its weights from safetensors and nothing else. Raises ValueError, and what PEFT raises."""
        if not (folder / _WEIGHTS).is_file():
            raise ValueError(f"{folder} holds no {_WEIGHTS}")
        state = load_file(folder / _WEIGHTS)
        config = peft.PeftConfig.from_pretrained(str(folder), local_files_only=True)
        config.inference_mode = True
        config.base_model_name_or_path = self._model.config._name_or_path  # the caller knows; PEFT would warn
        try:
            if self._peft is None:
                self._peft = peft.get_peft_model(self._model, config, adapter_name=name)
            else:
                self._peft.add_adapter(name, config)
            found = peft.set_peft_model_state_dict(self._peft, state, adapter_name=name)
            ours = f".{name}."
            missing = [key for key in found.missing_keys if ours in key]
            for what, keys in (("are not the model's", found.unexpected_keys), ("are missing", missing)):
                if keys:
                    raise ValueError(f"{len(keys)} of its tensors {what}: {', '.join(sorted(keys)[:3])}")
        except BaseException:
            self.detach(name)
            raise
        finally:
            self._settle()

    def detach(self, name: str) -> None:
        """Forget an adapter, if it is there."""
        if self._peft is None or name not in self._peft.peft_config:
            return
        if len(self._peft.peft_config) == 1:
            self._model, self._peft = self._peft.unload(), None
        else:
            self._peft.set_adapter(next(other for other in self._peft.peft_config if other != name))
            self._peft.delete_adapter(name)
        self._settle()

    def _settle(self) -> None:
        """Take stock of the layers that an adapter changes."""
        self._model.eval()  # a new adapter begins as one that is trained, with dropout
        self._layers = [layer for layer in self._model.modules() if isinstance(layer, BaseTunerLayer)]
        self._switch(None)

    def _use(self, adapter: str | None) -> None:
        if adapter != self._active:
            self._switch(adapter)

    def _switch(self, adapter: str | None) -> None:
        """What `set_adapter` of PEFT does without what only training needs, which takes 13 ms of each token here. That it
        does what it should is seen when an adapter is attached: it has to change what comes next, and the base has not."""
        for layer in self._layers:
            layer._disable_adapters = adapter is None
            if adapter is not None:
                layer._active_adapter = [adapter]
        self._active = adapter


@dataclass(slots=True)
class Stream:
    """One source of scores, with a cache of its own."""

    base: Base
    adapter: str | None
    prompt: Sequence[int]
    cache: Any = field(repr=False)
    weak: bool = False

    @property
    def place(self) -> tuple[str, str]:
        """Its base and its adapter."""
        return self.base.name, self.adapter or ""

    def next(self, tokens: Sequence[int]) -> Array:
        """The scores [tokens of the vocabulary] after these, which follow all that it was given before."""
        found: Array = self.base.scores(self.adapter, tokens, self.cache, weak=self.weak)[-1]
        return found
