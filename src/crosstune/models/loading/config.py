"""A model's config.json, read without running code from its repository."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from crosstune.errors import UserError
from crosstune.models.family import text_config
from crosstune.models.loading.fingerprint import read_json
from crosstune.models.loading.log_noise import without_notices

_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "max_position_embeddings",
)
_OTHER = "mend it, or try a newer transformers"


def read_config(folder: Path, name: str) -> PretrainedConfig:
    """The config of a model folder.

    Args:
        folder: Holds config.json.
        name: What the user called the model, for messages.

    Raises:
        UserError: No config.json, not JSON, or of a model type transformers does not know.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"not a model folder: no config.json in {folder}")
    kind = read_json(file).get("model_type")
    what = f'{name}: its config.json (model_type "{kind}") is not one that transformers reads'
    with foreseen(f"{what} without running code from the repository", _OTHER), without_notices():
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        text = text_config(config)
        text.allow_global_per_layer_attribute_access = True  # Gemma 4's layers have heads of two sizes
        for size in _SIZES:
            value = getattr(text, size, None)
            if isinstance(value, int) and value < 1:
                raise UserError(f"{file}: {size} is {value}; a size is 1 or more")
    return config


@contextmanager
def foreseen(what: str, mend: str) -> Iterator[None]:
    """Whatever a model's own files make transformers raise, in one line (``--debug`` shows where it arose).

    Args:
        what: The model and what about it does not work.
        mend: What to do.

    Raises:
        UserError: Of any exception: architectures raise whatever their code meets first.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} ({one_line(error)}); {mend}") from error


def one_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    text = " ".join(str(error).split())
    return (text if len(text) <= 200 else f"{text[:197]}...") or type(error).__name__
