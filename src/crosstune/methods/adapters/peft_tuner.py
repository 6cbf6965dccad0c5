"""Any tuner of PEFT by its own settings: ``{name: peft, type: DORA, r: 8}``.

The equations and papers are those of PEFT's documentation (https://huggingface.co/docs/peft). PEFT's modules
take the place of linear layers, in fp32 over a model of any dtype, are trained by our loop, and are merged
into the weights for evaluation where the tuner can be and rounding takes little of the update. Trained
parameters are counted by putting the tuner on linear layers of the model's sizes without storage.
"""

import warnings
from dataclasses import fields
from typing import Any

from pydantic import ConfigDict, model_validator

from crosstune.errors import UserError, did_you_mean
from crosstune.files import table_beside
from crosstune.methods.adapters.lora import Targeted, targets
from crosstune.methods.adapters.peft_layers import ADAPTER, PeftLayers
from crosstune.methods.base import Pass
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry

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

_REFUSED = table_beside(__file__, "peft_refused.toml")
REFUSED: dict[str, str] = _REFUSED["types"]
"""Why a type of PEFT's is not taken, and what is."""
KEEPS_WEIGHTS = (True, False, "gaussian", "orthogonal")


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
        if self.type == NORMS and self.target_modules != type(self).model_fields["target_modules"].default:
            raise ValueError(f"type {NORMS} trains all norms of layers; leave target_modules out")
        for key, value in (self.model_extra or {}).items():
            if key in _REFUSED["settings"]:
                raise ValueError(f"{key} is not taken: {_REFUSED['settings'][key]}")
            if key == "init_lora_weights" and value not in KEEPS_WEIGHTS:
                raise ValueError(f"init_lora_weights {value!r} changes the model's own weights; leave it out")
        return self


def settings_of(config: PeftConfig, names: list[str]) -> Any:
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
    except Exception as error:  # whatever PEFT makes of settings that do not go together
        raise UserError(f"peft: {config.type}: {error}".replace("\n", " ")) from error


def _put_on(layers: "nn.ModuleList", config: PeftConfig, names: list[str]) -> Any:
    """PEFT's tuner over the layers, which it changes.

    Raises:
        UserError: It does not fit them.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.utils import PeftType

    settings = settings_of(config, names)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PEFT_TYPE_TO_TUNER_MAPPING[PeftType(TYPES[config.type][0])](layers, settings, ADAPTER)
    except Exception as error:  # as above
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


class PeftTuner(PeftLayers[PeftConfig]):
    """A tuner of PEFT in chosen layers."""

    name = "peft"
    summary = "any tuner of PEFT by its own settings: DoRA, VeRA, OFT, LoHa, ..."
    learning_rate = 1e-3
    learning_rate_from = "that of lora; not searched"
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
            return int(settings_of(config, names).r) * sum(size for _, _, size in linears)
        if config.type == "ADALORA":  # without storage PEFT takes its numbers of ranks for trained
            return int(settings_of(config, names).init_r) * sum(size + 1 for _, _, size in linears)
        with torch.random.fork_rng(devices=[]):
            layers = _without_storage(geometry, config)
            return sum(p.numel() for p in _put_on(layers, config, names).parameters() if p.requires_grad)

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Let PEFT wrap the target layers."""
        if lm.quantized:
            raise UserError("peft: quantised weights; use lora, or take quantize out")
        self.count(self.config, lm.geometry)
        layers = nn.ModuleList(lm.layers)
        names = (
            self._norms(lm)
            if self.config.type == NORMS
            else [f"{i}.{name}" for i, name, _ in targets(self.config, lm.geometry, "peft")]
        )
        tuner = self.wrap(part, layers, lambda: _put_on(layers, self.config, names), seed)
        self.allocation = Allocation(tuner) if self.config.type == "ADALORA" else None

    @property
    def mergeable(self) -> bool:
        """Whether PEFT can merge the type."""
        return self.config.type not in UNMERGED

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


_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class Allocation:
    """What AdaLoRA (Zhang et al. 2023, arXiv 2303.10512) needs of a training loop, around PEFT's tuner.

    PEFT's model adds the mean of ``|A A' - I|`` and ``|B' B - I|``, times ``orth_reg_weight``, to a loss that
    it is given, and its rank allocator weighs each rank by its parameters and gradients after each step. Our
    loop computes its own loss, so that the term is computed here; the allocator is PEFT's.

    Args:
        tuner: PEFT's ``AdaLoraModel``.
    """

    def __init__(self, tuner: Any) -> None:
        self._tuner = tuner
        self._config = tuner.peft_config[tuner.trainable_adapter_name]

    def begin(self, steps: int) -> None:
        """Plan for a number of steps.

        Raises:
            UserError: They leave none to reduce ranks in.
        """
        config = self._config
        if config.tinit >= steps - config.tfinal:
            raise UserError(
                f"peft: ADALORA reduces ranks after tinit {config.tinit} and until tfinal {config.tfinal} "
                f"steps before the end, and training has {steps}; lower tinit or tfinal"
            )
        config.total_step, config.rank_pattern = steps, None
        self._tuner.rankallocator.reset_ipt()

    def loss(self) -> Tensor:
        """PEFT's orthogonality term."""
        terms = []
        for name, p in self._tuner.model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                product = p @ p.T if "lora_A" in name else p.T @ p
                terms.append(torch.linalg.norm(product - torch.eye(len(product), device=p.device)))
        mean = torch.stack([term.to(terms[0].device) for term in terms]).mean()
        return mean * float(self._config.orth_reg_weight)

    def step(self, step: int) -> None:
        """PEFT's call after a step of the optimiser, which needs its gradients."""
        self._tuner.update_and_allocate(step)

    def state(self) -> dict[str, Tensor]:
        """Running averages, and the ranks that were kept."""
        allocator = self._tuner.rankallocator
        averages = {f"{kind}.{n}": x for kind in _AVERAGES for n, x in getattr(allocator, kind).items()}
        kept = self._config.rank_pattern or {}
        return averages | {f"kept.{name}": torch.tensor(ranks) for name, ranks in kept.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Put a `state` back."""
        device = {name: p.device for name, p in self._tuner.model.named_parameters()}
        kept: dict[str, list[bool]] = {}
        for key, x in state.items():
            kind, _, name = key.partition(".")
            if kind == "kept":
                kept[name] = x.tolist()
            else:
                getattr(self._tuner.rankallocator, kind)[name] = x.to(device[name])
        self._config.rank_pattern = kept or None
