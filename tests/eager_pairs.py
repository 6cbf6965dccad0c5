"""What a method's logits on an encoder-decoder have to be: transformers' eager attention, one pair at a time.

Nothing of crosstune is used: prompts stand in an attention written out here, made with the layers' own
projections called by name; adapters and scales are hooks; changed weights are put in their place.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import gelu, pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

WRITTEN_OUT = "test-encoder-decoders"
Logits = Callable[[Sequence[int], Sequence[int]], Tensor]
"""Of a source and a target: ``[target, vocabulary]``."""


def pair(model: Any, source: Sequence[int], target: Sequence[int]) -> Tensor:
    """Logits of a target behind a source, as transformers computes them."""
    ids, written = (torch.tensor([list(x)], device=model.device) for x in (source, target))
    logits: Tensor = model(input_ids=ids, decoder_input_ids=written, use_cache=False).logits[0]
    return logits


# --- where families keep what -----------------------------------------------------------------------


def layers(model: Any) -> list[Any]:
    """The encoder's, then the decoder's."""
    stacks = model.get_encoder(), model.get_decoder()
    return [layer for stack in stacks for layer in getattr(stack, "block", None) or stack.layers]


def attentions(model: Any) -> list[Any]:
    """The encoder's, the decoder's, and those between them."""
    t5 = hasattr(model.get_encoder(), "block")
    own = [layer.layer[0].SelfAttention if t5 else layer.self_attn for layer in layers(model)]
    decoder = layers(model)[_encoder_layers(model) :]
    return own + [layer.layer[1].EncDecAttention if t5 else layer.encoder_attn for layer in decoder]


def _encoder_layers(model: Any) -> int:
    encoder = model.get_encoder()
    return len(getattr(encoder, "block", None) or encoder.layers)


def output(attention: Any) -> Any:
    """The last projection of an attention."""
    return attention.o if hasattr(attention, "o") else attention.out_proj


def last(layer: Any) -> Any:
    """The last projection of a layer's MLP."""
    return layer.layer[-1].DenseReluDense.wo if hasattr(layer, "layer") else layer.fc2


def _norm(layer: Any) -> Any:
    """The norm before a layer's MLP."""
    return layer.layer[-1].layer_norm if hasattr(layer, "layer") else layer.final_layer_norm


def _projections(attention: Any) -> tuple[Any, Any]:
    """Of keys and of values."""
    return (attention.k, attention.v) if hasattr(attention, "k") else (attention.k_proj, attention.v_proj)


def heads(attention: Any, x: Tensor) -> Tensor:
    """``[heads, n, size]`` of ``[n, heads * size]``."""
    count = attention.n_heads if hasattr(attention, "n_heads") else attention.num_heads
    return x.unflatten(-1, (count, -1)).transpose(0, 1)


def projected(attention: Any, states: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values that an attention makes of states ``[n, hidden]``."""
    key, value = (heads(attention, projection(states)) for projection in _projections(attention))
    return key, value


# --- attention with prompts -------------------------------------------------------------------------


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Eager attention with what is planted on the module."""

    def mixed(k: Tensor, v: Tensor, added: Tensor) -> Tensor:
        return (query @ k.transpose(2, 3) * scaling + added).softmax(-1) @ v

    added = torch.zeros(1, 1, query.shape[2], key.shape[2]) if mask is None else mask
    if position_bias is not None:
        added = added + position_bias
    keys, values, gate = getattr(module, "test_prompt", (None, None, None))
    if keys is None:
        out = mixed(key, value, added)
    elif gate is None:
        front = (x[None].expand(len(key), -1, -1, -1) for x in (keys, values))
        k, v = (torch.cat(both, 2) for both in zip(front, (key, value), strict=True))
        out = mixed(k, v, pad(added, (keys.shape[1], 0)))
    else:
        out = mixed(key, value, added) + gate[:, None, None] * mixed(keys[None], values[None], torch.zeros(1))
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(WRITTEN_OUT, _attend)
AttentionMaskInterface.register(WRITTEN_OUT, eager_mask)


@contextmanager
def planted(model: Any, prompts: dict[Any, tuple[Tensor, Tensor, Tensor | None]]) -> Iterator[None]:
    """Inside, modules attend to ``(keys, values, gate)`` too."""
    configs = {id(x.config): x.config for x in model.modules() if hasattr(x, "config")}.values()
    for module, prompt in prompts.items():
        module.test_prompt = prompt
    for config in configs:
        config._attn_implementation = WRITTEN_OUT
    try:
        yield
    finally:
        for config in configs:
            config._attn_implementation = "eager"
        for module in prompts:
            del module.test_prompt


# --- methods ----------------------------------------------------------------------------------------


class _Whole(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Sequence[int], target: Sequence[int]) -> Tensor:
        return pair(self.model, source, target)


@contextmanager
def wanted(method: Any, weights: dict[str, Tensor] | None, eager: Any) -> Iterator[Logits]:
    """The logits of a pair as an attached method has to give them.

    Args:
        method: A soft prompt, prefix, LLaMA-Adapter, adapter, (IA)3, or one that changes weights alone.
        weights: Changed ones, by name; None for none.
        eager: The model on eager attention.
    """
    p, places = dict(method.parameters()), attentions(eager)
    changed = {f"model.{name}": x for name, x in (weights or {}).items()}

    def plain(source: Sequence[int], target: Sequence[int]) -> Tensor:
        logits: Tensor = functional_call(_Whole(eager), changed, (source, target), strict=False)
        return logits

    with ExitStack() as inside:
        if method.name == "soft-prompt":
            yield partial(_with_soft_prompt, eager, p["prompt"])
            return
        if method.name in ("bottleneck", "compacter"):
            for handle in _adapted(eager, p, method.config.placement):
                inside.callback(handle.remove)
        elif method.name == "ia3":
            for handle in _scaled(eager, p):
                inside.callback(handle.remove)
        elif method.name in ("prefix", "llama-adapter"):
            prompts = {}
            for i in method.layers:
                attention = places[i]
                if method.name == "llama-adapter":
                    gate = torch.tanh(p[f"layers.{i}.gate"])
                    prompts[attention] = (*projected(attention, p[f"layers.{i}.prompt"]), gate)
                    continue
                value = p.get(f"layers.{i}")
                if value is None:  # an MLP makes them
                    value = method.state()[f"layers.{i}"]
                if value.dim() == 3:  # keys and values themselves
                    prompts[attention] = (*(heads(attention, x) for x in value), None)
                else:
                    prompts[attention] = (*projected(attention, value), None)
            inside.enter_context(planted(eager, prompts))
        yield plain


def _with_soft_prompt(eager: Any, prompt: Tensor, source: Sequence[int], target: Sequence[int]) -> Tensor:
    encoder = eager.get_encoder()
    scale = getattr(encoder, "embed_scale", 1.0)

    def instead(_: Any, args: Any, out: Tensor) -> Tensor:
        return torch.cat([prompt[None] / scale, out[:, len(prompt) :]], 1)

    handle = encoder.get_input_embeddings().register_forward_hook(instead)
    try:
        out = encoder(input_ids=torch.tensor([[5] * len(prompt) + list(source)]))
    finally:
        handle.remove()
    ids = torch.tensor([list(target)])
    logits: Tensor = eager(encoder_outputs=out, decoder_input_ids=ids, use_cache=False).logits[0]
    return logits


def _adapted(eager: Any, p: dict[str, Tensor], placement: str) -> Iterator[Any]:
    """Hooks that add ``U phi(D x + b) + c`` where a placement has it."""
    phi = gelu if "rule" in p else torch.relu
    for name in [name.removesuffix(".left") for name in p if name.endswith(".left")]:
        factors = zip(p["rule"], p[f"{name}.left"], p[f"{name}.right"], strict=True)
        p[f"{name}.weight"] = sum(torch.kron(rule, left @ right) for rule, left, right in factors).T  # type: ignore[union-attr]

    def hook(module: Any, place: str, factor: float = 1, reads: list[Tensor] | None = None) -> Any:
        t = [p[f"{place}.{end}"] for end in ("down.weight", "down.bias", "up.weight", "up.bias")]

        def add(_: Any, args: Any, out: Any) -> Any:
            first = out[0] if isinstance(out, tuple) else out
            x = first if reads is None else reads.pop()
            first = first + factor * (phi(x @ t[0].T + t[1]) @ t[2].T + t[3])
            return (first, *out[1:]) if isinstance(out, tuple) else first

        return module.register_forward_hook(add)

    places, count = attentions(eager), len(layers(eager))
    for i, layer in enumerate(layers(eager)):
        at = f"layers.{i}"
        if placement == "pfeiffer":
            yield hook(layer, f"{at}.mlp")
            continue
        if placement == "parallel":
            reads: list[Tensor] = []
            yield _norm(layer).register_forward_pre_hook(lambda _, args, reads=reads: reads.append(args[0]))
            yield hook(layer, f"{at}.mlp", 4, reads)
            continue
        modules = {"attention": output(places[i]), "mlp": last(layer)}
        if i >= _encoder_layers(eager):
            modules["cross"] = output(places[count + i - _encoder_layers(eager)])
        for place, module in modules.items():
            if f"{at}.{place}.up.bias" in p:
                yield hook(module, f"{at}.{place}")


def _scaled(eager: Any, p: dict[str, Tensor]) -> Iterator[Any]:
    """Hooks that multiply keys, values and what the MLP's last projection reads."""
    places, count = attentions(eager), len(layers(eager))
    for i, layer in enumerate(layers(eager)):
        between = i - _encoder_layers(eager)
        named = {"": places[i]} | ({"cross.": places[count + between]} if between >= 0 else {})
        for name, attention in named.items():
            for end, module in zip(("key", "value"), _projections(attention), strict=True):
                vector = p[f"layers.{i}.{name}{end}"]
                yield module.register_forward_hook(lambda _, args, out, vector=vector: out * vector)
        vector = p[f"layers.{i}.inner"]
        yield last(layer).register_forward_pre_hook(lambda _, args, vector=vector: (args[0] * vector,))
