"""Settings without effect, or with another than they say, are refused with their line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from crosstune.api import placed_claims
from crosstune.errors import UserError
from crosstune.study.spec import read_study
from saved_model import study_of, write_study

SCORED = {"evaluate_every": 5}
MANY = list(range(1, 3000))
TASK = """\
name: own
kind: choice
prompt: "{text}:"
choices: [a, b]
answer: label
train: own.csv
test: own.csv
"""


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seeds": [True]}, "seeds: true and false are no seeds"),
        ({"seeds": True}, "seeds: true and false are no seeds"),
        ({"methods": [{"name": "lora", "alpha": 0}]}, "alpha should be greater than 0; found 0"),
        ({"methods": [{"name": "prefix", "layers": [0, 0]}]}, "layers: 0 is listed twice"),
        ({"methods": [{"name": "lora", "target_modules": []}]}, "target_modules .* at least 1 item"),
        ({"methods": [{"name": "none", "train": {"steps": 3}}]}, "method none is not trained"),
        ({"methods": [{"name": "few-shot", "grid": {"train.limit": [1, 2]}}]}, "few-shot is not trained"),
        ({"tasks": "own.yaml", "languages": "all", "train": SCORED}, "task own has no development data"),
        ({"tasks": {"file": "own.yaml", "train": SCORED}, "languages": "all"}, "own has no development data"),
        ({"seeds": [0, -1]}, "seeds: -1 is no seed"),
        ({"seeds": [10**30]}, "seeds: 10+ is no seed"),
        ({"seeds": list(range(7_000))}, "21,000 runs; a study takes 20,000 at most"),
        ({"train": {"steps": 10**30}}, "steps should be less than or equal to 10000000; found 1000"),
        ({"train": {"steps": 1e30}}, "steps should be 1,000,000,000 at most; found 1e"),
        ({"train": {"learning_rate": "1e400"}}, "learning_rate should be finite and 1,000,000,000 at most"),
        ({"train": {"epochs": "inf"}}, "epochs should be less than or equal to 100000"),
        ({"search": {"learning_rates": [1, "nan"]}}, "search: learning_rates"),
        ({"methods": [{"name": "lora", "alpha": 1e30}]}, "alpha should be finite and 1,000,000,000 at most"),
        (
            {"methods": [{"name": "prefix", "length": 100_000}]},
            "length should be less than or equal to 10000",
        ),
        (
            {"evaluate": {"max_answer_tokens": 10**6}},
            "max_answer_tokens should be less than or equal to 1000",
        ),
        (
            {"methods": [{"name": "lora", "grid": {"rank": MANY, "alpha": MANY[:]}}]},
            "8,994,001 combinations; a",
        ),
    ],
)
def test_it_is_refused(model: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    (tmp_path / "own.yaml").write_text(TASK)
    (tmp_path / "own.csv").write_text("text,label\nx,a\n")
    file = write_study(tmp_path / "x.yaml", study_of(model, tmp_path / "s", **changes))
    with pytest.raises(UserError, match=rf"x\.yaml:\d+: .*{says}"):
        read_study(file)


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        ({"method": {"name": "lora", "rnak": 4}}, 'lora has no setting "rnak"; did you mean "rank"'),
        (
            {"method": {"name": "lora", "train": {"stps": 4}}},
            'train has no setting "stps"; did you mean "steps"',
        ),
        ({"evaluate": {"limt": 4}}, 'evaluate has no setting "limt"; did you mean "limit"'),
        ({"beats": {"name": "prefix", "rank": 4}}, 'prefix has no setting "rank"'),
        ({"beats": None, "varies_with": "colour"}, 'lora has no setting "colour"'),
    ],
)
def test_a_claim_about_settings_that_nothing_has(tmp_path: Path, claim: dict[str, Any], says: str) -> None:
    whole = {"claim": "It is so.", "method": "lora", "beats": "none"} | claim
    kept = {key: value for key, value in whole.items() if value is not None}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"claims": [kept]}))
    with pytest.raises(UserError, match=rf"c\.yaml:2: {says}"):
        placed_claims(tmp_path / "c.yaml")
