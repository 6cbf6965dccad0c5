"""Whether crosstune computes what an architecture computes, tried on a small copy before weights are fetched.

Two models of a few layers are made from the config, with the same random weights in fp32: one is left to
transformers' own eager attention and reads one text at a time, the other goes through the hook in every form
in which crosstune reads texts. Nothing is trusted because of a module's name:

* every form gives the logits of the text alone: by itself, behind others in one line, as a branch, in a
  padded row, as decoding steps;
* no token sees those behind it;
* keys and values planted on every attention module are asked for exactly once in a forward, and do what the
  same keys and values do in a cache; hidden vectors become the keys and values that the module makes of them.

Where texts that share a row are wrong and texts one per row are right, those are taken (`attention.apart`).
What else fails is refused in one line: the model, or the methods that need what failed. The answer is kept
for a config (`crosstune.models.loading.known`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from crosstune.errors import UserError
from crosstune.models.attention.choose import BatchForm, for_writing, lay_out
from crosstune.models.attention.trees import grow
from crosstune.models.encoder_decoder import EncoderDecoder
from crosstune.models.geometry import Geometry, geometry_of
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.copies import VOCABULARY, copies
from crosstune.models.loading.probes import planted
from crosstune.models.loading.probes.encoder import examine_encoder
from crosstune.models.loading.probes.encoder_decoder import examine_encoder_decoder
from crosstune.models.loading.probes.independent import PROMPT, near
from crosstune.models.loading.probes.planted import first_fault, refuse_unknown
from crosstune.models.parts import linear_size

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Text = Sequence[int]
Forward = Callable[[LanguageModel, Sequence[Text]], list[Tensor]]


def examine(config: PretrainedConfig) -> Geometry:
    """The shape of the model a config describes, after it has been tried.

    Raises:
        UserError: crosstune would compute something else, or cannot compute it.
    """
    shape = geometry_of(config)
    eager, lm = copies(config)
    with torch.no_grad():
        if isinstance(lm, EncoderDecoder):
            return examine_encoder_decoder(shape, eager, lm)
        shape, lm.geometry = (replace(x, uncalled=uncalled(lm)) for x in (shape, lm.geometry))
        if shape.encoder:
            return examine_encoder(shape, eager, lm)
        sizes = kept_sizes(lm)
        if not _in_one_stream(lm):
            sizes["unknown"] = tuple(dict.fromkeys((*shape.unknown, "norm before the MLP")))
        if "uneven" in sizes:
            sizes["uneven"] = tuple(dict.fromkeys((*shape.uneven, *sizes["uneven"])))
        shape, lm.geometry = replace(shape, **sizes), replace(lm.geometry, **sizes)
        if fault := check_forms(eager, lm):
            # One a row, and the model's own cache: right for many that keep a state beside attention.
            known: dict[str, Any] = {"apart": fault, "long_rotation": False}
            shape, lm.geometry = (replace(x, **known) for x in (shape, lm.geometry))
            if check_forms(eager, lm):
                refuse_unknown(eager, fault)
        faults = check_prompts(eager, lm), check_soft_prompt(eager, lm)
        return replace(shape, no_prompts=faults[0], no_soft_prompt=faults[1])


def kept_sizes(lm: LanguageModel) -> dict[str, Any]:
    """Heads and sizes of the keys and values that are attended to, and of what is cached, for `Geometry`."""
    read, states = DynamicCache(), torch.zeros(1, lm.geometry.hidden)
    try:
        lm.hidden(torch.ones(1, 2, dtype=torch.long), read=read)
        lm.learn_calls()
        pairs = [lm.keys_values(i, states) for i in range(len(lm.attentions))]
    except Exception:  # `check_forms` and `check_prompts` meet it again, and say it
        return {}
    attended = {(len(x), x.shape[2], y.shape[2]) for x, y in pairs}
    layers: list[Any] = [layer for layer in read.layers if getattr(layer, "keys", None) is not None]
    cached = {(layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers}
    if len(attended) != 1 or len(cached) != 1:
        return {"uneven": ("keys and values",)} if len(attended) > 1 else {}
    heads, size, values = attended.pop()
    cached_sizes = cached.pop()
    sizes = {"kv_heads": heads, "head_dim": size, "value_dim": 0 if values == size else values}
    return sizes | {"cached": None if cached_sizes == (heads, size, values) else cached_sizes}


def _in_one_stream(lm: LanguageModel) -> bool:
    """Whether what stands before each MLP reads as many numbers a token as its layer hands on.

    Not where a layer mixes several streams (hyper-connections): there is no one stream to be added to.
    """
    sizes: list[dict[str, int]] = [{} for _ in lm.parts.layers]

    def note(seen: dict[str, int], end: str, tensors: Any) -> None:
        seen[end] = (tensors[0] if isinstance(tensors, tuple) else tensors).numel()

    handles = []
    for layer, seen in zip(lm.parts.layers, sizes, strict=True):
        if (before := layer.before_mlp) is not None:
            handles.append(before.register_forward_pre_hook(lambda _, x, seen=seen: note(seen, "in", x)))
            handles.append(
                layer.module.register_forward_hook(lambda _, x, y, seen=seen: note(seen, "out", y))
            )
    try:
        lm.hidden(torch.ones(1, 3, dtype=torch.long))
    except Exception:  # as in `kept_sizes`
        return True
    finally:
        for handle in handles:
            handle.remove()
    return all(len(set(seen.values())) < 2 for seen in sizes)


def uncalled(lm: LanguageModel) -> tuple[str, ...]:
    """Last names of linear layers that no forward calls, in any layer."""
    linears = [
        (name.rpartition(".")[2], module)
        for layer in lm.layers
        for name, module in layer.named_modules()
        if linear_size(module) is not None
    ]
    called: set[str] = set()
    handles = [
        module.register_forward_hook(lambda *_, name=name: called.add(name)) for name, module in linears
    ]
    try:
        lm.hidden(torch.ones(1, 3, dtype=torch.long))
    except Exception:  # as in `kept_sizes`
        return ()
    finally:
        for handle in handles:
            handle.remove()
    return tuple(sorted({name for name, _ in linears} - called))


def check_forms(eager: Any, lm: LanguageModel) -> str:
    """Hold every form in which texts are read against the texts by themselves.

    Args:
        eager: A model on transformers' eager attention.
        lm: The same weights through the hook.

    Returns:
        Which gives something else, or fails; empty if none does.

    Raises:
        UserError: It is not causal, or asks for what the hook would leave out.
    """
    # Longer than the window, shorter, and a branch behind the first one's beginning.
    one, other = (
        tuple((7 * i * i + 5 * i + seed) % VOCABULARY for i in range(n)) for seed, n in ((3, 19), (8, 6))
    )
    texts = [one, (*one[:9], *other[1:5]), other]
    wanted = [_eager(eager, text) for text in texts]
    changed = _eager(eager, (*one[:-1], (one[-1] + 1) % VOCABULARY))
    if not near(changed[:-1], wanted[0][:-1]):
        raise UserError(
            f"{type(eager).__name__}: a token sees those behind it; choose a causal language model"
        )
    return first_fault({what: functools.partial(form, lm, texts) for what, form in FORMS.items()}, wanted)


def check_prompts(eager: Any, lm: LanguageModel) -> str:
    """Hold planted keys and values against a cache that holds them; why they cannot be, or nothing."""
    text = (5, 9, 12, 33, 7)  # all of it in the window, with the prompt in front

    def plain(attentions: Sequence[nn.Module], states: Sequence[Tensor]) -> Tensor | None:
        pairs = keys_of(eager, attentions, states)
        if len(pairs) < len(attentions):
            return None
        cache = DynamicCache()
        for i, (keys, values) in enumerate(pairs):
            cache.update(keys[None], values[None], i)
        logits: Tensor = eager(
            input_ids=torch.tensor([text]),
            past_key_values=cache,
            attention_mask=torch.ones(1, PROMPT + len(text), dtype=torch.long),
            position_ids=torch.arange(PROMPT, PROMPT + len(text))[None],
            use_cache=True,
        ).logits[0]
        return logits

    return planted.check_prompts(eager, lm, plain, lambda: _alone(lm, [text])[0], shift=PROMPT)


def check_soft_prompt(eager: Any, lm: LanguageModel) -> str:
    """Hold embeddings in front of the text against the same as input embeddings."""
    text = torch.tensor([[5, 9, 12, 33, 7]])

    def plain(prompt: Tensor) -> Tensor:
        embeds = torch.cat([prompt[None], eager.get_input_embeddings()(text)], dim=1)
        logits: Tensor = eager(inputs_embeds=embeds, use_cache=False).logits[0, PROMPT:]
        return logits

    return planted.check_soft_prompt(eager, lm, plain, lambda: _alone(lm, text.tolist())[0])


# --- the independent side ---------------------------------------------------------------------------


def _eager(model: Any, text: Text) -> Tensor:
    logits: Tensor = model(input_ids=torch.tensor([list(text)]), use_cache=False).logits[0]
    return logits


def keys_of(
    model: Any, attentions: Sequence[nn.Module], states: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values that each attention makes of ``[n, hidden]`` states at position 0.

    A batch of n texts of one token, of which every attention sees the states in place of its input; what
    goes into the cache is what it computed.

    Returns:
        A pair of ``[kv_heads, n, head_dim]`` a layer.
    """

    def instead(states_in: Tensor, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if "hidden_states" in kwargs:
            return args, kwargs | {"hidden_states": states_in[:, None]}
        return (states_in[:, None], *args[1:]), kwargs

    handles = [
        module.register_forward_pre_hook(functools.partial(instead, states_in), with_kwargs=True)
        for module, states_in in zip(attentions, states, strict=True)
    ]
    cache = DynamicCache()
    try:
        ones = torch.ones(len(states[0]), 1, dtype=torch.long)
        model(input_ids=ones, past_key_values=cache, use_cache=True)
    finally:
        for handle in handles:
            handle.remove()
    layers: list[Any] = cache.layers
    return [(layer.keys[:, :, 0].transpose(0, 1), layer.values[:, :, 0].transpose(0, 1)) for layer in layers]


# --- forms ------------------------------------------------------------------------------------------


def _alone(lm: LanguageModel, texts: Sequence[Text]) -> list[Tensor]:
    return [lm.logits(lm.hidden(torch.tensor([list(text)]))[0]) for text in texts]


def _laid(form: BatchForm, groups: Sequence[int], lm: LanguageModel, texts: Sequence[Text]) -> list[Tensor]:
    """Texts in rows of a form, as trees of so many in turn."""
    some = iter(texts)
    trees = [grow([next(some) for _ in range(count)]) for count in groups]
    placed = lay_out(form, trees, 0, lm.device)
    hidden = lm.hidden(placed.ids, placed.layout).flatten(0, 1)
    return [
        lm.logits(hidden[[start + at for at in path]])
        for start, tree in zip(placed.starts, trees, strict=True)
        for path in tree.paths
    ]


def _steps(lm: LanguageModel, texts: Sequence[Text]) -> list[Tensor]:
    """The last two tokens as steps behind the prompts."""
    slots = for_writing(lm, len(texts), max(map(len, texts)))
    firsts = []
    for text in texts:
        read = slots.reader()
        firsts.append(lm.hidden(torch.tensor([list(text[:-2])]), read=read)[0, -1])
        slots.add(read, [(0, list(range(len(text) - 2)))])
    states = [torch.stack(firsts)]
    states += [lm.step(torch.tensor([text[at] for text in texts]), slots) for at in (-2, -1)]
    return list(torch.stack([lm.logits(state) for state in states], dim=1))


FORMS: dict[str, Forward] = {
    "texts": _alone,
    "padded rows": functools.partial(_laid, BatchForm.PADDED, (1, 1, 1)),
    "several texts and branches in one line": functools.partial(_laid, BatchForm.PADDING_FREE, (2, 1)),
    "branches by a mask": functools.partial(_laid, BatchForm.PADDED, (2, 1)),
    "decoding steps": _steps,
}
