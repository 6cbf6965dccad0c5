"""Settings without effect, or with another than they say, are refused with their line."""

from pathlib import Path
from typing import Any

import pytest

from crosstune.errors import UserError
from crosstune.study.spec import read_study
from saved_model import study_of, write_study


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": [True]}, "seeds: true and false are no seeds"),
        ({"seeds": True}, "seeds: true and false are no seeds"),
        ({"methods": [{"name": "lora", "alpha": 0}]}, "alpha should be greater than 0; found 0"),
        ({"methods": [{"name": "prefix", "layers": [0, 0]}]}, "layers: 0 is listed twice"),
    ],
)
def test_it_is_refused(model: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    file = write_study(tmp_path / "x.yaml", study_of(model, tmp_path / "s", **changes))
    with pytest.raises(UserError, match=rf"x\.yaml:\d+: .*{says}"):
        read_study(file)
