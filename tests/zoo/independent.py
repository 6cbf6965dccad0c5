"""What a method's logits have to be: transformers' own eager attention, one text at a time, no hook.

Nothing of crosstune is used: prefixes go in as a cache that holds them already, LoRA as changed weights, a
soft prompt as input embeddings, and LLaMA-Adapter as an eager attention written out here.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import eager_mask

Logits = Callable[[Sequence[int]], Tensor]
"""Of one text: ``[length, vocabulary]``."""
Pair = tuple[Tensor, Tensor]
# Attention that asks for no attention function, or caches something else than its keys and values.
OWN = {"bloom", "codegen", "falcon", "gpt_neo", "gpt_neox_japanese", "gptj", "xglm"}
OWN |= {"deepseek_v2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu"}
GATED = "zoo-gated"


def plain(model: Any) -> Logits:
    """The model as it is."""
    return lambda ids: model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


def with_weights(model: Any, weights: dict[str, Tensor], read: Callable[[Any], Logits] = plain) -> Logits:
    """The model with some weights changed, read as it is or in another way."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Sequence[int]) -> Tensor:
            return read(self.model)(ids)

    changed = {f"model.{name}": weight for name, weight in weights.items()}
    reader = Reader().eval()

    def logits(ids: Sequence[int]) -> Tensor:
        out: Tensor = functional_call(reader, changed, args=(ids,), strict=False)
        return out

    return logits


def with_soft_prompt(model: Any, prompt: Tensor) -> Logits:
    """``prompt`` ``[n, width]`` in front of the text's embeddings."""

    def logits(ids: Sequence[int]) -> Tensor:
        text = model.get_input_embeddings()(torch.tensor([list(ids)]))
        out: Tensor = model(inputs_embeds=torch.cat([prompt[None], text], 1), use_cache=False).logits[0]
        return out[len(prompt) :]

    return logits


def with_prefix(model: Any, pairs: Sequence[Pair]) -> Logits:
    """Keys and values ``[kv_heads, n, size]`` of every layer in the cache, as if read before the text."""
    n = pairs[0][0].shape[1]

    def logits(ids: Sequence[int]) -> Tensor:
        cache = DynamicCache()  # made without a config: no layer forgets
        for i, (keys, values) in enumerate(pairs):
            cache.update(keys[None], values[None], i)
        out = model(
            input_ids=torch.tensor([list(ids)]),
            past_key_values=cache,
            attention_mask=torch.ones(1, n + len(ids), dtype=torch.long),
            position_ids=torch.arange(n, n + len(ids))[None],
            use_cache=True,
        )
        found: Tensor = out.logits[0]
        return found

    return logits


def keys_of(model: Any, attentions: Sequence[nn.Module], states: Sequence[Tensor]) -> list[Pair]:
    """Keys and values that each attention makes of ``states`` ``[n, width]`` at position 0.

    A batch of n texts of one token, of which every attention sees the states in place of its input; what
    goes into the cache is what it computed.
    """
    handles = []
    for module, own in zip(attentions, states, strict=True):

        def instead(
            module: nn.Module, args: Any, kwargs: Any, own: Tensor = own
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if "hidden_states" in kwargs:
                return args, kwargs | {"hidden_states": own[:, None]}
            return (own[:, None], *args[1:]), kwargs

        handles.append(module.register_forward_pre_hook(instead, with_kwargs=True))
    cache = DynamicCache()
    try:
        model(
            input_ids=torch.ones(len(states[0]), 1, dtype=torch.long), past_key_values=cache, use_cache=True
        )
    finally:
        for handle in handles:
            handle.remove()
    layers: list[Any] = cache.layers
    return [(layer.keys[:, :, 0].transpose(0, 1), layer.values[:, :, 0].transpose(0, 1)) for layer in layers]


@contextlib.contextmanager
def gated(
    model: Any, attentions: Sequence[nn.Module], prompts: Sequence[tuple[Tensor, Tensor, Tensor]]
) -> Iterator[Logits]:
    """A second softmax over each layer's prompt, times a gate a head, added to the first one's result."""
    for module, prompt in zip(attentions, prompts, strict=True):
        module.zoo_prompt = prompt  # type: ignore[assignment]
    model.config._attn_implementation = GATED
    try:
        yield plain(model)
    finally:
        model.config._attn_implementation = "eager"
        for module in attentions:
            del module.zoo_prompt


# Where families keep what: the first name that a layer has.
ATTENTION_LAST = [
    f"{attention}.{last}"
    for attention in ("self_attn", "self_attention", "attention", "attn.attention", "attn")
    for last in ("o_proj", "dense", "out_proj", "c_proj")
]
MLP_LAST = [
    *(f"{mlp}.{last}" for mlp in ("mlp", "feed_forward") for last in ("down_proj", "fc2", "c_proj")),
    *("mlp.dense_4h_to_h", "mlp.fc_out", "fc2", "mlp", "feed_forward"),
]
MLP_NORM = ("pre_feedforward_layernorm", "pre_mlp_layernorm", "pre_ff_layernorm", "feedforward_layernorm")
MLP_NORM += ("ln_2", "final_layer_norm", "post_attention_layernorm")


def scaled(model: Any, layers: Sequence[nn.Module], vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights and biases with their outputs (keys, values) or inputs (of the MLP's last layer) scaled.

    Args:
        model: On eager attention.
        layers: Its layers.
        vectors: As `ia3` names them.
    """
    changed: dict[str, Tensor] = {}
    names = {id(module): name for name, module in model.named_modules()}

    def scale(module: nn.Module, by: Tensor, inputs: bool = False) -> None:
        module = getattr(module, "linear", module)  # Moshi's wrap one
        at, transposed = names[id(module)], type(module).__name__ == "Conv1D"
        for end in ("weight",) if inputs or module.bias is None else ("weight", "bias"):
            tensor = changed.get(f"{at}.{end}", getattr(module, end))
            rows = end == "weight" and inputs == transposed
            changed[f"{at}.{end}"] = tensor * (by[:, None] if rows else by)

    for i, layer in enumerate(layers):
        inside = dict(layer.named_modules())
        mlp = next(inside[name] for name in MLP_LAST if name in inside)
        key, value, inner = (vectors[f"layers.{i}.{end}"] for end in ("key", "value", "inner"))
        scale(mlp, inner, inputs=True)
        found = {name.rpartition(".")[2]: module for name, module in inside.items()}
        if "k_proj" in found:
            scale(found["k_proj"], key)
            scale(found["v_proj"], value)
            continue
        fused = next(found[name] for name in ("query_key_value", "qkv_proj", "c_attn") if name in found)
        if fused is found.get("query_key_value"):  # the three of each head together
            heads = (model.config.num_attention_heads, -1)
            thirds = [torch.ones_like(key).view(heads), key.view(heads), value.view(heads)]
            both = torch.stack(thirds, dim=1).flatten()
        else:
            whole = fused.weight.shape[-1 if type(fused).__name__ == "Conv1D" else 0]
            both = torch.cat([torch.ones(whole - 2 * len(key)), key, value])
        scale(fused, both)
    return changed


@contextlib.contextmanager
def adapted(
    model: Any, layers: Sequence[nn.Module], weights: dict[str, Tensor], placement: str
) -> Iterator[Logits]:
    """``x + U phi(D x + b) + c`` behind the last projections of attention and MLP, or the layer.

    Args:
        model: On eager attention.
        layers: Its layers.
        weights: As `bottleneck` names them, or `compacter` its factors.
        placement: "inside", "pfeiffer", or "parallel" for ``r + f + 4 A(r)``, r what the MLP's norm reads.
    """
    handles = []
    phi = nn.functional.gelu if "rule" in weights else torch.relu
    factors = [name.removesuffix(".left") for name in weights if name.endswith(".left")]
    for name in factors:
        pairs = zip(weights["rule"], weights[f"{name}.left"], weights[f"{name}.right"], strict=True)
        products = torch.stack([torch.kron(rule, left @ right) for rule, left, right in pairs])
        weights = weights | {f"{name}.weight": products.sum(0).T}

    def added(at: str, x: Tensor) -> Tensor:
        inner = phi(x @ weights[f"{at}.down.weight"].T + weights[f"{at}.down.bias"])
        return inner @ weights[f"{at}.up.weight"].T + weights[f"{at}.up.bias"]

    def change(module: nn.Module, at: str, factor: float, read: list[Tensor] | None = None) -> None:
        def hook(module: nn.Module, args: Any, out: Any) -> Any:
            first = out[0] if isinstance(out, tuple) else out
            x = first if read is None else read.pop().view(first.shape)
            first = first + factor * added(at, x)
            return (first, *out[1:]) if isinstance(out, tuple) else first

        handles.append(module.register_forward_hook(hook))

    for i, layer in enumerate(layers):
        inside = dict(layer.named_modules())
        attention, mlp, norm = (
            next((inside[name] for name in names if name in inside), layer)
            for names in (ATTENTION_LAST, MLP_LAST, MLP_NORM)
        )
        if placement == "pfeiffer":
            change(layer, f"layers.{i}.mlp", 1)
        elif placement == "parallel":
            if "post_feedforward_layernorm" in inside and norm is inside.get("post_attention_layernorm"):
                norm = inside["mlp"]  # normed behind the MLP, and not before it
            read: list[Tensor] = []
            keep = functools.partial(lambda read, module, args: read.append(args[0]), read)
            handles.append(norm.register_forward_pre_hook(keep))
            change(layer, f"layers.{i}.mlp", 4, read)
        else:
            change(attention, f"layers.{i}.attention", 1)
            change(mlp, f"layers.{i}.mlp", 1)
    try:
        yield plain(model)
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def gated_by_hand(
    model: Any,
    attentions: Sequence[Any],
    outputs: Sequence[nn.Module],
    prompts: Sequence[tuple[Tensor, Tensor, Tensor]],
) -> Iterator[Logits]:
    """The same of a module whose attention cannot be exchanged: it attends twice.

    Once as it is, and once with a mask that leaves of everything only the prompt, which stands in its cache.
    What comes out of each is what enters the output projection.
    """

    def twice(module: Any, output: nn.Module, prompt: tuple[Tensor, Tensor, Tensor]) -> Callable[..., Any]:
        forward, caches = module.forward, ("layer_past", "past_key_values", "cache")
        keys, values, gate = prompt

        def entering(change: Callable[[Tensor], Tensor], args: Any, kwargs: Any) -> tuple[Tensor, Any]:
            seen: list[Tensor] = []

            def enter(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
                seen.append(inputs[0])
                return (change(inputs[0]),)

            handle = output.register_forward_pre_hook(enter)
            try:
                out = forward(*args, **kwargs)
            finally:
                handle.remove()
            return seen[0], out

        def run(*args: Any, **kwargs: Any) -> Any:
            states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            n, length = keys.shape[1], states.shape[1]
            cache, layer = DynamicCache(), attentions.index(module)
            cache.update(keys[None], values[None], layer)
            mask = torch.zeros(1, 1, length, n + length)
            mask[..., n:] = torch.finfo(torch.float32).min
            known = inspect.signature(forward).parameters
            more = {"attention_mask": mask, next(name for name in caches if name in known): cache}
            if kwargs.get("alibi") is not None:
                more["alibi"] = torch.zeros(gate.numel(), 1, n + length)
            bias = getattr(module, "bias", None)
            if isinstance(bias, Tensor) and bias.dtype == torch.bool:
                module.bias = torch.ones_like(bias)  # GPT-Neo's window
            second, _ = entering(lambda x: x, args, kwargs | more)
            if bias is not None:
                module.bias = bias
            extra = (second.unflatten(-1, (gate.numel(), -1)) * gate[:, None]).flatten(-2)
            return entering(lambda x: x + extra, args, kwargs)[1]

        return run

    for module, output, prompt in zip(attentions, outputs, prompts, strict=True):
        module.forward = twice(module, output, prompt)
    try:
        yield plain(model)
    finally:
        for module in attentions:
            del module.forward


def _gated(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    times = query.shape[1] // key.shape[1]

    def mixed(k: Tensor, v: Tensor, mask: Tensor | None, sinks: Tensor | None = None) -> Tensor:
        scores = query @ k.repeat_interleave(times, 1).transpose(2, 3) * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores = scores + mask[..., : k.shape[2]]
        if sinks is not None:
            scores = torch.cat([scores, sinks[:, None, None].expand(*scores.shape[:3], 1)], -1)
        return scores.softmax(-1)[..., : k.shape[2]] @ v.repeat_interleave(times, 1)

    keys, values, gate = module.zoo_prompt
    # JetMoE attends to its heads several times over, once an expert.
    keys, values = (x.repeat(key.shape[1] // len(x), 1, 1) for x in (keys, values))
    out = mixed(key, value, attention_mask, s_aux) + gate[:, None, None] * mixed(
        keys[None], values[None], None
    )
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(GATED, _gated)
AttentionMaskInterface.register(GATED, eager_mask)
