"""Any tuner of PEFT by its own settings: ``{name: peft, type: DORA, r: 8}``.

The equations and papers are those of PEFT's documentation (https://huggingface.co/docs/peft). PEFT's modules
take the place of linear layers, in fp32 over a model of any dtype, are trained by our loop, and are merged
into the weights for evaluation where the tuner can be and rounding takes little of the update. Trained
parameters are counted by putting the tuner on linear layers of the model's sizes without storage.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from pydantic import ConfigDict, model_validator

from crosstune.errors import UserError, did_you_mean
from crosstune.methods.adapters.adalora import Allocation
from crosstune.methods.adapters.lora import Targeted, targets
from crosstune.methods.adapters.merged import merged_layers
from crosstune.methods.adapters.placement import swap_hooks
from crosstune.methods.base import Method, Pass
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry

_ADAPTER = "default"

TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in (
        "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "GLORA", "GRALORA", "HIRA", "HRA", "IA3",
        "LILY", "LOHA", "LOKR", "LORA", "MISS", "OFT", "PEANUT", "PSOFT", "RANDLORA", "ROAD", "SHIRA",
        "SUPERTUNING", "TINYLORA", "UNILORA", "VBLORA", "VERA", "WAVEFT",
    )},
    "DORA": ("LORA", {"use_dora": True}),
    "RSLORA": ("LORA", {"use_rslora": True}),
    "ADALORA": ("ADALORA", {"total_step": 10**9}),  # known when training begins
    "LN_TUNING": ("LN_TUNING", {}),
}  # fmt: skip
"""By the name in a study: PEFT's type, and the settings that make it that one."""

NORMS = "LN_TUNING"
"""The one that trains norms, all of the chosen layers."""

UNMERGED = frozenset({"LILY", NORMS})
"""Those that PEFT cannot merge, and norms, of which trained copies take the place."""

REFUSED = {
    **dict.fromkeys(("PROMPT_TUNING", "P_TUNING", "CPT", "MULTITASK_PROMPT_TUNING"), "use soft-prompt"),
    **dict.fromkeys(("PREFIX_TUNING", "CARTRIDGE"), "use prefix"),
    "ADAPTION_PROMPT": "use llama-adapter",
    **dict.fromkeys(("POLY", "XLORA"), "it routes by task ids, of which a study has one"),
    "FROD": "it decomposes the weights together, and cannot be counted without them",
    "OSF": "it trains whole weights in place; use full",
    "PVERA": "it draws at random in evaluation, and differs from its own merged form",
    "BEFT": "it trains biases, which these linear layers do not all have",
    "ADAMSS": "it needs scikit-learn and a schedule of its own",
    "SHADOW": "it is a second model beside the first",
    "TRAINABLE_TOKENS": "it trains embeddings of chosen tokens",
}
"""Why a type of PEFT's is not taken, and what is."""

_NOT_TAKEN = {
    "bias": "biases are not trained beside it",
    "modules_to_save": "whole modules are trained by full",
    "target_parameters": "give target_modules",
    "trainable_token_indices": "embeddings stay as they are",
    "layers_to_transform": "give layers",
    "layers_pattern": "give layers",
    "layer_replication": "the model keeps its layers",
    "task_type": "it is a causal language model",
    "inference_mode": "it is trained, then evaluated",
    "exclude_modules": "give target_modules",
    "total_step": "it is the number of steps that training has",
    "rank_pattern": "training finds it",
}
_KEEPS_WEIGHTS = (True, False, "gaussian", "orthogonal")


class PeftConfig(Targeted):
    """Settings of `peft`: ``type``, which layers, and what PEFT's config of that type takes.

    Attributes:
        type: PEFT's name of the tuner, in capitals.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = "LORA"

    @model_validator(mode="after")
    def _known(self) -> "PeftConfig":
        if self.type in REFUSED:
            raise ValueError(f"type {self.type} is not taken: {REFUSED[self.type]}")
        if self.type not in TYPES:
            raise ValueError(f'unknown type "{self.type}"{did_you_mean(self.type, TYPES)}; one of '
                             f"{', '.join(sorted(TYPES))}")  # fmt: skip
        if self.type == NORMS and "target_modules" in self.model_fields_set:
            raise ValueError(f"type {NORMS} trains all norms of layers; leave target_modules out")
        for key, value in (self.model_extra or {}).items():
            if key in _NOT_TAKEN:
                raise ValueError(f"{key} is not taken: {_NOT_TAKEN[key]}")
            if key == "init_lora_weights" and value not in _KEEPS_WEIGHTS:
                raise ValueError(f"init_lora_weights {value!r} changes the model's own weights; leave it out")
        return self


def _settings(config: PeftConfig, names: list[str]) -> Any:
    """PEFT's config for linear layers of these names.

    Raises:
        UserError: PEFT does not take a setting.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    kind, fixed = TYPES[config.type]
    known = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
    keys = {field.name for field in fields(known)}
    extra = dict(config.model_extra or {})
    if "feedforward_modules" in keys:  # of (IA)³: whose input is scaled, not output
        ends = tuple(f".{end}" for end in extra.pop("feedforward_modules", ()))
        extra["feedforward_modules"] = [name for name in names if name.endswith(ends)] if ends else []
    for key in extra:
        if key not in keys:
            raise UserError(f'peft: {config.type} has no setting "{key}"{did_you_mean(key, keys)}')
    try:
        settings: Any = known(**{"target_modules": names} | fixed | extra)
        if kind == "ADALORA" and settings.target_r >= settings.init_r:
            raise ValueError(f"target_r {settings.target_r} should be below init_r {settings.init_r}")
        return settings
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"peft: {config.type}: {error}".replace("\n", " ")) from error


def _put_on(layers: "nn.ModuleList", config: PeftConfig, names: list[str]) -> Any:
    """PEFT's tuner over the layers, which it changes.

    Raises:
        UserError: It does not fit them.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import PeftType

    settings = _settings(config, names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PEFT_TYPE_TO_TUNER_MAPPING[PeftType(TYPES[config.type][0])](layers, settings, _ADAPTER)
    except (ValueError, TypeError, RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"peft: {config.type}: {error}".replace("\n", " ")) from error


def _without_storage(geometry: Geometry, config: PeftConfig) -> "nn.ModuleList":
    """Linear layers of the model's sizes under their names, on the meta device."""
    layers = nn.ModuleList(nn.Module() for _ in range(geometry.layers))
    for i in config.chosen(geometry.layers):
        for name, rows, columns in geometry.linears_of(i):
            at: Any = layers[i]
            *path, leaf = name.split(".")
            for step in path:
                if not hasattr(at, step):
                    at.add_module(step, nn.Module())
                at = getattr(at, step)
            at.add_module(leaf, nn.Linear(rows, columns, bias=False, device="meta"))
    return layers.requires_grad_(False)


class PeftTuner(Method[PeftConfig]):
    """A tuner of PEFT in chosen layers."""

    name = "peft"
    summary = "any tuner of PEFT by its own settings: DoRA, VeRA, OFT, LoHa, ..."
    learning_rate = 1e-3
    learning_rate_from = "that of lora; not searched"
    stacking = "once"
    Config = PeftConfig

    @classmethod
    def count(cls, config: PeftConfig, geometry: Geometry) -> int:
        """What PEFT makes trainable on layers of these sizes, which have no storage."""
        if config.type == NORMS:
            if config.where is not None:
                raise UserError(f"peft: {NORMS} trains all norms of layers; take where out")
            chosen = config.chosen(geometry.layers)
            if not (norms := sum(geometry.counts[i][2] for i in chosen)):
                raise UserError(f"peft: {NORMS}: these layers have no norms with weights")
            return norms
        linears = targets(config, geometry, "peft")
        if config.type == "LORA" and not config.model_extra:  # the default, which needs no PyTorch: r is 8
            return 8 * sum(size for _, _, size in linears)
        names = [f"{i}.{name}" for i, name, _ in linears]
        if config.type == "SHIRA":  # chooses entries of a weight, which it cannot without storage
            return int(_settings(config, names).r) * sum(size for _, _, size in linears)
        if config.type == "ADALORA":  # without storage PEFT takes its numbers of ranks for trained
            return int(_settings(config, names).init_r) * sum(size + 1 for _, _, size in linears)
        with torch.random.fork_rng(devices=[]):
            layers = _without_storage(geometry, config)
            return sum(p.numel() for p in _put_on(layers, config, names).parameters() if p.requires_grad)

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Let PEFT wrap the target layers; its tensors are those that were not there before."""
        from crosstune.methods.adapters.lora_kernel import use_update

        if lm.quantized:
            raise UserError("peft: quantised weights; use lora, or take quantize out")
        self.count(self.config, lm.geometry)
        layers = nn.ModuleList(lm.layers)
        names = (
            self._norms(lm)
            if self.config.type == NORMS
            else [f"{i}.{name}" for i, name, _ in targets(self.config, lm.geometry, "peft")]
        )
        children = {module: dict(module.named_children()) for module in layers.modules()}
        before = {id(tensor) for tensor in (*layers.parameters(), *layers.buffers())}
        self.wrapped: dict[str, Any] = {}
        part.undo.callback(self._unwrap, children)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tuner = _put_on(layers, self.config, names)
        self.wrapped = {name: layers.get_submodule(name) for name in names}
        for module in self.wrapped.values():
            for copy in getattr(module, "ln_tuning_layers", {}).values():
                swap_hooks(copy, nn.Module())  # the norm's own are run once
            base = module.get_base_layer()
            if TYPES[self.config.type][0] != "LORA" or not use_update(module, _ADAPTER):
                base.weight_is_read = True
                part.undo.callback(delattr, base, "weight_is_read")
            swap_hooks(base, module)
            part.undo.callback(swap_hooks, base, module)
            hook = module.register_forward_hook(_as_input)
            part.undo.callback(hook.remove)
        added = [
            (f"layers.{name.removeprefix('model.')}", tensor)
            for name, tensor in (*tuner.named_parameters(), *tuner.named_buffers())
            if id(tensor) not in before
        ]
        for _, tensor in added:
            if tensor.is_floating_point():
                tensor.data = tensor.data.float()
        self.trained = {name: x for name, x in added if isinstance(x, nn.Parameter) and x.requires_grad}
        self.drawn = {name: x for name, x in added if name not in self.trained}
        self.allocation = Allocation(tuner) if self.config.type == "ADALORA" else None
        part.switch = self._switch

    def _norms(self, lm: LanguageModel) -> list[str]:
        """Names of the norms of the chosen layers, from their layers on."""
        norms = {id(weight.tensor) for weight in lm.parts.weights(lm.model) if weight.norm}
        return [
            f"{i}.{name}"
            for i in self.config.chosen(lm.geometry.layers)
            for name, module in lm.layers[i].named_modules()
            if any(id(parameter) in norms for parameter in module.parameters(recurse=False))
        ]

    def begin_training(self, steps: int) -> list[int]:
        """AdaLoRA's schedule of ranks."""
        if self.allocation is not None:
            self.allocation.begin(steps)
        return [steps]

    def objective(self, loss: Tensor, of: Pass) -> Tensor:
        """With AdaLoRA's orthogonality term."""
        return loss if self.allocation is None else loss + of.share * self.allocation.loss().to(loss.device)

    def with_gradients(self, step: int) -> None:
        """AdaLoRA's choice of ranks."""
        if self.allocation is not None:
            self.allocation.step(step)

    def training_state(self) -> dict[str, Tensor]:
        """AdaLoRA's running averages."""
        return {} if self.allocation is None else self.allocation.state()

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put them back."""
        if self.allocation is not None:
            self.allocation.load(state)

    def _switch(self, on: bool) -> None:
        for module in self.wrapped.values():
            module.enable_adapters(on)

    def _unwrap(self, children: "dict[nn.Module, dict[str, nn.Module]]") -> None:
        """Put the very modules back that were there."""
        for module, named in children.items():
            for name, child in named.items():
                if getattr(module, name) is not child:
                    setattr(module, name, child)
        self.wrapped, self.trained, self.drawn = {}, {}, {}

    def parameters(self) -> "dict[str, nn.Parameter]":
        """By PEFT's names, ``layers.<i>.<module>.<tensor>``."""
        return self.trained

    def state(self) -> dict[str, Tensor]:
        """The trained tensors, and those that were drawn and stay as they are."""
        return super().state() | {name: x.detach() for name, x in self.drawn.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put both back.

        Raises:
            UserError: Names or shapes differ.
        """
        for name, x in self.drawn.items():
            if name not in state or state[name].shape != x.shape:
                raise UserError(f"weights do not fit {self.name}: {name} is not {tuple(x.shape)} in them")
        super().load_state({name: x for name, x in state.items() if name not in self.drawn})
        with torch.no_grad():
            for name, x in self.drawn.items():
                x.copy_(state[name])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Merge where PEFT can, and put the very bits of the weights back after."""
        mergeable = self.config.type not in UNMERGED and (self.part is None or self.part.languages is None)
        with merged_layers(self.wrapped if mergeable else {}, len(self.wrapped)) as self.merge:
            yield


def _as_input(module: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Some tuners return their own dtype; what stands behind them has the model's."""
    return output.to(inputs[0].dtype)
