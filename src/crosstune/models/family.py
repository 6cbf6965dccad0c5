"""Which of transformers' classes a config is of: a causal language model, an encoder, or an encoder-decoder.

An encoder reads a text whole: each token sees all others. If it was saved with its masked language model,
that is loaded too, so that words can be predicted at a mask. An encoder-decoder reads a text with an encoder,
and writes another with a decoder that attends to what was read.
"""

from typing import Any

CROSS = ("encoder_attn", "layer.1.EncDecAttention")
"""Names, in a layer of a decoder, of its attention to what an encoder read."""
CAUSAL = ("ForCausalLM", "LMHeadModel")
MASKED = ("ForMaskedLM", "ForPreTraining")


def encoder_decoder(config: Any) -> bool:
    """Whether it is of an encoder-decoder that reads and writes text."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as KNOWN

    return bool(config.is_encoder_decoder) and config.model_type in KNOWN


def text_config(config: Any) -> Any:
    """The part of a config that describes what reads and writes text; the config itself for most models."""
    # Of an encoder-decoder it would be a copy, half of whose names are changed.
    return config if encoder_decoder(config) else config.get_text_config(decoder=True)


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
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    if encoder_decoder(config):
        return AutoModelForSeq2SeqLM
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
    """The embedding and the layers of a model, without what reads their states; a decoder's if it has two."""
    return model.base_model if encoder_of(model.config) else model.get_decoder()


def stacks_of(model: Any) -> list[Any]:
    """The `stack_of` a model; in an encoder-decoder the encoder, then the decoder."""
    return [model.get_encoder(), model.get_decoder()] if encoder_decoder(model.config) else [stack_of(model)]


def uncached(config: Any) -> dict[str, Any]:
    """Arguments of a forward that keeps no keys and values; most encoders know of none."""
    return {} if encoder_of(config) and not hasattr(config, "use_cache") else {"use_cache": False}
