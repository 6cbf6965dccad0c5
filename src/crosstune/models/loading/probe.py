"""Whether crosstune computes what an architecture computes, tried on a small copy before weights are fetched.

Two models of a few layers are made from the config, with the same random weights in fp32: one is left to
transformers' own eager attention and reads one text at a time, the other goes through the hook in every form
in which crosstune reads texts. Nothing is trusted because of a module's name:

* every form gives the logits of the text alone: by itself, behind others in one line, as a branch, in a
  padded row, as decoding steps;
* no token sees those behind it;
* keys and values planted on every attention module are asked for exactly once in a forward, and do what the
  same keys and values do in a cache; hidden vectors become the keys and values that the module makes of them.

What fails is refused in one line: the model, or the methods that need what failed. The answer is kept for a
config (`crosstune.models.loading.known`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache

from crosstune.errors import UserError
from crosstune.models.adaptation import Part, Prompt
from crosstune.models.attention.cache import DecodingCache
from crosstune.models.attention.choose import Form as Rows
from crosstune.models.attention.choose import lay_out
from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.attention.trees import grow
from crosstune.models.geometry import Geometry, geometry_of
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.config import _first_line
from crosstune.models.loading.log_noise import quiet

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Text = Sequence[int]
Form = Callable[[LanguageModel, Sequence[Text]], list[Tensor]]

NEAR = 1e-3
"""Of the largest logit. Sums in another order come to a few millionths in fp32, a real fault to a tenth."""
MOST = 300_000_000
"""Parameters of a copy, beyond which it is not made."""
VOCABULARY = 64
PROMPT = 2
_WIDTHS = (
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "expert_ffn_hidden_size",
    "ffn_dim",
    "n_inner",
    "decoder_ffn_dim",
    "encoder_ffn_dim",
)
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# Sizes that decide how long the copy takes and not how it computes: at most so much of each.
_SMALL: dict[str, int] = {
    "sliding_window": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "encoder_layers": 1,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    **dict.fromkeys(_EXPERTS, 8),
    **dict.fromkeys(_WIDTHS, 64),
}


def examine(config: PretrainedConfig) -> Geometry:
    """The shape of the decoder a config describes, after it has been tried.

    Raises:
        UserError: crosstune would compute something else, or cannot compute it.
    """
    shape = geometry_of(config)
    eager, lm = copies(config)
    with torch.no_grad():
        check_forms(eager, lm)
        faults = check_prompts(eager, lm), check_soft_prompt(eager, lm)
        return replace(shape, no_prompts=faults[0], no_soft_prompt=faults[1])


def check_forms(eager: Any, lm: LanguageModel) -> None:
    """Hold every form in which texts are read against the texts by themselves.

    Args:
        eager: A model on transformers' eager attention.
        lm: The same weights through the hook.

    Raises:
        UserError: One of them gives something else.
    """
    name = type(eager).__name__
    # Longer than the window, shorter, and a branch behind the first one's beginning.
    one, other = (
        tuple((7 * i * i + 5 * i + seed) % VOCABULARY for i in range(n)) for seed, n in ((3, 19), (8, 6))
    )
    texts = [one, (*one[:9], *other[1:5]), other]
    wanted = [_eager(eager, text) for text in texts]
    changed = _eager(eager, (*one[:-1], (one[-1] + 1) % VOCABULARY))
    if not _near(changed[:-1], wanted[0][:-1]):
        raise UserError(f"{name}: a token sees those behind it; choose a causal language model")
    for what, form in FORMS.items():
        try:
            found = form(lm, texts)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{name} cannot be computed: {what} ends in {type(error).__name__} ({_first_line(error)}); "
                "choose another model or report it"
            ) from error
        if not all(_near(ours, theirs[-len(ours) :]) for ours, theirs in zip(found, wanted, strict=True)):
            raise UserError(
                f"{name} computes in a way that crosstune does not know ({what} are not what each text is "
                "alone); choose another model or report it"
            )


def check_prompts(eager: Any, lm: LanguageModel) -> str:
    """Hold planted keys and values against a cache that holds them.

    Returns:
        Why methods that plant some cannot be used; empty where they can.
    """
    names = {id(module): name for name, module in lm.model.named_modules()}
    attentions = [eager.get_submodule(names[id(module)]) for module in lm.attentions]
    text = (5, 9, 12, 33, 7)  # all of it in the window, with the prompt in front
    generator = torch.Generator().manual_seed(1)
    states = [torch.randn(PROMPT, lm.geometry.hidden, generator=generator) for _ in attentions]
    asked = [0] * len(attentions)
    try:
        pairs = keys_of(eager, attentions, states)
        cache = DynamicCache()
        for i, (keys, values) in enumerate(pairs):
            cache.update(keys[None], values[None], i)
        wanted = eager(
            input_ids=torch.tensor([text]),
            past_key_values=cache,
            attention_mask=torch.ones(1, PROMPT + len(text), dtype=torch.long),
            position_ids=torch.arange(PROMPT, PROMPT + len(text))[None],
            use_cache=True,
        ).logits[0]

        def source(i: int) -> tuple[Tensor, Tensor]:
            asked[i] += 1
            return lm.keys_values(i, states[i])

        lm.learn_calls()
        part = Part("probe", shift=PROMPT)
        with lm.adaptation.attaching(part):
            part.prompts = {i: Prompt(functools.partial(source, i)) for i in range(len(attentions))}
        try:
            found = _alone(lm, [text])[0]
        finally:
            lm.adaptation.detach(part)
    except Exception as error:
        said = _first_line(error)
        return f"{type(eager).__name__} takes no learned keys and values ({type(error).__name__}: {said})"
    if set(asked) != {1}:
        return f"{type(eager).__name__} computes attention in {min(asked)} to {max(asked)} passes a layer"
    return "" if _near(found, wanted) else f"{type(eager).__name__} makes keys in a way that is not known"


def check_soft_prompt(eager: Any, lm: LanguageModel) -> str:
    """Hold embeddings in front of the text against the same as input embeddings.

    Returns:
        Why a soft prompt cannot be used; empty where it can.
    """
    generator = torch.Generator().manual_seed(2)
    prompt = torch.randn(PROMPT, lm.geometry.embedding or lm.geometry.hidden, generator=generator)
    text = torch.tensor([[5, 9, 12, 33, 7]])
    try:
        embeds = torch.cat([prompt[None], eager.get_input_embeddings()(text)], dim=1)
        wanted = eager(inputs_embeds=embeds, use_cache=False).logits[0, PROMPT:]
        part = Part("probe")
        with lm.adaptation.attaching(part):
            part.soft_prompt = prompt
        try:
            found = _alone(lm, text.tolist())[0]
        finally:
            lm.adaptation.detach(part)
    except Exception as error:
        return f"{type(eager).__name__} takes no embeddings but those of tokens ({type(error).__name__})"
    return "" if _near(found, wanted) else f"{type(eager).__name__} reads embeddings in a way not known"


# --- copies -----------------------------------------------------------------------------------------


def copies(config: PretrainedConfig) -> tuple[Any, LanguageModel]:
    """A small model on transformers' eager attention, and one of the same weights through the hook.

    Raises:
        UserError: None can be made.
    """
    text: Any = config.get_text_config(decoder=True)
    auto: Any = AutoModelForCausalLM
    error: Exception | None = None
    for sizes in (_SMALL, {}):
        try:
            small = _shrunk(text, sizes)
            with torch.device("meta"):
                made = auto.from_config(small, trust_remote_code=False)
            if sum(p.numel() for p in made.parameters()) > MOST:
                raise UserError(f'"{text.model_type}" is too large to be tried on a small copy')
            with quiet():
                eager = auto.from_config(
                    copy.deepcopy(small), attn_implementation="eager", dtype=torch.float32
                )
                _randomise(eager.eval().requires_grad_(False))
                _eager(eager, (1, 2, 3))
            break
        except Exception as caught:
            error = error or caught
    else:
        raise UserError(
            f'"{text.model_type}": a small copy of the model cannot be computed '
            f"({_first_line(error or Exception())}); choose another model or report it"
        ) from error
    try:
        with quiet():
            hooked = auto.from_config(
                copy.deepcopy(small), attn_implementation=IMPLEMENTATION, dtype=torch.float32
            )
        hooked.load_state_dict(eager.state_dict(), assign=True)
    except Exception as caught:
        raise UserError(
            f"{type(eager).__name__} does not take an attention function ({type(caught).__name__}: "
            f"{_first_line(caught)}); choose another model or report it"
        ) from caught
    hooked.requires_grad_(False).eval()
    return eager, LanguageModel(hooked, None, f'"{text.model_type}"', "probe", geometry_of(small))


def _shrunk(text: Any, sizes: dict[str, int]) -> Any:
    """A config of the first layers, one of each kind among them, and of a small vocabulary."""
    small = copy.deepcopy(text)
    layers = small.num_hidden_layers
    few = min(layers, max(2, _kinds(small)))
    small.num_hidden_layers = few
    for name, value in vars(text).items():
        if isinstance(value, list | tuple) and len(value) == layers and layers > few:
            setattr(small, name, value[:few])
    for name, most in sizes.items():
        value = getattr(small, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > most:
            setattr(small, name, most)
    small.vocab_size = VOCABULARY
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, 0)
    return small


def _kinds(text: Any) -> int:
    """How many of the first layers it takes until every kind of layer is among them."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(copy.deepcopy(text), trust_remote_code=False)
    layers = getattr(model.get_decoder(), "layers", ())
    seen: dict[Any, int] = {}
    for i, layer in enumerate(layers):
        kind = tuple(
            (
                name,
                type(module).__name__,
                *(tuple(p.shape) for p in module.parameters(recurse=False)),
                *(
                    (key, value)
                    for key, value in sorted(vars(module).items())
                    if isinstance(value, int | float | str | None) and key not in ("layer_idx", "layer_id")
                ),
            )
            for name, module in layer.named_modules()
        )
        seen.setdefault(kind, i)
    return max(seen.values(), default=1) + 1


def _randomise(model: nn.Module) -> None:
    """Weights large enough for attention to be far from uniform, and for every norm and bias to matter."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2 or "norm" in name:
            parameter.data.add_(0.2 * noise)
        elif parameter.shape[0] == VOCABULARY:
            parameter.data.copy_(0.3 * noise)
        else:
            parameter.data.copy_(1.3 * noise * parameter.shape[-1] ** -0.5)


# --- the independent side ---------------------------------------------------------------------------


def _eager(model: Any, text: Text) -> Tensor:
    found: Tensor = model(input_ids=torch.tensor([list(text)]), use_cache=False).logits[0]
    return found


def _near(ours: Tensor, theirs: Tensor) -> bool:
    # Not `allclose`: a NaN on either side is a difference.
    return bool((ours - theirs).abs().max() <= NEAR * theirs.abs().max())


def keys_of(
    model: Any, attentions: Sequence[nn.Module], states: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values that each attention makes of ``[n, hidden]`` states at position 0.

    A batch of n texts of one token, of which every attention sees the states in place of its input; what
    goes into the cache is what it computed.

    Returns:
        A pair of ``[kv_heads, n, head_dim]`` a layer.
    """

    def instead(own: Tensor, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        if "hidden_states" in kwargs:
            return args, kwargs | {"hidden_states": own[:, None]}
        return (own[:, None], *args[1:]), kwargs

    handles = [
        module.register_forward_pre_hook(functools.partial(instead, own), with_kwargs=True)
        for module, own in zip(attentions, states, strict=True)
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


def _laid(form: Rows, groups: Sequence[int], lm: LanguageModel, texts: Sequence[Text]) -> list[Tensor]:
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
    slots = DecodingCache(lm, len(texts), max(map(len, texts)))
    firsts = []
    for text in texts:
        read = DynamicCache()
        firsts.append(lm.hidden(torch.tensor([list(text[:-2])]), read=read)[0, -1])
        slots.add(read, [(0, list(range(len(text) - 2)))])
    states = [torch.stack(firsts)]
    states += [lm.step(torch.tensor([text[at] for text in texts]), slots) for at in (-2, -1)]
    return list(torch.stack([lm.logits(state) for state in states], dim=1))


FORMS: dict[str, Form] = {
    "texts": _alone,
    "padded rows": functools.partial(_laid, Rows.PADDED, (1, 1, 1)),
    "several texts and branches in one line": functools.partial(_laid, Rows.PADDING_FREE, (2, 1)),
    "branches by a mask": functools.partial(_laid, Rows.PADDED, (2, 1)),
    "decoding steps": _steps,
}
