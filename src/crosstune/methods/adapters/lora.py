"""LoRA: ``W x + (alpha / r) B A x`` with A ``[r, in]`` and B ``[out, r]`` trained, B zero at the start.

Hu et al. 2021 (arXiv 2106.09685), through PEFT's injection. The adapters are fp32 over a model of any
dtype; for evaluation they are merged into the weights, and the weights' own bits are put back after.
Trained parameters: r * (in + out) for every target in every chosen layer.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypeVar

from crosstune.errors import UserError, did_you_mean
from crosstune.methods.adapters.merged import lost, merged, worth_merging
from crosstune.methods.adapters.placement import swap_hooks
from crosstune.methods.base import Method
from crosstune.methods.config import Placed
from crosstune.methods.deferred import LanguageModel, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry

_ADAPTER = "default"
ALSO = {
    "q_proj": ("query", "q_lin", "Wqkv", "q"),
    "k_proj": ("key", "k_lin", "Wqkv", "k"),
    "v_proj": ("value", "v_lin", "Wqkv", "v"),
}
"""What encoders and T5 call these, names of settings: a study is read without PyTorch and `parts`."""


class Targeted(Placed):
    """Settings of a method that changes linear layers.

    Attributes:
        target_modules: Which, by name; "all-linear" for all in the layers. ``q_proj``, ``k_proj`` and
            ``v_proj`` stand for what an encoder calls its projections of queries, keys and values.
    """

    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | Literal["all-linear"] = (
        "q_proj",
        "v_proj",
    )


class LoraConfig(Targeted):
    """Settings of `lora`.

    Attributes:
        rank: Inner dimension r.
        alpha: The update is scaled by alpha / rank.
        dropout: On the adapter's input while training.
    """

    rank: int = Field(default=4, ge=1, le=65_536)
    alpha: float = Field(default=8.0, gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)


def targets(config: Targeted, geometry: Geometry, method: str = "lora") -> list[tuple[int, str, int]]:
    """The linear layers that get an update: layer, name inside it, in + out.

    Raises:
        UserError: A name that none has which the model calls: without a call an update is left out.
    """
    sides = config.sides(geometry)
    layers = {
        i: [
            linear
            for linear in geometry.linears_of(i)
            if linear[0].rpartition(".")[2] not in geometry.uncalled and geometry.side(i, linear[0]) in sides
        ]
        for i in config.chosen(geometry.layers)
    }
    names = {name.rpartition(".")[2] for linears in layers.values() for name, _, _ in linears}
    wanted: Iterable[str] = names if config.target_modules == "all-linear" else config.target_modules
    ends = {linear[0] for linears in layers.values() for linear in linears}
    if geometry.encoder or geometry.encoder_layers:
        known = (next((n for n in ALSO.get(name, ()) if n in names), name) for name in wanted)
        wanted = dict.fromkeys(known)
    for target in wanted:
        if not any(f".{name}".endswith(f".{target}") for name in ends):
            raise UserError(
                f'{method}: unknown target module "{target}"{did_you_mean(target, names)}'
                f"; this model's layers have {', '.join(sorted(names))}"
            )
    return [
        (i, name, rows + columns)
        for i, linears in layers.items()
        for name, rows, columns in linears
        if any(f".{name}".endswith(f".{target}") for target in wanted)
    ]


Settings = TypeVar("Settings", bound=LoraConfig, default=LoraConfig)


class Lora(Method[Settings]):
    """Low-rank updates of chosen weights."""

    name = "lora"
    summary = "low-rank updates of chosen weights (Hu et al. 2021), through PEFT"
    learning_rate = 1e-3
    learning_rate_from = "the middle of the grid 3e-3, 1e-3, 3e-4 of arXiv 2510.24619"
    size = "rank"
    stacking = "once"
    Config = LoraConfig

    @classmethod
    def count(cls, config: LoraConfig, geometry: Geometry) -> int:
        """Rank * (in + out), summed over the targets of all chosen layers."""
        return config.rank * sum(size for _, _, size in targets(config, geometry))

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Wrap the target layers with PEFT's LoRA layers."""
        from peft import LoraConfig as PeftLoraConfig
        from peft import inject_adapter_in_model

        from crosstune.methods.adapters.lora_kernel import use_update

        config = self.config
        self.wrapped: dict[str, Any] = {}
        part.undo.callback(self._unwrap, lm)
        # The layers alone: by the model's config PEFT would take an MLP's names for weights of experts.
        layers: Any = nn.ModuleList(lm.layers)
        settings = PeftLoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT divides by it; a float is as good
            lora_dropout=config.dropout,
            target_modules=[f"{i}.{name}" for i, name, _ in targets(config, lm.geometry)],
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                inject_adapter_in_model(settings, layers, adapter_name=_ADAPTER)
            except ValueError as error:
                raise UserError(f"lora: {error}".replace("\n", " ")) from error
        self.wrapped = _lora_layers(lm)
        for module in self.wrapped.values():
            swap_hooks(module.get_base_layer(), module)
        for parameter in self.parameters().values():
            parameter.data = parameter.data.float()
        for module in self.wrapped.values():
            use_update(module, _ADAPTER)
        part.switch = self._switch

    def _switch(self, on: bool) -> None:
        for module in self.wrapped.values():
            module.enable_adapters(on)

    def _unwrap(self, lm: LanguageModel) -> None:
        """Put the plain linear layers back."""
        for name, module in _lora_layers(lm).items():
            parent, _, leaf = name.rpartition(".")
            if name in self.wrapped:
                swap_hooks(module.get_base_layer(), module)
            setattr(lm.model.get_submodule(parent), leaf, module.get_base_layer())
        self.wrapped = {}

    def parameters(self) -> "dict[str, nn.Parameter]":
        """``<module>.A`` ``[r, in]`` and ``<module>.B`` ``[out, r]``."""
        return {
            f"{name}.{matrix}": getattr(module, f"lora_{matrix}")[_ADAPTER].weight
            for name, module in self.wrapped.items()
            for matrix in ("A", "B")
        }

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Merge into the weights, and put the very bits of the weights back after.

        Where rounding would take too much of a weight's update (`worth_merging`), it stays beside the weight.
        Quantised weights stay as they are: merged, they would be rounded to their few bits once more. So do
        those of a part for some languages, which is switched off for the others.
        """
        loss: dict[str, float] = {}
        if not self.attached().quantized and (self.part is None or self.part.languages is None):
            with torch.no_grad():
                loss = {
                    name: lost(module.get_base_layer().weight, module.get_delta_weight(_ADAPTER))
                    for name, module in self.wrapped.items()
                }
        names, self.merge = worth_merging(loss, len(self.wrapped))
        chosen = [self.wrapped[name] for name in names]

        def merge() -> None:
            for module in chosen:
                module.merge()

        try:
            with merged([module.get_base_layer().weight for module in chosen], merge):
                yield
        finally:
            for module in chosen:
                module.merged_adapters = []


def _lora_layers(lm: LanguageModel) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in lm.model.named_modules() if isinstance(module, LoraLayer)}
