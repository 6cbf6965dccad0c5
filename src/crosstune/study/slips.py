"""What people who come from other programs write in a study (``slips.toml``), and what it is called here."""

from crosstune.files import table_beside
from crosstune.training.settings import TrainSettings

_TABLE = table_beside(__file__, "slips.toml")
_IN_TRAIN = {key: f'write "train: {{{key}: ...}}"' for key in TrainSettings.model_fields}
STUDY_SLIPS: dict[str, str] = _IN_TRAIN | _TABLE["study"]
METHOD_SLIPS: dict[str, str] = _IN_TRAIN | _TABLE["method"]
OTHER_NAMES: dict[str, str] = _TABLE["names"]
