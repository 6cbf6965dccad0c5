import json
import os
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstune.data import hub
from crosstune.data.hub import HubFiles
from crosstune.errors import UserError
from crosstune.tasks.benchmarks.nli import LABELS, AmericasNli, MyXnli, Xnli
from crosstune.tasks.prompts import load_prompts

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()
needs_data = pytest.mark.skipif(
    not (DATA / "xnli").is_dir(), reason=f"XNLI is not under {DATA} (set CROSSTUNE_DATA)"
)
PAIRS = [
    ("The kettle is on.", "Water is heating.", "entailment"),
    ("The kettle is on.", "It is green.", "neutral"),
    ("The kettle is on.", "Nothing is switched on.", "contradiction"),
]


def write(root, name, body):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return path


def tsv(*rows):
    return "".join("\t".join(row) + "\n" for row in rows)


def make(kind, root, **options):
    return kind(kind.Options(data=str(root), **options))


def by_id(examples):
    return {e.id: e for e in examples}


def golds(examples):
    return [LABELS[by_id(examples)[key].gold] for key in sorted(by_id(examples))]


def labels_file(root, pairs=PAIRS):
    rows = [("news", label, p, h, f"my {p}", f"my {h}") for p, h, label in pairs]
    header = ("genre", "label", "sentence1_en", "sentence2_en", "sentence1_my", "sentence2_my")
    return write(root, "myxnli/my.genre.test.tsv", tsv(header, *rows))


def test_an_example_reads_as_it_should(tmp_path):
    write(tmp_path, "xnli/test-de.tsv", tsv(("Es {regnet}.", "Es ist nass.", "entailment")))
    (example,) = make(Xnli, tmp_path).examples("test", "de")
    assert example.prompt == "Es {regnet}.\nEs ist nass.\nRight?"
    assert (example.choices, example.answers) == (("Yes", "Maybe", "No"), ("Yes",))
    assert example.fields == (("premise", "Es {regnet}."), ("hypothesis", "Es ist nass."))
    (example,) = make(Xnli, tmp_path, prompt_language="target").examples("test", "de")
    assert example.prompt.endswith("\nRichtig?")
    assert example.answers == ("Ja",)


def test_the_form_of_lm_eval_has_no_prompt_and_whole_texts_as_choices(tmp_path):
    write(tmp_path, "xnli/test-ar.tsv", tsv(("p", "h", "contradiction")))
    (example,) = make(Xnli, tmp_path, form="lm-eval").examples("test", "ar")
    assert example.prompt == ""
    assert example.choices == ("p, right? Yes, h", "p, right? Also, h", "p, right? No, h")
    assert example.gold == 2
    task = make(Xnli, tmp_path, form="lm-eval", prompt_language="target")
    (example,) = task.examples("test", "ar")
    assert example.answers == ("p, صحيح? لا, h",)
    assert task.template("ar") is None


def test_prompts_are_whole_in_all_fifteen_languages():
    languages = load_prompts("nli")["languages"]
    assert " ".join(sorted(languages)) == "ar bg de el en es fr hi ru sw th tr ur vi zh"
    for words in languages.values():
        assert words["prompt"].count("{premise}") == words["prompt"].count("{hypothesis}") == 1
        assert len(set(words["labels"])) == 3
        assert len(words["lm_eval"]) == 4
        assert len(set(words["lm_eval"])) == 4


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (
            "multinli_1.0/multinli_1.0_train.jsonl",
            "\n".join(
                json.dumps({"gold_label": g, "sentence1": p, "sentence2": h, "pairID": "1e"})
                for p, h, g in [*PAIRS, ("a", "undecided", "-")]
            ),
        ),
        (
            "multinli_1.0/multinli_1.0_train.txt",
            tsv(
                ("gold_label", "sentence1", "sentence2", "label1"),
                *((g, p, h, "") for p, h, g in [*PAIRS, ("a", "undecided", "-")]),
            ),
        ),
        (
            "MNLI/train.tsv",
            tsv(
                ("index", "sentence1", "sentence2", "label1", "gold_label"),
                *(("0", p, h, "x", g) for p, h, g in [*PAIRS, ("a", "undecided", "-")]),
            ),
        ),
        (
            "XNLI-MT-1.0/multinli/multinli.train.en.tsv",
            tsv(
                ("premise", "hypo", "label"),
                *((p, h, g.replace("contradiction", "contradictory")) for p, h, g in PAIRS),
            ),
        ),
        ("xnli/train-en.tsv", tsv(*PAIRS)),
        (
            "english_nli/mnli/dev.csv",
            "premise,hypothesis,label\n" + "".join(f'"{p}",{h},{g}\n' for p, h, g in PAIRS),
        ),
    ],
)
def test_every_published_form_of_multinli(tmp_path, name, body):
    write(tmp_path, name, body)
    task = make(Xnli, tmp_path)
    examples = task.examples("train", "en")
    assert sorted((dict(e.fields)["hypothesis"], LABELS[e.gold]) for e in examples) == sorted(
        (h, g) for _, h, g in PAIRS
    )
    assert task.sources[0]["files"] == [name]
    noted = {"split": "train", "language": "en", "left_out_without_gold_label": 1}
    assert (noted in task.sources) == ("undecided" in body)
    assert task.skipped == []


def test_hub_files_have_numbers_for_labels(tmp_path):
    folder = tmp_path / "multi_nli" / "data"
    folder.mkdir(parents=True)
    for part in range(2):
        table = {"premise": ["p"] * 4, "hypothesis": ["h"] * 4, "label": [0, 1, 2, -1]}
        pl.DataFrame(table).write_parquet(folder / f"train-0000{part}-of-00002.parquet")
    task = make(Xnli, tmp_path)
    assert Counter(e.gold for e in task.examples("train", "en")) == {0: 2, 1: 2, 2: 2}
    assert task.sources[1]["left_out_without_gold_label"] == 2
    pl.DataFrame({"premise": ["p"], "hypothesis": ["h"], "label": [3]}).write_parquet(
        folder / "train-00000-of-00002.parquet"
    )
    with pytest.raises(UserError, match=r"of-00002\.parquet:1: label is 3"):
        make(Xnli, tmp_path).examples("train", "en")


def test_other_training_sets_by_name(tmp_path):
    header = ("pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment")
    write(tmp_path, "SICK/SICK_train.txt", tsv(header, ("1", "a", "b", "3.0", "NEUTRAL")))
    write(tmp_path, "english_nli/snli/dev.csv", "premise,hypothesis,label\na,b,contradiction\n")
    assert [e.gold for e in make(Xnli, tmp_path, train_set="sick").examples("train", "en")] == [1]
    assert [e.gold for e in make(Xnli, tmp_path, train_set="snli").examples("train", "en")] == [2]
    assert [e.gold for e in make(AmericasNli, tmp_path, train_set="snli").examples("train", "en")] == [2]
    with pytest.raises(UserError, match=r"no train split .*looked for multinli_1\.0/"):
        make(Xnli, tmp_path).examples("train", "en")
    with pytest.raises(UserError, match="training data in en only"):
        make(Xnli, tmp_path, train_set="sick").examples("train", "de")


def test_the_original_release_holds_all_languages_in_one_file(tmp_path):
    header = ("language", "gold_label", "sentence1", "sentence2", "promptID", "pairID")
    rows = [
        (code, g, f"{code} {p}", h, "1", str(i))
        for code in ("ar", "en")
        for i, (p, h, g) in enumerate(PAIRS, start=1)
    ]
    write(tmp_path, "XNLI-1.0/xnli.test.tsv", tsv(header, *rows))
    task = make(Xnli, tmp_path)
    assert task.languages() == ["en", "ar"]
    english, arabic = task.examples("test", "en"), task.examples("test", "ar")
    assert [e.id for e in english] == [e.id for e in arabic]
    assert golds(arabic) == golds(english) == list(LABELS)
    assert {e.prompt[:3] for e in arabic} == {"ar "}


def test_labels_of_unlabelled_test_files_come_by_row(tmp_path):
    write(tmp_path, "xnli/test-en.tsv", tsv(*((p, h) for p, h, _ in PAIRS)))
    write(tmp_path, "xnli/test-sw.tsv", tsv(*((f"sw {p}", h) for p, h, _ in PAIRS)))
    with pytest.raises(
        UserError, match=r"test files have no labels; theirs .*my\.genre\.test\.tsv, which is"
    ):
        make(Xnli, tmp_path).examples("test", "sw")
    labels_file(tmp_path)
    task = make(Xnli, tmp_path)
    assert golds(task.examples("test", "sw")) == list(LABELS)
    assert golds(task.examples("test", "en")) == list(LABELS)
    assert {"split": "test", "language": "sw", "labels": "myxnli/my.genre.test.tsv"} in task.sources
    labels_file(tmp_path, [*PAIRS, PAIRS[0]])
    with pytest.raises(UserError, match=r"test-sw\.tsv: 3 rows without labels; .* which has 4"):
        make(Xnli, tmp_path).examples("test", "sw")
    labels_file(tmp_path, [("Another text.", h, g) for p, h, g in PAIRS])
    with pytest.raises(UserError, match=r"test-en\.tsv: only 0 of 3 premises are those"):
        make(Xnli, tmp_path).examples("test", "sw")


def test_a_bad_row_does_not_shift_the_labels_of_others(tmp_path):
    write(tmp_path, "xnli/test-sw.tsv", b"a\xff\tb\n" + tsv(*((p, h) for p, h, _ in PAIRS[1:])).encode())
    labels_file(tmp_path)
    task = make(Xnli, tmp_path, on_bad_rows="skip")
    assert golds(task.examples("test", "sw")) == list(LABELS[1:])
    assert len(task.skipped) == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a\tb\tentailment\na\tb\tentialment\n", r"test-de\.tsv:2: unknown label 'entialment'; known: ent"),
        ("a\tb\tneutral\na\tb\n", r"test-de\.tsv:2: 2 fields where 3 were expected"),
        ("a\tb\tneutral\n \tb\tneutral\n", r"test-de\.tsv:2: empty premise"),
        ("a\tb\t-\n", r"test-de\.tsv:1: unknown label '-'"),
        ("a\tb\tneutral\na\t\xff\tneutral\n".encode("latin-1"), r"test-de\.tsv:2: not UTF-8"),
        ("", r"test-de\.tsv is empty"),
    ],
)
def test_damage_is_named_with_file_and_line(tmp_path, body, message):
    write(tmp_path, "xnli/test-de.tsv", body)
    with pytest.raises(UserError, match=message) as caught:
        make(Xnli, tmp_path).examples("test", "de")
    assert "\n" not in str(caught.value)


@settings(max_examples=40)
@given(st.text(alphabet=st.characters(blacklist_characters='\n\t\r"', blacklist_categories=("Cs",))))
def test_hostile_text_comes_through_or_is_refused(tmp_path_factory, text):
    root = tmp_path_factory.mktemp("nli")
    write(root, "xnli/test-de.tsv", f"{text}\tb\tneutral\n")
    if not text.strip("﻿").strip():
        with pytest.raises(UserError, match="empty premise"):
            make(Xnli, root).examples("test", "de")
        return
    (example,) = make(Xnli, root).examples("test", "de")
    assert dict(example.fields)["premise"] == text.removeprefix("﻿").strip()


def test_on_the_hub_english_is_xnlis(tmp_path, monkeypatch):
    requested = []

    def fetch(repo, pattern, revision):
        requested.append((repo, pattern, revision))
        table = {"premise": ["p"], "hypothesis": ["h"], "label": [2]}
        if "myXNLI" in repo:
            table = {"sentence1_my": ["p"], "sentence2_my": ["h"], "label": ["contradiction"]}
        path = tmp_path / "part.parquet"
        pl.DataFrame(table).write_parquet(path)
        return HubFiles([path], repo, "c" * 40)

    monkeypatch.setattr(hub, "fetch_files", fetch)
    for kind, repository, code in (
        (AmericasNli, "nala-cub/americas_nli", "gn"),
        (MyXnli, "akhtet/myXNLI", "my"),
    ):
        requested.clear()
        task = kind(kind.Options(source="hub", revision="v9"))
        assert task.languages()[0] == "en"
        assert [e.gold for e in task.examples("test", "en")] == [2]
        (example,) = task.examples("test", code)
        assert (example.gold, example.id) == (2, "gn:1" if code == "gn" else "1")
        assert len(task.examples("train", "en")) == 1
        assert [(repo, revision == "v9") for repo, _, revision in requested] == [
            ("facebook/xnli", False),
            (repository, True),
            ("nyu-mll/multi_nli", False),
        ]


AMERICAS = ("id", "language", "premise", "hypothesis", "label")


def test_americasnli_is_parallel_to_xnli(tmp_path):
    write(tmp_path, "xnli/dev-en.tsv", tsv(*PAIRS))
    rows = [("12453", "gn", "p", "h", "contradiction"), ("12451", "gn", "q", "h", "entailment")]
    write(tmp_path, "americasnli/dev/gn.tsv", tsv(AMERICAS, *rows))
    task = make(AmericasNli, tmp_path, evaluate_on="dev", on_bad_rows="skip")
    assert task.languages() == ["en", "gn"]
    english, guarani = task.examples("test", "en"), task.examples("test", "gn")
    assert [(e.id, e.gold) for e in english] == [(e.id, e.gold) for e in guarani]
    assert {e.id for e in english} == {"1", "3"}
    assert len(task.examples("dev", "en")) == 3  # selection uses all of XNLI's
    assert {s["language"] for s in task.sources} == {"en", "gn"}
    with pytest.raises(UserError, match="no prompt in gn, only in en, ar"):
        make(AmericasNli, tmp_path, evaluate_on="dev", prompt_language="target").examples("test", "gn")
    write(tmp_path, "americasnli/dev/gn.tsv", tsv(AMERICAS, ("17", "gn", "p", "h", "neutral")))
    with pytest.raises(UserError, match=r"gn\.tsv:2: id '17' is none of a Spanish row of XNLI dev"):
        make(AmericasNli, tmp_path, evaluate_on="dev").examples("test", "gn")


def test_blank_premises_of_the_published_americasnli_are_left_out_and_counted(tmp_path):
    write(tmp_path, "xnli/dev-en.tsv", tsv(*PAIRS))
    rows = [("12453", "nah", "", "h", "contradiction"), ("12451", "nah", "q", "h", "entailment")]
    write(tmp_path, "americasnli/dev/nah.tsv", tsv(AMERICAS, *rows))
    task = make(AmericasNli, tmp_path, evaluate_on="dev")
    assert [example.id for example in task.examples("test", "nah")] == ["1"]
    assert [line.partition("nah.tsv:")[2] for line in task.skipped] == ["2: empty premise"]
    # What the published file does not have stops as ever.
    write(tmp_path, "americasnli/dev/nah.tsv", tsv(AMERICAS, rows[1], ("12453", "nah", "p", "", "neutral")))
    with pytest.raises(UserError, match="empty hypothesis"):
        make(AmericasNli, tmp_path, evaluate_on="dev").examples("test", "nah")


def test_myxnli_has_both_sides_in_one_file(tmp_path):
    labels_file(tmp_path)
    write(tmp_path, "xnli/dev-en.tsv", tsv(*PAIRS))
    task = make(MyXnli, tmp_path)
    assert task.languages() == ["en", "my"]
    english, burmese = task.examples("test", "en"), task.examples("test", "my")
    assert [(e.id, e.gold) for e in english] == [(e.id, e.gold) for e in burmese]
    assert {e.id for e in english} == {"1", "2", "3"}
    assert {e.prompt[:3] for e in burmese} == {"my "}
    assert len(task.examples("dev", "en")) == 3


@needs_data
def test_the_published_xnli():
    task = make(Xnli, DATA)
    assert task.languages() == ["en", "ar", "de", "es", "fr", "hi", "ru", "sw", "tr", "vi", "zh"]
    english = task.examples("test", "en")
    assert Counter(e.gold for e in english) == {0: 1670, 1: 1670, 2: 1670}
    for language in ("ar", "sw", "zh"):
        assert [(e.id, e.gold) for e in task.examples("test", language)] == [(e.id, e.gold) for e in english]
    # Read independently: row i of a test file is row i of myXNLI.
    lines = (DATA / "xnli" / "test-hi.tsv").read_text(encoding="utf-8").splitlines()
    wanted = (DATA / "myxnli" / "my.genre.test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    hindi = by_id(task.examples("test", "hi"))
    for number in (1, 2, 3, 777, 2505, 5010):
        example = hindi[str(number)]
        assert "\t".join(text for _, text in example.fields) == lines[number - 1].strip()
        assert LABELS[example.gold] == wanted[number - 1].split("\t")[1]
    dev = make(Xnli, DATA, evaluate_on="dev")
    assert Counter(e.gold for e in dev.examples("test", "sw")) == {0: 830, 1: 830, 2: 830}


@needs_data
def test_the_published_training_sets():
    counts = {"mnli": 19647, "snli": 9831, "sick": 4500}
    for train_set, count in counts.items():
        task = make(Xnli, DATA, train_set=train_set)
        assert len(task.examples("train", "en")) == count
        assert task.sources[0]["files"][0].startswith(f"english_nli/{train_set}/")
    premises = {dict(e.fields)["premise"] for e in make(Xnli, DATA).examples("train", "en")}
    assert not premises & {dict(e.fields)["premise"] for e in make(Xnli, DATA).examples("test", "en")}


@needs_data
def test_the_published_americasnli_and_myxnli():
    task = make(AmericasNli, DATA, evaluate_on="dev")
    counts = {code: len(task.examples("test", code)) for code in task.languages()}
    assert counts == dict.fromkeys(counts, 743) | {"cni": 658, "nah": 585, "oto": 222}
    assert list(counts) == ["en", "ay", "bzd", "cni", "gn", "hch", "nah", "oto", "qu", "shp", "tar"]
    english = by_id(task.examples("test", "en"))
    for code in ("ay", "nah", "oto"):  # labels agree with XNLI's, found by the number of the pair
        assert all(english[e.id].gold == e.gold for e in task.examples("test", code))
    burmese = make(MyXnli, DATA).examples("test", "my")
    assert Counter(e.gold for e in burmese) == {0: 1670, 1: 1670, 2: 1670}
