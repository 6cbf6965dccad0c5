"""An adapter that was trained before, put on the model as it is: ``{name: adapter, path: ...}``.

A folder of PEFT's computes what PEFT computes of it. Prompts are those of `soft-prompt` (PROMPT_TUNING,
P_TUNING), `prefix` with ``space: kv`` (PREFIX_TUNING) and `llama-adapter` (ADAPTION_PROMPT), which the tests
hold against PEFT; what PEFT puts into layers is put there by PEFT itself. A run of a store is its method with
the weights that it trained. Nothing is trained; the count of parameters is that of the adapter.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, Self

from pydantic import ValidationError, computed_field, field_validator, model_validator

from crosstune.errors import UserError, did_you_mean
from crosstune.languages.table import find
from crosstune.methods.base import Method
from crosstune.methods.config import MethodConfig
from crosstune.methods.deferred import LanguageModel, Tensor, nn
from crosstune.methods.prompts.llama_adapter import LlamaAdapter, LlamaAdapterConfig
from crosstune.methods.prompts.prefix import Prefix, PrefixConfig
from crosstune.methods.prompts.soft_prompt import SoftPrompt, SoftPromptConfig
from crosstune.methods.trained.folder import Source, check_sizes, finished_run, peft_folder
from crosstune.methods.trained.tuner import GivenTuner, TunerConfig
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry

_GATED = re.compile(r"layers\.(\d+)\.self_attn\.(adaption_prompt|adaption_gate)$")


class AdapterConfig(MethodConfig):
    """Settings of `adapter`.

    Attributes:
        path: A folder that PEFT wrote, or its id on the hub.
        revision: Branch, tag or commit of a hub id.
        run: A run of a store, ``<store>/<id>``.
        trained_on: Languages of the data it was trained on. Without it results of a ``path`` are not taken
            for zero-shot ones.
    """

    path: str = ""
    revision: str | None = None
    run: str = ""
    trained_on: tuple[str, ...] | None = None

    @field_validator("trained_on")
    @classmethod
    def _codes(cls, codes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            return None if codes is None else tuple(find(code).code for code in codes)
        except UserError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, value: Any, read: Any) -> Self:
        """A record has the content too, which must be what is there today."""
        recorded = None
        if isinstance(value, dict):
            recorded = value.get("content")
            value = {key: setting for key, setting in value.items() if key != "content"}
        config: Self = read(value)
        if config.path and config.run:
            raise ValueError("give path or run, not both")
        if recorded not in (None, config.content):
            raise UserError(f"adapter: {config.path or config.run} has changed since; run the study again")
        return config

    @computed_field  # type: ignore[prop-decorator]  # pydantic's way
    @cached_property
    def content(self) -> str:
        """SHA-256 of what is read; a part of the run's id."""
        return self.source.content if self.path or self.run else ""

    @property
    def source(self) -> Source:
        """Its files.

        Raises:
            UserError: Nothing is named, or it is not there.
        """
        if problem := Adapter.lacking(self):
            raise UserError(problem)
        return finished_run(self.run)[0] if self.run else peft_folder(self.path, self.revision)


class Adapter(Method[AdapterConfig]):
    """A trained adapter as it is."""

    name = "adapter"
    summary = "an adapter trained before: a folder of PEFT's, its hub id, or a run of a store"
    learning_rate = None
    learning_rate_from = "nothing is trained"
    Config = AdapterConfig
    known: ClassVar[dict[str, type[Method[Any]]]] = {}
    """All methods; set where they are listed."""

    @classmethod
    def lacking(cls, config: AdapterConfig) -> str | None:
        """One of the two."""
        if config.path or config.run:
            return None
        return (
            "adapter: give path, a folder that PEFT wrote or a hub id, or run, <store>/<id>; "
            "a new bottleneck adapter: it is called bottleneck"
        )

    @classmethod
    def count(cls, config: AdapterConfig, geometry: Geometry) -> int:
        """Its tensors' entries; of a run what that trained; 0 of none.

        Raises:
            UserError: It is of a model of other sizes.
        """
        if config.run:
            source, record = finished_run(config.run)
            trained, settings = record.trained_parameters or 0, record.method.settings
            if (kind := cls.known.get(record.method.name)) and not record.head_parameters:
                here = kind.count(kind.Config.model_validate(settings), geometry)
                if here != trained:
                    raise UserError(
                        f"adapter: {source.name} trained {trained:,} parameters of {record.model}, and would "
                        f"have {here:,} on this model; name the model that it was trained on"
                    )
            return trained
        if not config.path:
            return 0
        check_sizes(config.source, geometry)
        return sum(map(math.prod, config.source.shapes.values()))

    @property
    def untuned(self) -> bool:
        """It was tuned before."""
        return False

    def beyond(self, language: str) -> bool:
        """Whether its training data was in other languages, or may have been."""
        if self.config.trained_on is not None:
            return set(self.config.trained_on) != {language}
        return not (self.config.run and finished_run(self.config.run)[1].zero_shot)

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Put its method on the model, with its weights.

        Raises:
            UserError: It is of another model, or of a kind that is not taken.
        """
        self.method, state = self._run() if self.config.run else self._peft(lm.geometry)
        name = self.config.path or self.config.run
        base = self._base()
        if base and not same_model(base, lm.name):
            self.remark = f"{name} was trained on {base}, and stands on {lm.name} here"
        window = getattr(lm.model.config, "sliding_window", None)
        if self.config.path and window and self.config.source.settings.get("peft_type") == "PREFIX_TUNING":
            seen = f"every token sees it, where PEFT's leaves sliding layers after {window} tokens"
            self.remark = "; ".join(filter(None, [self.remark, f"{name}: {seen}"]))
        try:
            self.method.attach(lm, seed, part.languages)
            part.undo.callback(self.method.detach)
            self.method.load_state(state)
        except UserError as error:
            raise UserError(f"adapter: {name} does not fit {lm.name}: {error}") from error

    def _base(self) -> str:
        """The model that it was trained on, where its files say so."""
        if self.config.run:
            return finished_run(self.config.run)[1].model
        return str(self.config.source.settings.get("base_model_name_or_path") or "")

    def _run(self) -> "tuple[Method, dict[str, Tensor]]":
        source, record = finished_run(self.config.run)
        state = source.tensors()
        name = record.method.name
        if name not in self.known:
            raise UserError(f'adapter: {source.name} has a method "{name}"{did_you_mean(name, self.known)}')
        if record.unlabelled is not None or any(key.startswith("head.") for key in state):
            what = "language parts" if record.unlabelled is not None else "a head"
            raise UserError(f"adapter: {source.name} has {what} beside its weights; take its own results")
        kind = self.known[name]
        try:
            return kind(kind.Config.model_validate(record.method.settings)), state
        except ValidationError as error:
            raise UserError(f"adapter: {source.name}: settings of {name} that are not known") from error

    def _peft(self, geometry: Geometry) -> "tuple[Method, dict[str, Tensor]]":
        source = self.config.source
        kind = str(source.settings.get("peft_type"))
        if kind not in ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT"):
            return GivenTuner(TunerConfig(settings=dict(source.settings))), source.tensors()
        state = source.tensors()
        if kind == "ADAPTION_PROMPT":
            return _gated(source, state)
        prompt = state.get("prompt_embeddings")
        if prompt is None or prompt.dim() != 2 or len(state) > 1:
            raise UserError(f"adapter: {source.name}: no prompt_embeddings of two dimensions alone")
        if kind != "PREFIX_TUNING":
            return SoftPrompt(SoftPromptConfig(length=len(prompt))), {"prompt": prompt.float()}
        if prompt.shape[1] != (wanted := geometry.layers * 2 * geometry.kv_size):
            raise UserError(
                f"adapter: {source.name}: {prompt.shape[1]} numbers a token, the model has {wanted}"
            )
        # [n, layers * 2 * width] -> [2, n, width] a layer
        layers = prompt.float().view(len(prompt), geometry.layers, 2, geometry.kv_size).permute(1, 2, 0, 3)
        states = {f"layers.{i}": x.contiguous() for i, x in enumerate(layers)}
        return Prefix(PrefixConfig(space="kv", length=len(prompt))), states

    def parameters(self) -> "dict[str, nn.Parameter]":
        """None: nothing is trained."""
        return {}

    def trained_parameters(self) -> int:
        """Those of the adapter, whoever trained them."""
        return self.count(self.config, self.attached().geometry)

    @property
    def lowest_layer(self) -> int:
        """Of its method."""
        return self.method.lowest_layer

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """In its method's cheapest form."""
        with self.method.evaluating():
            self.merge = self.method.merge
            yield


def _gated(source: Source, state: "dict[str, Tensor]") -> "tuple[Method, dict[str, Tensor]]":
    """LLaMA-Adapter as PEFT has it: one gate a layer, as it is, in the last layers."""
    tensors: dict[str, Tensor] = {}
    for name, x in state.items():
        if not (match := _GATED.search(name)):
            raise UserError(f"adapter: {source.name}: {name} is no adaption prompt")
        layer, what = match.groups()
        prompt = what == "adaption_prompt"
        tensors[f"layers.{layer}.{'prompt' if prompt else 'gate'}"] = x.float()[0] if prompt else x.float()
    prompts = {int(name.split(".")[1]): x for name, x in tensors.items() if name.endswith("prompt")}
    if not prompts:
        raise UserError(f"adapter: {source.name} has no prompts")
    length = len(next(iter(prompts.values())))
    config = LlamaAdapterConfig(
        length=length, layers=sorted(prompts), gate="layer", squash="none", init="random"
    )
    return LlamaAdapter(config), tensors


def same_model(name: str, other: str) -> bool:
    """Whether two names may be of one model: the last parts of ids and paths, without a revision."""
    ends = [re.split("[/:]", id_.partition("@")[0].rstrip("/"))[-1].casefold() for id_ in (name, other)]
    return ends[0] == ends[1]
