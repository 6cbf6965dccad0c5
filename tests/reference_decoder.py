"""A second, slow implementation of the four families and of every method, in fp64 and without transformers.

One sequence at a time, one head at a time, masks by the definition. It shares no code with the package:
weights are read from the model's tensors, a method's effect from its trained tensors and its equation.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from crosstune.methods.base import Method
from crosstune.methods.stack import Stack
from crosstune.models.language_model import LanguageModel


@dataclass
class Effect:
    """What a method does to the model.

    Attributes:
        joint: Layer -> keys and values ``[kv_heads, n, head_dim]`` in front of the text's.
        gated: Layer -> keys, values and a gate a head, one a method.
        front: ``[n, hidden]`` in front of the embeddings.
        first: Position of the first token.
        adapters: Layer and place (such as "inside mlp") -> what each adapter adds, made of what it reads.
        scales: (IA)3's vectors, by name.
        embedded: What becomes of the embeddings.
        finished: What becomes of the final hidden states.
    """

    joint: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    gated: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = field(default_factory=dict)
    front: Tensor | None = None
    first: int = 0
    adapters: dict[tuple[int, str], list[Callable[[Tensor], Tensor]]] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)
    embedded: Callable[[Tensor], Tensor] = lambda x: x
    finished: Callable[[Tensor], Tensor] = lambda x: x

    def adapted(self, layer: int, place: str, x: Tensor, read: Tensor | None = None) -> Tensor:
        """``x`` with what the adapters of a place add, one after the other."""
        for adapter in self.adapters.get((layer, place), []):
            x = x + adapter(x if read is None else read)
        return x


def weights_of(lm: LanguageModel) -> dict[str, Tensor]:
    """fp64 weights by plain name, LoRA's ``W + (alpha / r) B A`` multiplied out."""
    raw = {k: v.detach().double().cpu() for k, v in lm.model.named_parameters()}
    plain = {
        k.replace(".base_layer", ""): v for k, v in raw.items() if ".lora_" not in k and ".hada_" not in k
    }
    for name, a in raw.items():
        if ".lora_A.default" in name:
            module = name.removesuffix(".lora_A.default.weight")
            b = raw[f"{module}.lora_B.default.weight"]
            plain[f"{module}.weight"] = plain[f"{module}.weight"] + lora_scale(lm, module) * b @ a
        if ".hada_w1_a.default" in name:  # LoHa: a product of two products, entry by entry
            module = name.removesuffix(".hada_w1_a.default")
            one, two = (
                raw[f"{module}.hada_w{i}_a.default"] @ raw[f"{module}.hada_w{i}_b.default"] for i in "12"
            )
            layer: Any = lm.model.get_submodule(module)
            change = layer.alpha["default"] / layer.r["default"] * one * two
            plain[f"{module}.weight"] = plain[f"{module}.weight"] + change
    return plain


def lora_scale(lm: LanguageModel, module: str) -> float:
    """Alpha / rank, from the two numbers PEFT holds."""
    layer: Any = lm.model.get_submodule(module)
    return float(layer.lora_alpha["default"]) / int(layer.r["default"])


def norm(x: Tensor, weight: Tensor, config: Any) -> Tensor:
    """Root-mean-square norm; Gemma multiplies by 1 + weight."""
    scaled = x / torch.sqrt((x * x).mean(-1, keepdim=True) + config.rms_norm_eps)
    return scaled * (weight + 1 if config.model_type.startswith("gemma") else weight)


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotary embedding: entries i and i + d/2 turn by position * theta^(-2i/d)."""
    half = x.shape[-1] // 2
    turn = positions[:, None].double() * theta ** (-torch.arange(half).double() * 2 / x.shape[-1])
    first, second = x[..., :half], x[..., half:]
    return torch.cat(
        [first * turn.cos() - second * turn.sin(), second * turn.cos() + first * turn.sin()], dim=-1
    )


def keys_values(
    lm: LanguageModel, weights: dict[str, Tensor], layer: int, states: Tensor
) -> tuple[Tensor, Tensor]:
    """``[kv_heads, n, head_dim]`` keys (normed where the family norms them, not rotated) and values."""
    at = f"model.layers.{layer}.self_attn"
    g = lm.geometry
    shape = (len(states), g.kv_heads, g.head_dim)
    keys = (states @ weights[f"{at}.k_proj.weight"].T).view(shape).transpose(0, 1)
    values = (states @ weights[f"{at}.v_proj.weight"].T).view(shape).transpose(0, 1)
    if f"{at}.k_norm.weight" in weights:
        keys = norm(keys, weights[f"{at}.k_norm.weight"], lm.model.config)
    return keys, values


def effect_of(method: Method | None, lm: LanguageModel) -> Effect:
    """A method's effect from its saved tensors and its equation."""
    if (
        method is None
        or method.needs_head
        or method.name in ("none", "few-shot", "lora", "peft", "full", "sparse")
    ):
        return Effect()
    if isinstance(method, Stack):
        return reduce(stacked, (effect_of(part, lm) for part in method.methods.values()))
    state = {k: v.double().cpu() for k, v in method.state().items()}
    weights = weights_of(lm)
    config: Any = method.config
    if method.name == "soft-prompt":
        return Effect(front=state["prompt"])
    if method.name == "prefix":
        joint = {}
        for name, tensor in state.items():
            layer = int(name.removeprefix("layers."))
            if config.space == "hidden":
                joint[layer] = keys_values(lm, weights, layer, tensor)
            else:
                k, v = tensor.view(2, config.length, lm.geometry.kv_heads, lm.geometry.head_dim).transpose(
                    1, 2
                )
                joint[layer] = (k, v)
        return Effect(joint=joint, first=config.length)
    if method.name == "ia3":
        return Effect(scales=state)
    if method.name in ("bottleneck", "compacter"):
        return Effect(adapters=bottlenecks(config, multiplied_out(state)))
    assert method.name == "llama-adapter"
    gated = {}
    for name, tensor in state.items():
        if name.endswith(".prompt"):
            layer = int(name.split(".")[1])
            gate = state[f"layers.{layer}.gate"].expand(lm.geometry.heads)
            gate = gate.tanh() if config.squash == "tanh" else gate
            gated[layer] = [(*keys_values(lm, weights, layer, tensor), gate)]
    return Effect(gated=gated)


def multiplied_out(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Compacter's projections: (sum_i A_i (x) (s_i t_i))', each product by its definition."""
    out = dict(state)
    for name, left in state.items():
        if name.endswith(".left"):
            at, right = name.removesuffix(".left"), state[name.replace(".left", ".right")]
            terms = [torch.kron(a, s @ t) for a, s, t in zip(state["rule"], left, right, strict=True)]
            out[f"{at}.weight"] = torch.stack(terms).sum(0).T
    return out


def bottlenecks(config: Any, state: dict[str, Tensor]) -> dict[tuple[int, str], list[Any]]:
    """s (U phi(D x + b) + c), one token at a time."""
    published = {
        "inside": ("relu", 1),
        "houlsby": ("silu", 1),
        "pfeiffer": ("relu", 1),
        "parallel": ("relu", 4),
    }
    usual, factor = published[config.placement]
    phi = {
        "relu": lambda x: x.clamp(min=0),
        "silu": lambda x: x / (1 + (-x).exp()),
        "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
        "tanh": torch.tanh,
    }[config.activation or ("gelu" if "rule" in state else usual)]
    found: dict[tuple[int, str], list[Any]] = {}
    for name in {name.split(".down")[0] for name in state if ".down.weight" in name}:
        s = state.get(f"{name}.scale", torch.tensor(factor).double())
        if isinstance(fixed := getattr(config, "scale", None), float):
            s = torch.tensor(fixed).double()
        down, b, up, c = (
            state[f"{name}.{end}"] for end in ("down.weight", "down.bias", "up.weight", "up.bias")
        )

        def adapter(x: Tensor, s=s, down=down, b=b, up=up, c=c) -> Tensor:
            return torch.stack([s * (up @ phi(down @ row + b) + c) for row in x])

        layer, place = name.removeprefix("layers.").split(".")
        found[int(layer), f"{config.placement} {place}"] = [adapter]
    return found


def stacked(first: Effect, second: Effect) -> Effect:
    """The effect of two methods, the second attached on top of the first."""
    joint = first.joint | second.joint
    for layer in first.joint.keys() & second.joint.keys():
        pairs = zip(first.joint[layer], second.joint[layer], strict=True)
        joint[layer] = tuple(torch.cat(pair, dim=1) for pair in pairs)  # type: ignore[assignment]
    gated = {
        layer: first.gated.get(layer, []) + second.gated.get(layer, [])
        for layer in first.gated.keys() | second.gated.keys()
    }
    adapters = {
        key: first.adapters.get(key, []) + second.adapters.get(key, [])
        for key in first.adapters.keys() | second.adapters.keys()
    }
    fronts = [effect.front for effect in (first, second) if effect.front is not None]
    return Effect(
        joint,
        gated,
        torch.cat(fronts) if fronts else None,
        first.first + second.first,
        adapters,
        first.scales | second.scales,
    )


def windows_and_thetas(config: Any) -> list[tuple[int | None, float]]:
    """Sliding window (None where a layer sees everything) and rotary base of each layer."""
    out: list[tuple[int | None, float]] = []
    for layer in range(config.num_hidden_layers):
        if config.model_type.startswith("gemma"):
            kind = config.layer_types[layer]
            theta = config.rope_parameters[kind]["rope_theta"]
            out.append((config.sliding_window if kind == "sliding_attention" else None, theta))
        else:
            out.append((getattr(config, "sliding_window", None), config.rope_parameters["rope_theta"]))
    return out


def reference_hidden(lm: LanguageModel, ids: list[int], effect: Effect | None = None) -> Tensor:
    """Final hidden states ``[length, hidden]`` of one text, fp64."""
    effect = effect or Effect()
    config, g = lm.model.config, lm.geometry
    weights = weights_of(lm)
    for name, scale in effect.scales.items():
        at, end = name.rsplit(".", 1)
        ends = {"key": "self_attn.k_proj", "value": "self_attn.v_proj", "inner": "mlp.down_proj"}
        weight = f"model.{at}.{ends[end]}.weight"
        weights[weight] = weights[weight] * (scale if end == "inner" else scale[:, None])
    gemma = config.model_type.startswith("gemma")
    h = weights["model.embed_tokens.weight"][torch.tensor(ids)]
    if gemma:
        h = h * config.hidden_size**0.5
    h = effect.embedded(h)
    n = 0 if effect.front is None else len(effect.front)
    if effect.front is not None:
        h = torch.cat([effect.front, h])
    length = len(h)
    positions = torch.arange(length) + effect.first
    scale = (config.query_pre_attn_scalar if gemma else g.head_dim) ** -0.5
    for layer, (window, theta) in enumerate(windows_and_thetas(config)):
        at = f"model.layers.{layer}"
        x = norm(h, weights[f"{at}.input_layernorm.weight"], config)
        q = (x @ weights[f"{at}.self_attn.q_proj.weight"].T).view(length, g.heads, g.head_dim).transpose(0, 1)
        if f"{at}.self_attn.q_norm.weight" in weights:
            q = norm(q, weights[f"{at}.self_attn.q_norm.weight"], config)
        k, v = keys_values(lm, weights, layer, x)
        q, k = rotate(q, positions, theta), rotate(k, positions, theta)
        hidden_from = [
            [j > i or (window is not None and i - j >= window) for j in range(length)] for i in range(length)
        ]
        outputs = []
        for head in range(g.heads):
            group = head // (g.heads // g.kv_heads)
            scores = (q[head] @ k[group].T * scale).masked_fill(torch.tensor(hidden_from), -torch.inf)
            seen = v[group]
            if layer in effect.joint:
                pk, pv = (t[group] for t in effect.joint[layer])
                scores, seen = torch.cat([q[head] @ pk.T * scale, scores], dim=1), torch.cat([pv, seen])
            out = scores.softmax(-1) @ seen
            for pk, pv, gate in effect.gated.get(layer, []):
                out = out + gate[head] * ((q[head] @ pk[group].T * scale).softmax(-1) @ pv[group])
            outputs.append(out)
        out = torch.cat(outputs, dim=-1) @ weights[f"{at}.self_attn.o_proj.weight"].T
        out = effect.adapted(layer, "inside attention", out)
        if gemma:
            out = norm(out, weights[f"{at}.post_attention_layernorm.weight"], config)
        h = stream = h + effect.adapted(layer, "houlsby attention", out)
        before = "pre_feedforward_layernorm" if gemma else "post_attention_layernorm"
        x = norm(h, weights[f"{at}.{before}.weight"], config)
        gate_in = x @ weights[f"{at}.mlp.gate_proj.weight"].T
        act = (
            torch.nn.functional.gelu(gate_in, approximate="tanh")
            if gemma
            else torch.nn.functional.silu(gate_in)
        )
        x = (act * (x @ weights[f"{at}.mlp.up_proj.weight"].T)) @ weights[f"{at}.mlp.down_proj.weight"].T
        x = effect.adapted(layer, "inside mlp", x)
        if gemma:
            x = norm(x, weights[f"{at}.post_feedforward_layernorm.weight"], config)
        h = h + effect.adapted(layer, "houlsby mlp", x)
        h = effect.adapted(layer, "pfeiffer mlp", h)
        h = effect.adapted(layer, "parallel mlp", h, stream)
    return effect.finished(norm(h, weights["model.norm.weight"], config))[n:]


def reference_logits(lm: LanguageModel, ids: list[int], effect: Effect | None = None) -> Tensor:
    """``[length, vocabulary]``, fp64."""
    weights = weights_of(lm)
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return reference_hidden(lm, ids, effect) @ head.T
