"""Encoders of many architectures, and what a method's states or words have to be.

That is transformers' own, text by text. A prompt stands in an attention written out in `tiny_encoders`, with
keys and values of the layers' projections, which are called by name here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoModel, AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from crosstune.models.attention.choose import BatchForm, lay_out
from crosstune.models.language_model import LanguageModel
from tiny_encoders import planted

Out = Callable[[Sequence[int]], Tensor]
WINDOW = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
# As `architectures.ARCHITECTURES`, of encoders with their masked language model.
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("albert", {}),
    "bert (encoder)": ("bert", {}),
    "big-bird": ("big_bird", {}),
    "camembert": ("camembert", {}),
    "convbert": ("convbert", {}),
    "data2vec-text": ("data2vec-text", {}),
    "deberta": ("deberta", {}),
    "deberta-v2": ("deberta-v2", {}),
    "distilbert": ("distilbert", {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}),
    "electra (encoder)": ("electra", {}),
    "embeddinggemma": ("gemma3_text", WINDOW | {"use_bidirectional_attention": True}),
    "ernie": ("ernie", {}),
    "esm": ("esm", {}),
    "eurobert": ("eurobert", {}),
    "fnet": ("fnet", {}),
    "gte": ("gte", {}),
    "ibert": ("ibert", {}),
    "jina-v3": ("jina_embeddings_v3", {}),
    "longformer": ("longformer", {}),
    "luke": ("luke", {"entity_vocab_size": 64}),
    "megatron-bert": ("megatron-bert", {}),
    "modernbert": ("modernbert", {"local_attention": 16, "layer_types": WINDOW["layer_types"]}),
    "mpnet": ("mpnet", {}),
    "nomic-bert": ("nomic_bert", {}),
    "rembert": ("rembert", {}),
    "roberta (encoder)": ("roberta", {}),
    "roberta-prelayernorm": ("roberta-prelayernorm", {}),
    "roc-bert": ("roc_bert", {"shape_vocab_size": 64, "pronunciation_vocab_size": 64}),
    "roformer": ("roformer", {}),
    "ultrabert": ("ultrabert", {}),
    "xlm": ("xlm", {}),
    "xlm-roberta (encoder)": ("xlm-roberta", {}),
    "xlm-roberta-xl": ("xlm-roberta-xl", {}),
    "xmod": ("xmod", {}),
}
# Names in a layer: keys, values, the last projection of attention and of the MLP, and the norm before the MLP
# where there is one.
_BERT = ("attention.self.key", "attention.self.value", "attention.output.dense", "output.dense", "")
_LLAMA = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj")
_NAMES: dict[str, tuple[str, str, str, str, str]] = {
    "distilbert": ("attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin2", ""),
    "gemma3_text": (*_LLAMA, "pre_feedforward_layernorm"),
    "eurobert": (*_LLAMA, "post_attention_layernorm"),
    "ultrabert": (*_LLAMA, "post_attention_layernorm"),
    "gte": (*_LLAMA, ""),
    "nomic_bert": (*_LLAMA, ""),
    "jina_embeddings_v3": (*_LLAMA[:3], "mlp.fc2", ""),
    "modernbert": ("attn.Wqkv", "attn.Wqkv", "attn.Wo", "mlp.Wo", "mlp_norm"),
}


def eager_encoder(config: Any) -> Any:
    """The model on transformers' eager attention, with its masked language model where the family has one."""
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    kind = AutoModelForMaskedLM if masked else AutoModel
    model = kind.from_config(config, attn_implementation="eager").eval()
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


class _Read(nn.Module):
    """Words of a text, or states of a model that predicts none."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        out = self.model(**inputs)
        states: Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
        return states[0]


@contextmanager
def wanted(method: Any, weights: dict[str, Tensor] | None, lm: LanguageModel, eager: Any) -> Iterator[Out]:
    """What a method has to give of each text.

    Args:
        method: Attached to ``lm``.
        weights: Changed ones, of a method that changes weights; None for the others.
        lm: The hooked model.
        eager: The same on eager attention.
    """
    p, read = method.parameters(), _Read(eager)
    paths = {id(module): name for name, module in lm.model.named_modules()}
    attentions = [eager.get_submodule(paths[id(module)]) for module in lm.attentions]
    layers = [eager.get_submodule(paths[id(module)]) for module in lm.layers]
    names = _NAMES.get(eager.config.model_type, _BERT)

    changed = {f"model.{name}": x for name, x in (weights or {}).items()}

    def plain(text: Sequence[int]) -> Tensor:
        ids = torch.tensor([list(text)])
        states: Tensor = functional_call(read, changed, kwargs={"input_ids": ids}, strict=False)
        return states

    with ExitStack() as inside:
        if method.name == "soft-prompt":
            table = eager.get_input_embeddings()
            yield lambda text: read(
                inputs_embeds=torch.cat([p["prompt"][None], table(torch.tensor([list(text)]))], 1)
            )[len(p["prompt"]) :]
        elif method.name in ("prefix", "llama-adapter"):
            gated = method.name == "llama-adapter"
            prompts = []
            for i, (attention, layer) in enumerate(zip(attentions, layers, strict=True)):
                value = p[f"layers.{i}.prompt" if gated else f"layers.{i}"]
                if value.dim() == 3:  # keys and values themselves
                    pair = tuple(x.unflatten(-1, (lm.geometry.kv_heads, -1)).transpose(0, 1) for x in value)
                else:
                    pair = _projected(attention, layer, names, value, lm.geometry.head_dim)
                prompts.append((attention, *pair, torch.tanh(p[f"layers.{i}.gate"]) if gated else None))
            inside.enter_context(planted(eager, prompts))
            yield plain
        elif method.name in ("bottleneck", "compacter"):
            for i, layer in enumerate(layers):
                for handle in _adapted(layer, names, f"layers.{i}", dict(p), method.config.placement):
                    inside.callback(handle.remove)
            yield plain
        else:
            yield plain


def _projected(
    attention: Any, layer: nn.Module, names: Sequence[str], states: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Keys and values ``[heads, n, size]``; nothing is rotated at position 0."""
    keys, values = (layer.get_submodule(name)(states) for name in names[:2])
    if names[0] == names[1]:  # fused, after the queries
        keys, values = keys.chunk(3, -1)[1:]
    keys, values = (x.unflatten(-1, (-1, size)).transpose(0, 1) for x in (keys, values))
    return (attention.k_norm(keys) if hasattr(attention, "k_norm") else keys), values


def _adapted(
    layer: nn.Module, names: Sequence[str], at: str, weights: dict[str, Tensor], placement: str
) -> Iterator[Any]:
    """Hooks that add ``U phi(D x + b) + c`` behind the last projections, or once to the layer's output."""
    phi = nn.functional.gelu if "rule" in weights else torch.relu
    for name in [name.removesuffix(".left") for name in weights if name.endswith(".left")]:
        pairs = zip(weights["rule"], weights[f"{name}.left"], weights[f"{name}.right"], strict=True)
        weights[f"{name}.weight"] = sum(torch.kron(rule, left @ right) for rule, left, right in pairs).T

    def added(place: str, x: Tensor) -> Tensor:
        inner = phi(x @ weights[f"{place}.down.weight"].T + weights[f"{place}.down.bias"])
        return inner @ weights[f"{place}.up.weight"].T + weights[f"{place}.up.bias"]

    def hook(module: nn.Module, place: str, factor: float = 1, reads: list[Tensor] | None = None) -> Any:
        def add(_: nn.Module, args: Any, out: Any) -> Any:
            first = out[0] if isinstance(out, tuple) else out
            first = first + factor * added(place, first if reads is None else reads.pop())
            return (first, *out[1:]) if isinstance(out, tuple) else first

        return module.register_forward_hook(add)

    if placement == "inside":
        yield hook(layer.get_submodule(names[2]), f"{at}.attention")
        yield hook(layer.get_submodule(names[3]), f"{at}.mlp")
    elif placement == "pfeiffer":
        yield hook(layer, f"{at}.mlp")
    else:
        reads: list[Tensor] = []
        norm = layer.get_submodule(names[4])
        yield norm.register_forward_pre_hook(lambda _, args: reads.append(args[0]))
        yield hook(layer, f"{at}.mlp", 4, reads)


def scaled(eager: Any, layers: Sequence[nn.Module], vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights and biases with `ia3`'s vectors multiplied in."""
    paths = {id(module): name for name, module in eager.named_modules()}
    key, value, _, mlp, _ = _NAMES.get(eager.config.model_type, _BERT)
    changed = {}
    for i, layer in enumerate(layers):
        k, v, inner = (vectors[f"layers.{i}.{end}"] for end in ("key", "value", "inner"))
        fused = [(key, torch.cat([torch.ones(len(k)), k, v]))]
        for name, by in fused if key == value else [(key, k), (value, v)]:
            module: Any = layer.get_submodule(name)
            changed[f"{paths[id(module)]}.weight"] = module.weight * by[:, None]
            if module.bias is not None:
                changed[f"{paths[id(module)]}.bias"] = module.bias * by
        outer: Any = layer.get_submodule(mlp)
        changed[f"{paths[id(outer)]}.weight"] = outer.weight * inner
    return changed


def _read(form: BatchForm, lm: LanguageModel, texts: list[list[int]]) -> list[Tensor]:
    if lm.adaptation.front:
        form = BatchForm.PADDED  # which is what a soft prompt is read in
    placed = lay_out(form, texts, lm.pad_id, lm.device, balance=1e9, two_way=True)
    states = lm.hidden(placed.ids, placed.layout).flatten(0, 1)
    rows = [states[start : start + len(text)] for start, text in zip(placed.starts, texts, strict=True)]
    return [lm.logits(x) for x in rows] if lm.geometry.encoder == "masked" else rows


def _alone(lm: LanguageModel, texts: list[list[int]]) -> list[Tensor]:
    rows = [lm.hidden(torch.tensor([text]))[0] for text in texts]
    return [lm.logits(x) for x in rows] if lm.geometry.encoder == "masked" else rows


FORMS: dict[str, Callable[[LanguageModel, list[list[int]]], list[Tensor]]] = {
    "a text alone": _alone,
    "padded rows": lambda lm, texts: _read(BatchForm.PADDED, lm, texts),
    "texts in one line": lambda lm, texts: _read(BatchForm.PADDING_FREE, lm, texts),
    "texts in one row": lambda lm, texts: _read(BatchForm.PACKED, lm, texts),
}
