"""What PEFT puts into a model's layers, by a trained folder's own settings and tensors."""

import warnings
from dataclasses import fields
from typing import Any

from crosstune.errors import UserError, first_line
from crosstune.methods.adapters.peft_layers import ADAPTER, PeftLayers
from crosstune.methods.adapters.peft_tuner import KEEPS_WEIGHTS, REFUSED, TYPES, UNMERGED
from crosstune.methods.config import MethodConfig
from crosstune.methods.deferred import LanguageModel, Tensor, nn
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry

_BESIDE = {
    "modules_to_save": "whole modules",
    "trainable_token_indices": "embeddings of chosen tokens",
    "layer_replication": "repeated layers",
    "target_parameters": "updates of parameters that belong to no linear layer",
}
"""Settings of PEFT's that put more than layers of its own into a model, and what that is."""


class TunerConfig(MethodConfig):
    """PEFT's own settings, as its folder has them."""

    settings: dict[str, Any]


class GivenTuner(PeftLayers[TunerConfig]):
    """A trained tuner of PEFT's."""

    name = "peft"
    summary = learning_rate_from = "trained before"
    learning_rate = None
    Config = TunerConfig

    @classmethod
    def count(cls, config: TunerConfig, geometry: Geometry) -> int:
        """Not by the settings."""
        raise NotImplementedError

    @property
    def mergeable(self) -> bool:
        """Whether PEFT can merge the type."""
        return self.config.settings["peft_type"] not in UNMERGED

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Let PEFT wrap the layers that the folder names.

        Raises:
            UserError: A type or a setting that is not taken, or layers that the model lacks.
        """
        if lm.quantized:
            raise UserError("quantised weights; take quantize out")
        settings = _peft_settings(self.config.settings)
        root = _by_full_names(lm)
        self.tuner = self.wrap(part, root, lambda: _tuner(root, settings), seed)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put the folder's tensors in, by PEFT's names.

        Raises:
            UserError: Some are of other layers or sizes, or missing.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        model: Any = nn.Module()
        model.base_model, model.peft_config = self.tuner, self.tuner.peft_config
        saved_by_peft = get_peft_model_state_dict(model, adapter_name=ADAPTER, save_embedding_layers=False)
        for name in sorted(saved_by_peft.keys() - state.keys()):
            raise UserError(f"it has no {name}, and this model has such a layer")
        try:
            loaded: Any = set_peft_model_state_dict(model, state, ADAPTER)
        except Exception as error:  # as in `_tuner`
            text = " ".join(str(error).split())
            raise UserError(text.partition("size mismatch for ")[2] or text) from error
        for name in loaded.unexpected_keys:
            raise UserError(f"{name} belongs to no layer of this model's")


def _peft_settings(written: dict[str, Any]) -> Any:
    """PEFT's config.

    Raises:
        UserError: What is not taken.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    kind = str(written.get("peft_type"))
    if kind in REFUSED or kind not in {name for name, _ in TYPES.values()}:
        raise UserError(f"peft_type {kind} is not taken")
    for key, what in _BESIDE.items():
        if written.get(key):
            raise UserError(f"it holds {what} ({key}), which are not taken")
    if written.get("bias", "none") != "none":
        raise UserError(f"it holds biases (bias: {written['bias']}), which are not taken")
    start = written.get("init_lora_weights", True)
    if start not in KEEPS_WEIGHTS:
        raise UserError(
            f"init_lora_weights {start!r} changes the model's own weights; convert it to plain LoRA"
        )
    known = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)]
    keys = {field.name for field in fields(known)}
    for key, value in written.items():
        if key not in keys and value not in (None, False, "", [], {}):
            raise UserError(f"it has the setting {key}: {value}, which this version of peft lacks")
    try:
        settings: Any = known(**{key: value for key, value in written.items() if key in keys})
        settings.inference_mode = False  # its tensors are told from the model's by what is trainable
        return settings
    except Exception as error:  # as in `_tuner`
        raise UserError(f"{kind}: {first_line(error)}") from error


def _tuner(root: "nn.Module", settings: Any) -> Any:
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PEFT_TYPE_TO_TUNER_MAPPING[settings.peft_type](root, settings, ADAPTER)
    except Exception as error:  # whatever PEFT makes of settings that do not go together
        raise UserError(" ".join(str(error).split())) from error


def _by_full_names(lm: LanguageModel) -> "nn.Module":
    """The model's layers under the names that they have in it, and nothing else of it."""
    root = nn.Module()
    names = {id(module): name for name, module in lm.model.named_modules()}
    for layer in lm.layers:
        at: Any = root
        *path, leaf = names[id(layer)].split(".")
        for step in path:
            if not hasattr(at, step):
                at.add_module(step, nn.Module())
            at = getattr(at, step)
        at.add_module(leaf, layer)
    return root
