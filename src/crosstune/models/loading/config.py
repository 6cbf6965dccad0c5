"""A model's config.json, read without running code from its repository."""

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from crosstune.errors import UserError
from crosstune.models.loading.fingerprint import read_json
from crosstune.models.loading.log_noise import quiet


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
    try:
        with quiet():
            config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a config's own validation has error classes of its own
        raise UserError(
            f'{name}: its config.json (model_type "{kind}") is not one that transformers reads without '
            f"running code from the repository ({_first_line(error)}); mend it, or try a newer transformers"
        ) from error
    return config


def _first_line(error: BaseException) -> str:
    """What an exception says, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
