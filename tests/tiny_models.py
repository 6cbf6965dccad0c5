"""Tiny random models of four families, methods attached to them, and a record of how close things came."""

import copy
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from crosstune.methods import METHODS
from crosstune.methods.base import Method
from crosstune.methods.staged.stage import Staged
from crosstune.models.attention.choose import BatchForm, lay_out
from crosstune.models.attention.hook import IMPLEMENTATION
from crosstune.models.geometry import Geometry, geometry_of
from crosstune.models.language_model import LanguageModel
from crosstune.outputs.rows import TrainingRow
from crosstune.training.batches import Batch, collate

VOCABULARY = 200
WINDOW = 8
DEVICE = os.environ.get("CROSSTUNE_TEST_DEVICE", "cpu")
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
# head_dim 24 is not hidden / heads; Gemma's attention scale is not head_dim ** -0.5 either.
CONFIGS: dict[str, Any] = {
    "llama": lambda **more: LlamaConfig(**SIZES | {"head_dim": 16} | more),
    "mistral": lambda **more: MistralConfig(**SIZES | {"head_dim": 24, "sliding_window": WINDOW} | more),
    "mistral-full": lambda **more: MistralConfig(**SIZES | {"head_dim": 24, "sliding_window": None} | more),
    "gemma3": lambda **more: Gemma3TextConfig(
        **SIZES
        | {
            "head_dim": 24,
            "query_pre_attn_scalar": 10,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "tie_word_embeddings": True,
        }
        | more
    ),
    "qwen3": lambda **more: Qwen3Config(**SIZES | {"head_dim": 24} | more),
}
FAMILIES = ("llama", "mistral", "gemma3", "qwen3")

# Every shape a method's parameters come in: name -> (method, settings).
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "few-shot": ("few-shot", {}),
    "soft-prompt": ("soft-prompt", {"length": 3}),
    "prefix-hidden": ("prefix", {"length": 4}),
    "prefix-kv": ("prefix", {"length": 4, "space": "kv", "layers": [0, 2]}),
    "prefix-hidden-mlp": ("prefix", {"length": 4, "reparameterise": 5, "layers": 2}),
    "prefix-kv-mlp": ("prefix", {"length": 4, "space": "kv", "reparameterise": 5}),
    "llama-adapter": ("llama-adapter", {"length": 4}),
    "llama-adapter-plain": ("llama-adapter", {"length": 4, "gate": "layer", "squash": "none", "layers": 2}),
    "lora": ("lora", {}),
    "lora-all": (
        "lora",
        {"rank": 3, "alpha": 5.0, "layers": 2, "target_modules": ("q_proj", "k_proj", "o_proj", "down_proj")},
    ),
    "bottleneck": ("bottleneck", {"width": 5, "sublayers": "both"}),
    "bottleneck-parallel": (
        "bottleneck",
        {"width": 4, "placement": "parallel", "scale": "learned", "activation": "tanh", "layers": 2},
    ),
    "peft-loha": ("peft", {"type": "LOHA", "r": 3}),
    "compacter": ("compacter", {"width": 8, "rank": 2, "layers": 2}),
    "ia3": ("ia3", {"layers": 2}),
    "stack": ("stack", {"stack": ["lora", {"name": "llama-adapter", "length": 4}]}),
    "sparse": ("sparse", {"keep": 0.5, "l1": 0.1}),
    "full": ("full", {}),
    "full-norms": ("full", {"only": "norms", "layers": 2}),
}
# A method without a case here has one of its default settings: a new one is in every test of this matrix.
# One with a stage is what the stage's method is, under another, and one that was trained before is in a
# folder: they have tests of their own.
CASES |= {
    name: (name, {})
    for name, method in METHODS.items()
    if not issubclass(method, Staged) and name not in {"adapter", *(name for name, _ in CASES.values())}
}
# Those with parameters of their own, and not only a head that a task brings.
TRAINED = tuple(
    case
    for case, (name, _) in CASES.items()
    if METHODS[name].learning_rate is not None and not METHODS[name].needs_head
)
# Draws while it trains, or has a state of its own then.
DROPOUT: dict[str, tuple[str, dict[str, Any]]] = {
    "lora-dropout": ("lora", {"dropout": 0.3}),
    "peft-adalora": ("peft", {"type": "ADALORA", "init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1}),
}
# What evaluation is compared on: one of each way a method reaches the model.
SCORED = ("none", "soft-prompt", "prefix-hidden", "prefix-kv", "llama-adapter", "lora", "bottleneck")

differences: dict[str, float] = {}


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of ASCII with a few merges, a token before every text, and 200 tokens in all."""
    alphabet = [*sorted(c for c in pre_tokenizers.ByteLevel.alphabet() if ord(c) < 128), "Ġ", "Ċ"]
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("Ġ", "y"), ("e", "s"), ("Ġy", "es")]
    tokens = ["<pad>", "<s>", "</s>", *alphabet, *(a + b for a, b in merges)]
    tokens += [f"w{i}" for i in range(len(tokens), VOCABULARY)]
    made = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def randomise(model: torch.nn.Module, gemma: bool, seed: int) -> None:
    """Weights large enough for attention to be far from uniform and every norm to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                # Gemma's norms multiply by 1 + weight.
                parameter.copy_(0.3 * noise + (0.0 if gemma else 1.0))
            elif "embed" in name:
                parameter.copy_(noise * (0.15 if gemma else 1.0))
            else:
                parameter.copy_(1.3 * noise * parameter.shape[-1] ** -0.5)


def copied(make: Callable[..., Any]) -> Callable[..., Any]:
    """Make each thing once, and give copies of it: building a tiny model anew takes several times as long."""
    first: dict[str, Any] = {}

    @functools.wraps(make)
    def copy_of(*args: Any, **kwargs: Any) -> Any:
        key = repr((args, sorted(kwargs.items())))
        if key not in first:
            first[key] = make(*args, **kwargs)
        return copy.deepcopy(first[key])

    return copy_of


@copied
def tiny_model(family: str, dtype: torch.dtype, seed: int, implementation: str, **changes: Any) -> Any:
    """The transformers model alone; the same weights whatever the attention implementation."""
    config = CONFIGS[family](**changes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    randomise(model, family == "gemma3", seed)
    return model.to(DEVICE, dtype).requires_grad_(False).eval()


@copied
def tiny_geometry(family: str, **changes: Any) -> Geometry:
    """The shape of `tiny_model`."""
    return geometry_of(CONFIGS[family](**changes))


def make_lm(
    family: str,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    implementation: str = IMPLEMENTATION,
    **changes: Any,
) -> LanguageModel:
    """A frozen, hooked tiny model of a family with random weights.

    Args:
        family: Key of `CONFIGS`.
        dtype: Of the weights.
        seed: Of the weights.
        implementation: Of the attention.
        **changes: Settings of its config to change.
    """
    return LanguageModel(
        model=tiny_model(family, dtype, seed, implementation, **changes),
        tokenizer=tokenizer(),
        name=f"tiny-{family}",
        revision="0",
        geometry=tiny_geometry(family, **changes),
    )


def make_method(case: str, **changes: Any) -> Method:
    """A method of `CASES` or `DROPOUT`, not yet attached."""
    name, settings = (CASES | DROPOUT)[case]
    kind = METHODS[name]
    return kind(kind.Config(**settings | changes))


def shake(method: Method, seed: int = 1, scale: float = 0.3) -> None:
    """Move every trained parameter away from where it starts: no gate, no B is zero after this."""
    generator = torch.Generator().manual_seed(seed)
    scale = 0.02 if method.trains_weights else scale
    with torch.no_grad():
        for parameter in method.parameters().values():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            parameter.add_(scale * noise)
    method.after_step()


def attach(lm: LanguageModel, case: str, **changes: Any) -> Method:
    """A method of `CASES` or `DROPOUT` on a model, with weights away from their start."""
    method = make_method(case, **changes)
    method.attach(lm, seed=3)
    shake(method)
    return method


def random_ids(length: int, seed: int = 0) -> list[int]:
    """Token ids without the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()


def collated(
    rows: Sequence[TrainingRow],
    device: Any = DEVICE,
    balance: float | None = None,
    form: BatchForm | None = None,
    shared_prefix: int = 0,
    below: Any = None,
) -> Batch:
    """Rows in one form: without one, several texts a line by ``balance`` if there is one, or padded."""
    form = form or (BatchForm.PADDED if balance is None else BatchForm.PACKED)
    return collate(
        rows, lay_out(form, [row.ids[:-1] for row in rows], 0, device, balance, shared_prefix), below
    )


def row(ids: Iterable[int]) -> Tensor:
    """``[1, length]`` on the test device."""
    return torch.tensor([list(ids)], device=DEVICE)


def all_logits(lm: LanguageModel, ids: Iterable[int]) -> Tensor:
    """``[length, vocabulary]`` through crosstune's own forward."""
    with torch.no_grad():
        return lm.logits(lm.hidden(row(ids))[0])


def near(name: str, ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    """Assert that two tensors agree and note the difference under ``name``.

    The difference is relative to the largest entry: small gradients are held to the same digits as logits.
    """
    ours, theirs = ours.detach().double().cpu(), theirs.detach().double().cpu()
    assert ours.shape == theirs.shape
    assert torch.isfinite(ours).all()
    assert torch.isfinite(theirs).all()
    gap, size = float((ours - theirs).abs().max()), float(theirs.abs().max())
    assert size > 0, f"{name}: nothing to compare"
    differences[name] = max(gap / size, differences.get(name, 0.0))
    assert gap <= tolerance * size, f"{name}: largest difference {gap:.3g} of {size:.3g}"
