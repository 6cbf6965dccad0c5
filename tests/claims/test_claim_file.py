"""Files of claims: what is read, and one line for every mistake."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstune.claims.file import Claim, Pick, read_claims, shipped
from crosstune.errors import UserError
from crosstune.languages import LANGUAGES

GOOD = """\
claims:
  - claim: Prefix tuning beats LoRA.
    model: demo:gemma-3-270m
    task: [sib200, cldr-names]
    method: {name: prefix, length: 10, most_parameters: 1.23M, train: {learning_rate: 3e-2}}
    beats: {name: lora, rank: 4}
    by: 6
    languages: {resource: [0, 1], family: Atlantic-Congo}
    every: family
    at_least: 2
"""


def read(tmp_path: Path, text: str) -> list[Any]:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return read_claims(file)


def test_a_claim_is_read_as_it_stands(tmp_path: Path) -> None:
    (parsed,) = read(tmp_path, GOOD)
    claim = parsed.claim
    assert parsed.place == "c.yaml:2"
    assert claim.model == ("demo:gemma-3-270m",)
    assert claim.task == ("sib200", "cldr-names")
    assert claim.method == (
        Pick(
            name="prefix", settings={"length": 10}, train={"learning_rate": 0.03}, most_parameters=1_230_000
        ),
    )
    assert (claim.beats, claim.threshold) == (Pick(name="lora", settings={"rank": 4}), 0.06)
    assert (claim.quantifier, claim.per, claim.at_least, claim.seeds) == ("every", "family", 2, 2)
    assert claim.languages is not None
    for code, row in LANGUAGES.items():
        assert (code in claim.languages) == (row.family == "Atlantic-Congo" and row.resource in (0, 1))
    assert str(claim.method[0]) == "prefix length 10 learning rate 0.03 at most 1,230,000 parameters"


def test_the_shipped_claims_are_read_and_cover_what_the_paper_says() -> None:
    assert list(shipped()) == ["paper", "founding", "demo"]
    paper, founding, demo = ([placed.claim for placed in read_claims(name)] for name in shipped())
    every = paper + founding + demo
    assert len({claim.claim for claim in every}) == len(every)
    assert len(founding) == 19
    assert all(claim.source for claim in founding)
    assert sum(claim.compares for claim in founding) == 3
    assert sum(claim.setup is not None for claim in founding) == 11
    for models in ("meta-llama/Llama-3.1-8B", "mistralai/Mistral-7B-v0.3"):
        assert any(c.model == (models,) and c.task == ("belebele",) and c.beats for c in paper)
    assert any(c.by == 6 for c in paper)
    assert any(c.method[0].most_parameters == 1_230_000 and c.matches for c in paper)
    assert any(c.beats == Pick(name="full") and c.languages for c in founding)
    assert {"family", "script", "model"} <= {c.per for c in paper}
    assert any(c.varies_with == "learning_rate" and c.metric == "wrong_language" for c in paper)
    assert {c.model for c in demo} == {("demo:gemma-3-270m",)}
    questions = read_claims(str(Path(__file__).parents[2] / "docs" / "prefix-vs-adapters" / "claims.yaml"))
    assert {c.claim.task for c in questions} == {("number-words",), ("xquad",), ("sib200",)}
    assert {task for c in demo for task in c.task or ()} == {"sib200", "cldr-names", "number-words"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("beats: {name: lora, rank: 4}", "beat: lora"),
            '6: unknown key "beat" in a claim; did you mean "beats"?',
        ),
        (
            ("beats: {name: lora, rank: 4}", "matches: lora"),
            "6: matches needs within: how many points are no difference, such as 1",
        ),
        (("by: 6", "within: 1"), "7: within belongs to matches and equals; beats and varies_with take by"),
        (("by: 6", "by: six"), '7: by should be a number; found "six"'),
        (("by: 6", "by: -1"), "7: by should be greater than or equal to 0; found -1"),
        (("by: 6", "by: true"), "7: by should be a number; found true"),
        (
            ("by: 6", "matches: full"),
            "7: a claim needs one of beats, matches, equals, varies_with, setup, literature; found beats "
            "and matches",
        ),
        (("by: 6", "some: task"), "7: a claim takes one of every, most, some; found every and some"),
        (("every: family", "every: village"), "9: every should be "),
        (("resource: [0, 1]", "resource: [7]"), "8: languages: no resource"),
        (("family: Atlantic-Congo", "family: Atlantik-Congo"), 'did you mean "Atlantic-Congo"?'),
        (
            ("{resource: [0, 1], family: Atlantic-Congo}", "[de, xyzzy]"),
            "8: languages: unknown language 'xyzzy'",
        ),
        (
            ("{resource: [0, 1], family: Atlantic-Congo}", "{resource: 5, family: Uralic}"),
            "in all of these groups",
        ),
        (("at_least: 2", "at_least: 0"), "10: at_least should be greater than or equal to 1; found 0"),
        (("[sib200, cldr-names]", "[sib200, sib200]"), "4: task: sib200 is listed twice"),
        (
            ("1.23M", "many"),
            "5: most_parameters: give a number of parameters, such as 1.23M",
        ),
        (("{name: lora, rank: 4}", "[lora, full]"), "6: a method is its name, or a mapping"),
        (("claim: Prefix tuning beats LoRA.", "source: me"), '2: a claim needs "claim:", such as'),
        (("by: 6", "by: 6\n    by: 7"), '8: key "by" again; first on line 7'),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(UserError) as raised:
        read(tmp_path, GOOD.replace(*change))
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith(f"{tmp_path / 'c.yaml'}:")
    assert message in text, text


@pytest.mark.parametrize("text", ["", "claims:", "claims: []", "[]", "claims: {}", "name: x"])
def test_a_file_without_claims_says_what_it_wants(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match='a file of claims is a mapping with a list "claims:"'):
        read(tmp_path, text)


def test_names_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'no claims "papr": give a file, or a name; did you mean "paper"\?'):
        read_claims("papr")
    with pytest.raises(UserError, match=r"nowhere.yaml: no such file"):
        read_claims(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match=r'c\.yaml:3: unknown key "study"'):
        read(tmp_path, "claims:\n- {claim: x, method: prefix, beats: lora}\nstudy: 1\n")


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from([*Claim.model_fields, "Claim", "\x1b[31m", "\u202e"])
CLAIM = st.dictionaries(KEYS, WILD, max_size=8) | WILD


@settings(max_examples=150, deadline=None)
@given(claims=st.lists(CLAIM, max_size=3))
def test_wild_files_are_claims_or_one_line_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, claims: list[Any]
) -> None:
    file = tmp_path_factory.mktemp("wild") / "c.yaml"
    file.write_text(json.dumps({"claims": claims}), encoding="utf-8")
    try:
        listed = read_claims(file)
    except UserError as error:
        message = str(error)
    else:
        assert len(listed) == len(claims)
        return
    assert message.startswith(str(file))
    assert len(message.splitlines()) == 1


PART = st.sampled_from(["prefix", "lora", "none", "x"])
SOUND = st.fixed_dictionaries(
    {"claim": st.text(min_size=1, max_size=30), "method": PART | st.lists(PART, min_size=1, unique=True)},
    optional={
        "by": st.floats(0, 50),
        "task": st.text(min_size=1, max_size=9),
        "languages": st.fixed_dictionaries({"resource": st.lists(st.integers(0, 5), min_size=1)}),
        "every": st.sampled_from(["family", "language", "model", "script"]),
        "at_least": st.integers(1, 9),
        "options": st.dictionaries(st.text(max_size=5), WILD, max_size=2),
    },
)


@settings(max_examples=40, deadline=None)
@given(claim=SOUND)
def test_sound_claims_are_read_and_judged(claim: dict[str, Any]) -> None:
    from crosstune.claims.file import PlacedClaim
    from crosstune.claims.judge import judge
    from simulated import simulate

    checked = Claim.model_validate(claim | {"beats": "lora"})
    store = simulate(
        {"prefix": 0.7, "lora": 0.6}, examples=2, seeds=(0, 1), languages=["en", "de", "fr", "sw"]
    )
    (verdict,) = judge([PlacedClaim(checked, "x")], *store)
    assert verdict.claim == claim["claim"]
    assert (verdict.cell.difference is None) <= (verdict.verdict == "not enough data")
    assert yaml.safe_dump(verdict.reason)


def test_every_method_that_a_shipped_claim_judges_is_trained_by_a_ready_study() -> None:
    """Without `full` in any of them, claims on full fine-tuning had no runs to be judged by."""
    root = Path(__file__).parents[2]
    presets = root / "src" / "crosstune" / "study" / "presets"
    together: list[set[tuple[str, int | None]]] = []
    for file in (root / "studies" / "paper").glob("*.yaml"):
        study = yaml.safe_load(file.read_text(encoding="utf-8"))
        names = [study["preset"]] if isinstance(study["preset"], str) else study["preset"]
        parts = [yaml.safe_load((presets / f"{name}.yaml").read_text(encoding="utf-8")) for name in names]
        entries = [entry for part in (study, *parts) for entry in part.get("methods", ())]
        facts = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]
        together.append({(entry["name"], entry.get("train", {}).get("per_label")) for entry in facts})
    for name in ("founding", "paper"):
        for claim in (placed.claim for placed in read_claims(name)):
            sides = [*claim.method, *([] if claim.against is None else [claim.against])]
            wanted = {(pick.name, pick.train.get("per_label")) for pick in sides if claim.compares}
            assert any(wanted <= methods for methods in together), claim.claim
