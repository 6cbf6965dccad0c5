"""The shape of a model, read from its modules without weights: enough to count parameters."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from crosstune.errors import UserError
from crosstune.models.family import CROSS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from crosstune.models.parts import Parts

Linear = tuple[str, int, int]
Side = Literal["encoder", "decoder", "cross"]
"""Of an encoder-decoder its encoder, its decoder, or the decoder's attention to what the encoder read."""
Counts = tuple[int, int, int]
"""Parameters: all, those that are biases, and those of norms."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes that decide how many parameters a method trains."""

    layers: int  # layers; of an encoder-decoder the encoder's, then the decoder's
    hidden: int  # width of the residual stream
    heads: int  # query heads
    kv_heads: int  # key/value heads (grouped-query attention when fewer than ``heads``)
    head_dim: int  # size of one head's keys; not always ``hidden / heads``
    intermediate: int  # width of the MLP
    vocabulary: int  # rows of the embedding
    tied: bool  # whether the output embedding is the input embedding
    parameters: int  # all parameters of the decoder (what ``full`` trains), a tied embedding counted once
    no_prompts: str = ""  # why methods that plant keys and values cannot be used on it; empty where they can
    no_soft_prompt: str = ""  # why it takes no embeddings but its own tokens'; empty where it does
    embedding: int = 0  # width of the embedding where it is not ``hidden``, else 0
    value_dim: int = 0  # size of one head's values where it is not ``head_dim``, else 0
    # Heads, and sizes of one's keys and values, of what a cache holds in their place (DeepSeek's latents);
    # None where it holds them.
    cached: tuple[int, int, int] | None = None
    uneven: tuple[str, ...] = ()  # "keys and values", "MLPs": what some layers have in other sizes
    # Why its texts are read one per row (`crosstune.models.attention.apart`); empty where they share rows.
    apart: str = ""
    # Longest text up to which the rotation is the same whatever stands beside it; 0 for any.
    same_rotation: int = 0
    # Whether all longer texts have one other rotation (LongRoPE). Otherwise it follows the longest text read
    # with them (dynamic NTK), and they are refused.
    long_rotation: bool = False
    unknown: tuple[str, ...] = ()  # what `crosstune.models.parts` knows by no name in some layer
    # Parameters of each layer, and last of all outside of them; None where they are Llama's.
    by_layer: tuple[Counts, ...] | None = None
    # Name inside the layer, in and out of each linear layer, layer by layer; None where every layer has
    # those of Llama.
    linears: tuple[tuple[Linear, ...], ...] | None = None
    # Last names of those that no forward calls: the model reads their weight in another way, or not at all.
    uncalled: tuple[str, ...] = ()
    # "masked" or "bare" for an encoder with or without a masked language model; empty for a causal one.
    encoder: str = ""
    first_position: int = 0  # number of the first (RoBERTa's tables begin with rows that no text uses)
    encoder_layers: int = 0  # how many of the layers are an encoder's before a decoder; 0 in other models

    def usable(self, method: str, fault: str) -> None:
        """Refuse a method that the model cannot be used with: `no_prompts` or `no_soft_prompt` says why.

        Raises:
            UserError: The reason is not empty.
        """
        if fault:
            raise UserError(f"{method}: {fault}; use lora on this model")

    def need(self, method: str, *parts: str) -> None:
        """Refuse a method that needs what is `unknown`.

        Raises:
            UserError: It does.
        """
        for part in parts:
            if part in self.unknown:
                other = "placement: inside" if part == "norm before the MLP" else "lora on this model"
                raise UserError(f"{method}: this model's {part} has no known name; choose {other}")

    def linears_of(self, layer: int) -> tuple[Linear, ...]:
        """Name, in and out of each linear layer of a layer."""
        if self.linears is not None:
            return self.linears[layer]
        # Llama's names: sizes are counted without PyTorch, which `crosstune.models.parts` needs.
        # `geometry_of` compares them with the modules, and keeps those of the modules where they differ.
        hidden, inner = self.hidden, self.intermediate
        return (
            ("self_attn.q_proj", hidden, self.q_size),
            ("self_attn.k_proj", hidden, self.kv_size),
            ("self_attn.v_proj", hidden, self.kv_size),
            ("self_attn.o_proj", self.q_size, hidden),
            ("mlp.gate_proj", hidden, inner),
            ("mlp.up_proj", hidden, inner),
            ("mlp.down_proj", inner, hidden),
        )

    def side(self, layer: int, name: str = "") -> Side:
        """What a layer of an encoder-decoder is part of, or what is in it under a name."""
        if layer < self.encoder_layers:
            return "encoder"
        return "cross" if name.startswith(CROSS) else "decoder"

    @property
    def counts(self) -> tuple[Counts, ...]:
        """Parameters of each layer, and last of all that is outside of them."""
        return self.by_layer or self.counts_with(2 * self.hidden)

    def counts_with(self, norms: int) -> tuple[Counts, ...]:
        """The same of a model without biases that has so many parameters in the norms of a layer."""
        layer = sum(rows * columns for _, rows, columns in self.linears_of(0)) + norms
        outside = (self.parameters - self.layers * layer, 0, self.hidden)
        return (*[(layer, 0, norms)] * self.layers, outside)

    @property
    def kv_size(self) -> int:
        """Width of one token's keys in one layer."""
        return self.kv_heads * self.head_dim

    @property
    def in_cache(self) -> tuple[int, int, int]:
        """Heads, and sizes of one's keys and values, of what a cache holds of a token."""
        return self.cached or (self.kv_heads, self.head_dim, self.value_dim or self.head_dim)

    @property
    def attention_balance(self) -> float:
        """Length of text at which a token costs as much in attention as in all weights of the layers."""
        body = self.parameters - self.vocabulary * self.hidden * (1 if self.tied else 2)
        return max(1.0, body / (2 * self.layers * self.q_size))

    @property
    def q_size(self) -> int:
        """Width of one token's queries in one layer."""
        return self.heads * self.head_dim


def geometry_of(config: "PretrainedConfig") -> Geometry:
    """Read the shape of the text decoder a config describes.

    Parameters are counted on a model built without storage (PyTorch's meta device), so the total is exact
    for every architecture transformers knows, and takes milliseconds at any size.

    Args:
        config: Of a causal LM, an encoder, an encoder-decoder, or a multimodal model, whose text decoder is
            then the one described.

    Raises:
        UserError: Not a model that transformers can build, or one whose layers differ in shape.
    """
    import torch

    from crosstune.models.family import encoder_of, from_config, text_config
    from crosstune.models.parts import Parts

    text: Any = text_config(config)
    text.allow_global_per_layer_attribute_access = True  # layers tell their sizes themselves
    try:
        with torch.device("meta"):
            model = from_config(text)
    except Exception as error:  # architectures raise whatever their code meets first
        raise UserError(
            f'"{text.model_type}" is not a causal language model that transformers can build; '
            "choose a decoder such as Llama, Mistral, Gemma or Qwen, an encoder such as XLM-R, or an "
            "encoder-decoder such as mT5"
        ) from error
    parts = Parts(model)
    output = model.get_output_embeddings()
    inputs = model.get_input_embeddings().weight
    attending = [*parts.layers, *(layer.cross for layer in parts.layers if layer.cross is not None)]
    read = [layer.sizes() for layer in attending]
    # Sizes are those of the modules, and the config's where those of the layers differ or cannot be read.
    sizes = read[0] if all(sizes == read[0] for sizes in read) else {}
    hidden, heads = _size(text, "hidden_size"), sizes.get("heads") or _size(text, "num_attention_heads")
    shape = Geometry(
        layers=len(parts.layers),
        hidden=hidden,
        heads=heads,
        kv_heads=sizes.get("kv_heads") or _size(text, "num_key_value_heads", default=heads),
        head_dim=sizes.get("head_dim") or _size(text, "head_dim", default=hidden // heads),
        intermediate=sizes.get("intermediate")
        or _size(text, "intermediate_size", default=4 * _size(text, "hidden_size")),
        vocabulary=inputs.shape[0],
        tied=output is not None and output.weight is inputs,
        parameters=sum(weight.tensor.numel() for weight in parts.weights(model)),
        embedding=0 if inputs.shape[1] == hidden else inputs.shape[1],
        **_rotation(text),
        uneven=tuple(
            what
            for what, names in (("keys and values", ("kv_heads", "head_dim")), ("MLPs", ("intermediate",)))
            if len({tuple(sizes.get(name) for name in names) for sizes in read}) > 1
        ),
        unknown=tuple(part for part in attending[0].named if any(not x.named[part] for x in attending)),
        encoder=encoder_of(text),
        first_position=parts.first_position,
        encoder_layers=parts.encoder_layers,
    )
    if parts.encoder_layers and "keys and values" in shape.uneven:
        raise UserError(
            f'"{text.model_type}": its encoder and its decoder do not have the same attention, which is not '
            "supported; choose an encoder-decoder such as mT5, mBART or NLLB"
        )
    linears = tuple(layer.linears() for layer in parts.layers)
    if any(set(names) != set(shape.linears_of(i)) for i, names in enumerate(linears)):
        shape = replace(shape, linears=linears)
    counts = _counts(model, parts)
    if shape.tied and parts.encoder_layers and _table_of_its_own(text):
        *layers, (every, biases, norms) = counts
        counts = (*layers, (every + inputs.numel(), biases, norms))
        shape = replace(shape, tied=False, parameters=shape.parameters + inputs.numel())
    return shape if counts == shape.counts else replace(shape, by_layer=counts)


def _table_of_its_own(config: Any) -> bool:
    """Whether weights have an output table though transformers' config says that it is the input's.

    Those of mT5 and T5 1.1 do, and it is loaded.
    """
    return config.model_type == "mt5" or getattr(config, "scale_decoder_outputs", None) is False


def as_loaded(shape: Geometry, model: Any) -> Geometry:
    """The shape of a model that is loaded: only then is it known whether its output table is its input's."""
    from crosstune.models.parts import Parts

    parts = Parts(model)
    counts = _counts(model, parts)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return replace(shape, tied=tied, parameters=sum(every for every, _, _ in counts), by_layer=counts)


def _counts(model: Any, parts: "Parts") -> tuple[Counts, ...]:
    """Parameters of each layer, and of all else."""
    counts = [[0, 0, 0] for _ in range(len(parts.layers) + 1)]
    for weight in parts.weights(model):
        row = counts[-1 if weight.layer is None else weight.layer]
        for at, counted in enumerate((True, weight.bias, weight.norm)):
            row[at] += counted * weight.tensor.numel()
    return tuple((every, biases, norms) for every, biases, norms in counts)


def _rotation(config: Any) -> dict[str, Any]:
    """`Geometry.same_rotation` and `Geometry.long_rotation`."""
    rope = getattr(config, "rope_parameters", None) or {}
    limits: dict[int, set[str]] = {}
    for part in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if (kind := part.get("rope_type", part.get("type"))) in ("dynamic", "longrope", "su"):
            limit = (
                part.get("original_max_position_embeddings")
                or getattr(config, "original_max_position_embeddings", None)
                or config.max_position_embeddings
            )
            limits.setdefault(int(limit), set()).add(kind)
    return {
        "same_rotation": min(limits, default=0),
        "long_rotation": len(limits) == 1 and "dynamic" not in limits[min(limits)],
    }


def _size(config: Any, name: str, default: int | None = None) -> int:
    """One size out of a config; families leave some out (then ``default``) and a few list one per layer."""
    value = getattr(config, name, None)
    if value is None:
        value = default
    if isinstance(value, list | tuple) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int):
        what = "nothing" if value is None else "a different one per layer"
        raise UserError(
            f'config of "{config.model_type}": {name} gives {what}; only decoders whose layers all have '
            "one shape are supported"
        )
    return value
