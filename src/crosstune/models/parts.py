"""Where a family of models keeps what: the only place that knows modules by name.

The stack of layers, their attention, projections and MLPs, and what stands between hidden states
and scores, found in the modules of a model, which may be on PyTorch's meta device. Each dict or tuple below
lists the names that families of transformers use; a new one is taught by adding its name.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from crosstune.errors import UserError
from crosstune.models.family import CROSS, encoder_of, stacks_of

LAYERS = ("layers", "h", "encoder.layer", "transformer.layer", "block")
ATTENTION = (
    *("self_attn", "self_attention", "attention.self", "attention", "attn.attention", "attn"),
    "layer.0.SelfAttention",
)
KEY, VALUE = ("k_proj", "key", "k_lin", "k"), ("v_proj", "value", "v_lin", "v")
OUTPUT = ("o_proj", "dense", "out_proj", "c_proj", "out_lin", "Wo", "o")
OUTPUT_BESIDE = ("attention.output.dense",)  # beside the attention, in the layer
MLP = ("mlp", "feed_forward", "ffn", "layer.2.DenseReluDense", "layer.1.DenseReluDense")
MLP_OUTPUT = ("down_proj", "fc2", "c_proj", "dense_4h_to_h", "fc_out", "output.dense", "lin2", "Wo", "wo")
NORM_BEFORE_ATTENTION = ("input_layernorm", "ln_1", "attention_layernorm")
NORM_BEFORE_MLP = (
    "pre_feedforward_layernorm",
    "pre_mlp_layernorm",
    "pre_ff_layernorm",
    "mlp_norm",
    "feedforward_layernorm",
    "ln_2",
    "post_attention_layernorm",  # in the layers that have none of the others; in those it follows attention
)
NORM_AFTER_ATTENTION = ("post_self_attn_layernorm", "post_norm1", "post_attention_layernorm")
NORM_AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_norm2")
# Of encoder-decoders: T5's norms before an MLP, the decoder's first; and layers that norm before it under a
# name that others have for a norm behind it.
NORM_BEFORE_SECOND = ("layer.2.layer_norm", "layer.1.layer_norm")
NORMS_FIRST = tuple(
    f"{family}{side}Layer"
    for family in ("MBart", "M2M100", "Pegasus", "Blenderbot")
    for side in ("Encoder", "Decoder")
)

POSITIONS = "embeddings.position_embeddings"

# Queries, keys and values in one projection: one block after the other, or the three of each head together.
FUSED: dict[str, Literal["blocks", "heads"]] = {
    "qkv_proj": "blocks",
    "c_attn": "blocks",
    "Wqkv": "blocks",
    "query_key_value": "heads",
}
# Attentions whose fused projection has another order.
OTHER_ORDER = ("CodeGenAttention",)
# What scores are multiplied with before they are capped, by name in the config.
SCALES: dict[str, Callable[[float], float]] = {
    "logit_scale": lambda value: value,
    "logits_scaling": lambda value: 1 / value,
}
CAP = "final_logit_softcapping"


def child(parent: nn.Module, names: tuple[str, ...]) -> str | None:
    """The first of some names, dotted or not, under which a module holds one other, no list of several."""
    for name in names:
        with suppress(AttributeError):
            if not isinstance(parent.get_submodule(name), nn.ModuleList):
                return name
    return None


def _list(stack: nn.Module, name: str) -> nn.ModuleList | None:
    """A list of modules under a dotted name, if there is one."""
    with suppress(AttributeError):
        if isinstance(layers := stack.get_submodule(name), nn.ModuleList):
            return layers
    return None


def _layers(stack: nn.Module) -> list[nn.Module]:
    """The layers of a stack, under the first name that it has some."""
    return next((list(layers) for name in LAYERS if (layers := _list(stack, name)) is not None), [])


def _position_table(stack: nn.Module) -> nn.Embedding | None:
    """The table of learned positions, if the model has one."""
    with suppress(AttributeError):
        if isinstance(table := stack.get_submodule(POSITIONS), nn.Embedding):
            return table
    return None


def linear_size(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear layer, GPT-2's among them; None for any other module.

    A router that is a linear layer by its class (Phi-MoE's) gives more than an output.
    """
    if isinstance(module, nn.Linear) and not type(module).__name__.endswith("Router"):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":
        weight: Any = module.weight
        return int(weight.shape[0]), int(weight.shape[1])
    return None


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear layer, or the columns of a fused one's output that are one of queries, keys and values."""

    parent: nn.Module  # holds the layer; which module it is may change while methods are attached
    name: str  # under which name
    columns: Tensor | None = None  # ``[n]`` numbers of the output's columns; None for all

    @property
    def module(self) -> nn.Module:
        """The linear layer as it is now."""
        return self.parent.get_submodule(self.name)


def projection(parent: nn.Module, names: tuple[str, ...]) -> Projection | None:
    """A module's linear layer under the first of some names."""
    name = child(parent, names)
    return None if name is None else Projection(parent, name)


class Layer:
    """One layer of the stack, read anew each time: methods may exchange modules.

    Args:
        module: The layer.
        attention: Name of its attention; None where it has none (a state space, a convolution).
        cross: Name of its attention to what an encoder read; None for none.
    """

    def __init__(self, module: nn.Module, attention: str | None, cross: str | None = None) -> None:
        self.module, self._attention, self._cross = module, attention, cross

    @property
    def attends(self) -> bool:
        """Whether it has attention."""
        return self._attention is not None

    @property
    def attention(self) -> nn.Module:
        """Its self-attention."""
        assert self._attention is not None
        return self.module.get_submodule(self._attention)

    @property
    def cross(self) -> "Layer | None":
        """Its attention to what an encoder read, seen as a layer of that attention alone."""
        return None if self._cross is None else Layer(self.module, self._cross)

    @property
    def norm_before_attention(self) -> nn.Module | None:
        """What its attention's input goes through."""
        name = child(self.module, NORM_BEFORE_ATTENTION)
        return None if name is None else self.module.get_submodule(name)

    @property
    def output(self) -> Projection | None:
        """The attention's output projection."""
        if self._attention is None:
            return None
        return projection(self.module, OUTPUT_BESIDE) or projection(self.attention, OUTPUT)

    @property
    def mlp_output(self) -> Projection | None:
        """The MLP's outer projection: its input is what the MLP computed inside."""
        name = child(self.module, MLP)
        return projection(self.module if name is None else self.module.get_submodule(name), MLP_OUTPUT)

    @property
    def mlp(self) -> nn.Module | None:
        """What computes the MLP's output: its outer projection, or the whole MLP where that has none."""
        name = child(self.module, MLP)
        whole = None if name is None else self.module.get_submodule(name)
        return whole if self.mlp_output is None else self.mlp_output.module

    @property
    def before_mlp(self) -> nn.Module | None:
        """The first module behind attention that reads the residual stream; None in layers of other builds.

        In all layers in which there is one, the layer's output is the stream plus what comes of it.
        """
        names = dict(self.module.named_children())
        if getattr(self.module, "do_layer_norm_before", False) or type(self.module).__name__ in NORMS_FIRST:
            return names.get("final_layer_norm")  # OPT, mBART
        if (name := child(self.module, NORM_BEFORE_SECOND)) is not None:
            return self.module.get_submodule(name)
        if self._norms_sums:
            return None
        if "post_feedforward_layernorm" in names and "pre_feedforward_layernorm" not in names:
            return names.get("mlp")  # OLMo 2: normed behind it alone
        return names.get(child(self.module, NORM_BEFORE_MLP) or "")

    @property
    def _norms_sums(self) -> bool:
        """Whether it norms the stream itself behind each sub-layer, as BERT does, and not what is added."""
        return hasattr(self.module, "post_mlp_layernorm") and self.norm_before_attention is None

    @property
    def norms_behind(self) -> tuple[nn.Module | None, nn.Module | None]:
        """What the outputs of attention and of the MLP go through before they are added to the stream."""
        names = {} if self._norms_sums else dict(self.module.named_children())
        attention = names.get(child(self.module, NORM_AFTER_ATTENTION) or "")
        return (
            None if attention is self.before_mlp else attention,
            names.get(child(self.module, NORM_AFTER_MLP) or ""),
        )

    def key_and_value(self) -> tuple[Projection, Projection] | None:
        """What makes keys and values, also inside a fused projection; None where no name is known."""
        if self._attention is None:
            return None
        attention = self.attention
        key, value = projection(attention, KEY), projection(attention, VALUE)
        if key is not None and value is not None:
            return key, value
        fused = child(attention, tuple(FUSED))
        size, dim = self._output_size(), self.head_dim
        module: Any = None if fused is None else attention.get_submodule(fused)
        other = type(attention).__name__ in OTHER_ORDER or not hasattr(module, "weight")  # several layers
        if fused is None or size is None or dim is None or other:
            return None
        whole = module.out_features if hasattr(module, "out_features") else module.weight.shape[1]
        columns = torch.arange(whole, device="cpu")
        kv = (whole - size) // 2
        if FUSED[fused] == "heads":
            if kv != size:
                return None
            heads = columns.view(-1, 3, dim)
            return tuple(Projection(attention, fused, heads[:, i].flatten()) for i in (1, 2))  # type: ignore[return-value]
        _, key_columns, value_columns = columns.split([whole - 2 * kv, kv, kv])
        return Projection(attention, fused, key_columns), Projection(attention, fused, value_columns)

    @property
    def named(self) -> dict[str, bool]:
        """Which of what only some methods need is known here."""
        return {
            "attention's last projection": self.output is not None,
            "MLP": self.mlp is not None,
            "MLP's last projection": self.mlp_output is not None,
            "norm before the MLP": self.before_mlp is not None,
            "projection of keys and values": self.key_and_value() is not None,
        }

    @property
    def head_dim(self) -> int | None:
        """Size of one head."""
        if self._attention is None:
            return None
        names = ("head_dim", "head_size", "attention_head_size", "key_value_proj_dim")
        sizes = (getattr(self.attention, name, None) for name in names)
        return next((size for size in sizes if isinstance(size, int)), None)

    def _output_size(self) -> int | None:
        size = None if self.output is None else linear_size(self.output.module)
        return None if size is None else size[0]

    def sizes(self) -> dict[str, int]:
        """What can be read of a layer's shape: ``heads``, ``kv_heads``, ``head_dim``, ``intermediate``."""
        dim, pair, query = self.head_dim, self.key_and_value(), self._output_size()
        sizes: dict[str, int] = {}
        if dim and pair and query and (key := linear_size(pair[0].module)) is not None:
            width = key[1] if pair[0].columns is None else len(pair[0].columns)
            sizes |= {"head_dim": dim, "heads": query // dim, "kv_heads": width // dim}
        if self.mlp_output is not None and (mlp := linear_size(self.mlp_output.module)) is not None:
            sizes["intermediate"] = mlp[0]
        return sizes

    def linears(self) -> tuple[tuple[str, int, int], ...]:
        """Name inside the layer, in and out of every linear layer in it."""
        sizes = ((name, linear_size(module)) for name, module in self.module.named_modules())
        return tuple((name, *size) for name, size in sizes if size is not None)


@dataclass(frozen=True, slots=True)
class Weight:
    """One parameter of a model."""

    name: str  # in the model
    tensor: nn.Parameter  # itself
    layer: int | None  # number of the layer that it is in; None outside of them
    bias: bool  # whether it is a bias, a norm's among them
    norm: bool  # whether it is a norm's


class Parts:
    """What a decoder or an encoder is made of.

    Args:
        model: A transformers model, on any device.

    Raises:
        UserError: It has no stack of layers with an attention each, under any known name.
    """

    def __init__(self, model: Any) -> None:
        stacks = stacks_of(model)
        modules = [module for stack in stacks for module in _layers(stack)]
        attentions = [child(module, ATTENTION) for module in modules]
        crosses = [child(module, CROSS) if len(stacks) > 1 else None for module in modules]
        if not any(attentions):
            raise UserError(
                f"{type(model).__name__} has no layers with their attention under a known name "
                f"({', '.join(ATTENTION)}); choose a decoder such as Llama, Mistral, Gemma or Qwen, or an "
                "encoder such as XLM-R"
            )
        self.layers = [Layer(*layer) for layer in zip(modules, attentions, crosses, strict=True)]
        self.encoder_layers = sum(name is None for name in crosses) if len(stacks) > 1 else 0
        config, stack = stacks[-1].config, stacks[-1]
        self.cap: float | None = getattr(config, CAP, None)
        table = _position_table(stack) if encoder_of(config) else None
        # As RoBERTa's code has it: behind the row that stands for padding.
        self.first_position = 0 if table is None or table.padding_idx is None else table.padding_idx + 1
        self.scale = 1.0
        for name, factor in SCALES.items():
            if isinstance(value := getattr(config, name, None), int | float):
                self.scale *= factor(value)

    def weights(self, model: nn.Module) -> Iterator[Weight]:
        """Every parameter of the model that can be trained, tied ones once."""
        layers = {id(module): i for i, layer in enumerate(self.layers) for module in layer.module.modules()}
        for name, tensor in model.named_parameters():
            at, _, end = name.rpartition(".")
            module = model.get_submodule(at)
            if "Sinusoidal" in type(module).__name__:
                continue  # computed, and never trained
            norm = "norm" in type(module).__name__.lower()
            yield Weight(name, tensor, layers.get(id(module)), end.endswith("bias"), norm)

    @property
    def plain_scores(self) -> bool:
        """Whether scores are what the output layer computes, and nothing else is done to them."""
        return self.cap is None and self.scale == 1

    def scores(self, scores: Tensor) -> Tensor:
        """Of what the output layer computed."""
        scores = scores if self.scale == 1 else scores * self.scale
        return scores if self.cap is None else self.cap * torch.tanh(scores / self.cap)
