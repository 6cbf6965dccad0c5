"""What a trained method is in PEFT: a config, and the values of PEFT's own parameters by their names.

Hidden vectors of a prefix are folded to keys and values, LLaMA-Adapter's tanh into its gate. What PEFT has no
form for is refused, with the reason.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
from torch import Tensor

from crosstune.errors import UserError
from crosstune.methods.adapters.ia3 import Ia3
from crosstune.methods.adapters.lora import Lora
from crosstune.methods.adapters.peft_tuner import PeftTuner, settings_of
from crosstune.methods.base import Method
from crosstune.methods.prompts.llama_adapter import LlamaAdapter
from crosstune.methods.prompts.prefix import Prefix
from crosstune.methods.prompts.soft_prompt import SoftPrompt
from crosstune.methods.staged.adamergex import AdaMergeX
from crosstune.models.language_model import LanguageModel

_GATED = ("llama", "mistral")
"""Architectures that PEFT's adaption prompt takes, of those whose attention is computed alike."""


@dataclass(frozen=True)
class PeftForm:
    """A method as PEFT has it."""

    config: Any  # PEFT's
    values: dict[str, Tensor]  # by name in PEFT's model
    remark: str | None = None  # what holds of it there and not here; None where nothing does


def peft_form(method: Method, lm: LanguageModel) -> PeftForm:
    """An attached method as PEFT has it.

    Raises:
        UserError: PEFT has no such form.
    """
    if (make := _FORMS.get(type(method))) is None:
        hint = (
            "write a checkpoint with --merged" if method.trains_weights else "a study takes its run by `run:`"
        )
        raise UserError(f"{method.name}: PEFT has no form for it; {hint}")
    form = make(method, lm)
    form.values.update({name: x.clone() for name, x in form.values.items()})  # the method goes
    form.config.task_type = "CAUSAL_LM" if not lm.geometry.encoder else None
    form.config.base_model_name_or_path = lm.name
    return form


def _layer_names(lm: LanguageModel) -> list[str]:
    names = {id(module): name for name, module in lm.model.named_modules()}
    return [names[id(layer)] for layer in lm.layers]


def _targets(lm: LanguageModel, chosen: Sequence[str]) -> list[str]:
    """Linear layers by the ends of their names where these mean no others, by whole names otherwise."""
    ends = {name.rpartition(".")[2] for name in chosen}
    linears = {
        name.removesuffix(".base_layer")
        for name, module in lm.model.named_modules()
        if ".lora_" not in name and type(module).__name__ in ("Linear", "Conv1D")
    }
    others = {name for name in linears if name.rpartition(".")[2] in ends} - set(chosen)
    return sorted(chosen if others else ends)


def _lora(method: Lora, lm: LanguageModel) -> PeftForm:
    config = method.config
    values = {
        f"base_model.model.{name[:-2]}.lora_{name[-1]}.default.weight": x.detach()
        for name, x in method.parameters().items()
    }
    bases = [type(module.get_base_layer()).__name__ for module in method.wrapped.values()]
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT divides by it; a float is as good
        target_modules=_targets(lm, list(method.wrapped)),
        fan_in_fan_out="Conv1D" in bases,
    )
    return PeftForm(settings, values)


def _tuner(method: PeftTuner, lm: LanguageModel) -> PeftForm:
    layers = _layer_names(lm)

    def full(name: str) -> str:
        match = re.match(r"(\d+)\.(.*)", name)
        return f"base_model.model.{layers[int(match[1])]}.{match[2]}" if match else f"base_model.{name}"

    start = len("base_model.model.")
    names = [full(name)[start:] for name in method.wrapped]
    values = {full(name.removeprefix("layers.")): x for name, x in method.state().items()}
    return PeftForm(settings_of(method.config, names), values)


def _soft_prompt(method: SoftPrompt, lm: LanguageModel) -> PeftForm:
    config = peft.PromptTuningConfig(num_virtual_tokens=method.config.length)
    return PeftForm(config, {_TABLE: method.prompt.detach()})


def _prefix(method: Prefix, lm: LanguageModel) -> PeftForm:
    g = lm.geometry
    if len(method.layers) < g.layers:
        raise UserError("prefix: PEFT's stands in all layers; this one has chosen layers")
    if g.encoder or g.value_dim or g.cached or g.uneven:
        raise UserError("prefix: PEFT has it for decoders whose layers cache keys and values of one size")
    with torch.no_grad():
        pairs = [torch.stack(method.project(i)).to(lm.device) for i in method.layers]
    # [2, kv_heads, n, head_dim] a layer -> [n, layers * 2 * kv_heads * head_dim]
    table = torch.cat([pair.permute(2, 0, 1, 3).flatten(1).float() for pair in pairs], dim=1)
    window = getattr(lm.model.config, "sliding_window", None)
    remark = f"PEFT's prefix leaves the cache of sliding layers after {window} tokens; here it stays"
    config = peft.PrefixTuningConfig(num_virtual_tokens=method.config.length)
    return PeftForm(config, {_TABLE: table}, remark if window else None)


def _gated(method: LlamaAdapter, lm: LanguageModel) -> PeftForm:
    config, g = method.config, lm.geometry
    kind = lm.model.config.model_type
    if kind not in _GATED or g.heads * g.head_dim != g.hidden:
        raise UserError(f"llama-adapter: PEFT has it for {' and '.join(_GATED)} with heads of hidden / heads")
    count = len(method.layers)
    if method.layers != list(range(g.layers - count, g.layers)):
        raise UserError("llama-adapter: PEFT's stands in the last layers; this one has others")
    values: dict[str, Tensor] = {}
    for i, name in enumerate(_layer_names(lm)):
        if i not in method.layers:
            continue
        gate = method.gates[i].detach()
        if bool((gate != gate[0]).any()):
            raise UserError("llama-adapter: PEFT has one gate a layer; train it with gate: layer")
        gate = gate[:1].tanh() if config.squash == "tanh" else gate[:1]
        at = f"base_model.model.{name}.self_attn"
        values |= {f"{at}.adaption_gate": gate, f"{at}.adaption_prompt": method.prompts[i].detach()[None]}
    return PeftForm(peft.AdaptionPromptConfig(adapter_len=config.length, adapter_layers=count), values)


def _ia3(method: Ia3, lm: LanguageModel) -> PeftForm:
    values: dict[str, Tensor] = {}
    inputs: list[str] = []
    names: list[str] = []
    modules = {id(module): name for name, module in lm.model.named_modules()}
    for place in method.places:
        name = modules[id(place.projection.module)]
        if len(place.vectors) > 1 or place.vectors[0][1] is not None:
            raise UserError("ia3: PEFT scales whole outputs, and here keys and values share a projection")
        names.append(name)
        inputs += [name] if place.input else []
        vector = place.vectors[0][0].detach()
        values[f"base_model.model.{name}.ia3_l.default"] = vector[None] if place.input else vector[:, None]
    config = peft.IA3Config(target_modules=_targets(lm, names), feedforward_modules=_targets(lm, inputs))
    return PeftForm(config, values)


_TABLE = "prompt_encoder.default.embedding.weight"
_FORMS: dict[type, Callable[[Any, LanguageModel], PeftForm]] = {
    Lora: _lora,
    AdaMergeX: _lora,
    PeftTuner: _tuner,
    SoftPrompt: _soft_prompt,
    Prefix: _prefix,
    LlamaAdapter: _gated,
    Ia3: _ia3,
}
