"""Which of transformers' classes a config is of: a causal language model or an encoder.

An encoder reads a text whole: each token sees all others. If it was saved with its masked language model,
that is loaded too, so that words can be predicted at a mask.
"""

from typing import Any

CAUSAL = ("ForCausalLM", "LMHeadModel")
MASKED = ("ForMaskedLM", "ForPreTraining")


def encoder_of(config: Any) -> str:
    """Empty for no encoder; else "masked" if it has its masked language model, or "bare"."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if config.is_encoder_decoder or getattr(config, "is_decoder", False):
        return ""
    saved_as = (getattr(config, "architectures", None) or [""])[0]
    if getattr(config, "use_bidirectional_attention", False) is True:  # EmbeddingGemma
        return "bare"
    if saved_as.endswith(CAUSAL) or config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return ""
    return "masked" if saved_as.endswith(MASKED) else "bare"


def auto_class(config: Any) -> Any:
    """The class of transformers that makes the model of a config."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

    classes: dict[str, Any] = {"": AutoModelForCausalLM, "masked": AutoModelForMaskedLM, "bare": AutoModel}
    return classes[encoder_of(config)]


def from_config(config: Any, **options: Any) -> Any:
    """A model with random weights; never with code from a repository."""
    return without_pooler(auto_class(config).from_config(config, trust_remote_code=False, **options))


def without_pooler(model: Any) -> Any:
    """The model without what makes one vector of a text: heads have their own, and nothing else reads it."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def stack_of(model: Any) -> Any:
    """The embedding and the layers of a model, without what reads their states."""
    return model.base_model if encoder_of(model.config) else model.get_decoder()


def uncached(config: Any) -> dict[str, Any]:
    """Arguments of a forward that keeps no keys and values; most encoders know of none."""
    return {} if encoder_of(config) and not hasattr(config, "use_cache") else {"use_cache": False}
