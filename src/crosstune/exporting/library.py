"""Bottleneck adapters and Compacter as the `adapters` library 1.3 has them, on decoders like Llama.

Written by the format alone, without the library, which asks for an older transformers; tests hold it against
what the library wrote and computed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from crosstune.errors import UserError
from crosstune.methods.adapters.bottleneck import Bottleneck
from crosstune.methods.adapters.compacter import Compacter, CompacterConfig
from crosstune.methods.adapters.inserted import InsertedConfig
from crosstune.methods.staged.mad_x import MadX
from crosstune.models.language_model import LanguageModel
from crosstune.models.tensor_file import write_tensors

_ARCHITECTURES = ("llama", "mistral")
_NAME = "crosstune"
TASK = "task"
"""The folder of MAD-X's task adapter; a language's is called by its code."""
_PLACES = {"attention": "attention_adapters", "mlp": "output_adapters"}
_ENDS = {
    "down.weight": "adapter_down.0.weight",
    "down.bias": "adapter_down.0.bias",
    "up.weight": "adapter_up.weight",
    "up.bias": "adapter_up.bias",
    "scale": "scaling",
    "down.left": "adapter_down.0.W_left",
    "down.right": "adapter_down.0.W_right",
    "up.left": "adapter_up.W_left",
    "up.right": "adapter_up.W_right",
}
# Compacter's projections have other names for their biases, and share one tensor.
_OF_PRODUCTS = _ENDS | {"down.bias": "adapter_down.0.b", "up.bias": "adapter_up.b"}


def write_library_form(method: Bottleneck | Compacter, lm: LanguageModel, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter.safetensors`` of an attached method.

    Of MAD-X a folder for the task's adapter, and one for each language's.

    Raises:
        UserError: The library has no such adapter on this model.
    """
    if not isinstance(method, MadX):
        _write(method.name, method.config, method.state(), lm, folder)
        return
    if method.config.residual != "library":
        raise UserError("mad-x: the adapters library's stack has residual: library alone")
    alone = method.config.model_copy(update={"invertible": False})
    parts: dict[str, tuple[InsertedConfig, Mapping[str, Tensor]]] = {TASK: (alone, method.state())}
    for text, codes in method.users.items():
        name = codes[0] if " " in text else text  # a sum of several languages' is one language's own
        parts[name] = (method.config.language_adapter, method.weights[text])
    for name, (config, state) in parts.items():
        (folder / name).mkdir()
        _write(method.name, config, state, lm, folder / name)


def _write(
    name: str, config: InsertedConfig, state: Mapping[str, Tensor], lm: LanguageModel, folder: Path
) -> None:
    kind = lm.model.config.model_type
    if kind not in _ARCHITECTURES:
        raise UserError(f"{name}: the adapters library has it for {' and '.join(_ARCHITECTURES)} here")
    products = config if isinstance(config, CompacterConfig) else None
    if getattr(config, "invertible", False):
        raise UserError(
            f"{name}: the adapters library undoes an invertible adapter in its own heads alone; train it "
            "with invertible: false"
        )
    hidden, chosen = lm.geometry.hidden, config.chosen(lm.geometry.layers)
    parallel, activation = config.placement == "parallel", config.activation or config.published.activation
    # What the library has for adapters of other kinds.
    off = json.loads(Path(__file__).with_name("adapters_defaults.json").read_text(encoding="utf-8"))
    settings = off | {
        "adapter_residual_before_ln": False,
        "dropout": config.dropout,
        "init_weights": "mam_adapter" if parallel else "bert",
        "is_parallel": parallel,
        "leave_out": [i for i in range(lm.geometry.layers) if i not in chosen],
        "mh_adapter": "attention" in config.places,
        "non_linearity": "swish" if activation == "silu" else activation,
        "original_ln_after": True,
        "original_ln_before": config.placement == "pfeiffer",
        "output_adapter": "mlp" in config.places,
        "reduction_factor": reduction_factor(hidden, config.width_in(hidden)),
        "phm_dim": products.n if products else 4,
        "phm_layer": products is not None,
        "phm_rank": products.rank if products else 1,
        "residual_before_ln": True,
        "scaling": 1.0 if products else getattr(config, "scale", None) or (4.0 if parallel else 1.0),
    }
    about: dict[str, Any] = {
        "config": settings,
        "hidden_size": hidden,
        "model_class": type(lm.model).__name__,
        "model_name": lm.name,
        "model_type": kind,
        "name": _NAME,
        "version": "adapters.1.3.0",
    }
    tensors, ends = {}, _OF_PRODUCTS if products else _ENDS
    for key, tensor in state.items():
        if key == "rule":
            at = f"model.shared_parameters.{_NAME}.phm_rule"
        else:
            layers, i, place, end = key.split(".", 3)
            at = f"model.{layers}.{i}.{_PLACES[place]}.adapters.{_NAME}.{ends[end]}"
        tensors[at] = tensor.detach().cpu().contiguous().clone()
    write_tensors(tensors, folder / "adapter.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(about, indent=2, sort_keys=True), encoding="utf-8")


def reduction_factor(hidden: int, width: int) -> float:
    """Of which the library makes the width: ``int(hidden // factor)``."""
    factor = hidden / width
    return factor if int(hidden // factor) == width else factor * (1 - 1e-9)
