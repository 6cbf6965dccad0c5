import json
import os
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crosstune.data import hub
from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.languages import find
from crosstune.tasks.benchmarks.qa import HELD_OUT, ExtractiveQa, Mlqa, TydiQa, Xquad, held_out
from crosstune.tasks.prompts import load_prompts
from squad_json import CONTEXT, article, qa, squad, write

DATA = Path(os.environ.get("CROSSTUNE_DATA") or Path(__file__).parents[2] / "../shared/data").resolve()
needs_data = pytest.mark.skipif(
    not (DATA / "xquad").is_dir(), reason=f"XQuAD is not under {DATA} (set CROSSTUNE_DATA)"
)


def xquad(root, **options):
    return Xquad(Xquad.Options(data=str(root), **options))


def test_an_example_reads_as_published(tmp_path):
    context = " \u00a0In {May} 1900\nshe sailed.  "
    answers = [
        {"text": t, "answer_start": context.index(t)} for t in ("1900", "May} 1900", "1900", "1900\nshe")
    ]
    question = {"id": "a1", "question": " When? ", "answers": answers}
    write(tmp_path, "xquad/xquad.en.json", squad(article(question, context=context)))
    write(tmp_path, "xquad/xquad.de.json", squad(article(question, context=context)))
    english = "Context: In {May} 1900\nshe sailed.\n\nQuestion: When?\n\nAnswer:"
    assert xquad(tmp_path).examples("test", "de") == [
        Example(
            "a1",
            "de",
            english,
            ("1900", "May} 1900", "1900 she"),
            fields=(("context", "In {May} 1900\nshe sailed."), ("question", "When?")),
        )
    ]
    (german,) = xquad(tmp_path, prompt_language="target").examples("test", "de")
    assert german.prompt == "Kontext: In {May} 1900\nshe sailed.\n\nFrage: When?\n\nAntwort:"
    assert Xquad.stop == ("\n",)


def test_both_metrics_stand_side_by_side_under_their_names():
    def score(gold, answer, language):
        return Xquad().score(Example("1", language, "p", gold), answer)

    # Chinese: one token for SQuAD's script, four for MLQA's.
    assert score(("北京大学",), "北京", "zh") == {
        "squad_f1": 0.0,
        "squad_exact": 0.0,
        "mlqa_f1": pytest.approx(2 / 3),
        "mlqa_exact": 0.0,
    }
    # German articles: only MLQA's script drops them; the best of the golds counts.
    assert score(("1900", "Hafen von Oran"), "der Hafen von Oran", "de") == {
        "squad_f1": pytest.approx(6 / 7),
        "squad_exact": 0.0,
        "mlqa_f1": 1.0,
        "mlqa_exact": 1.0,
    }
    assert set(score(("a",), "", "th")) == set(Xquad.metrics)
    assert Xquad.metrics[0] == "squad_f1"


def training(root, name="squad/train-v1.1.json", articles=40, questions=3, first=0):
    """Articles of a few questions each, with distinct ids, titles and contexts."""
    document = squad(
        *(
            article(
                *(qa(f"{a}-{q}", f"Where, {q}?") for q in range(questions)),
                title=f"Title {a}",
                context=f"{CONTEXT} {a}",
            )
            for a in range(first, first + articles)
        )
    )
    return write(root, name, document)


def test_training_parts_are_read_one_after_another_and_dev_is_held_out_by_article(tmp_path):
    training(tmp_path, "squad/train-v1.1.part1.json", 15)
    training(tmp_path, "squad/train-v1.1.part2.json", 25, first=15)
    write(tmp_path, "squad/dev-v1.1.json", squad(article(qa("never"))))
    write(tmp_path, "xquad/xquad.en.json", squad(article(qa())))
    task = xquad(tmp_path)
    train, dev = task.examples("train", "en"), task.examples("dev", "en")
    everything = {f"{a}-{q}" for a in range(40) for q in range(3)}
    assert {e.id for e in train} | {e.id for e in dev} == everything
    assert (len(train), len(dev)) == (114, 6)
    assert not {e.id.split("-")[0] for e in train} & {e.id.split("-")[0] for e in dev}
    assert task.sources == [
        {
            "split": "train",
            "language": "en",
            "files": ["squad/train-v1.1.part1.json", "squad/train-v1.1.part2.json"],
        }
    ]
    assert xquad(tmp_path).examples("dev", "en") == dev
    with pytest.raises(UserError, match="task xquad has training data in en only"):
        task.examples("train", "de")


def test_a_row_left_out_of_training_is_counted_once(tmp_path):
    document = squad(article(qa(), title="A"), article(qa("q2"), title="B"), article(qa(start=3), title="C"))
    write(tmp_path, "squad/train-v1.1.json", document)
    write(tmp_path, "squad/train-v1.1.more.json", squad(article(qa("q2"), title="A")))
    task = xquad(tmp_path, on_bad_rows="skip")
    train, dev = task.examples("train", "en"), task.examples("dev", "en")
    assert sorted(e.id for e in train + dev) == ["q1", "q2"]
    assert len(train) == len(dev) == 1
    assert len(task.skipped) == 2


def test_one_article_cannot_be_both_trained_and_selected_on(tmp_path):
    write(tmp_path, "squad/train-v1.1.json", squad(article(qa(), qa("q2"))))
    with pytest.raises(
        UserError, match="xquad: nothing left for train in en: 2 usable training questions, and it"
    ):
        xquad(tmp_path).examples("train", "en")


@given(st.dictionaries(st.text(max_size=5), st.integers(1, 500), max_size=60))
def test_held_out_is_a_small_part_that_does_not_depend_on_order(sizes):
    chosen = held_out(sizes)
    assert held_out(dict(reversed(sizes.items()))) == chosen
    assert chosen <= set(sizes)
    assert bool(chosen) == bool(sizes)
    questions = sum(sizes[name] for name in chosen)
    assert questions * HELD_OUT <= sum(sizes.values()) or questions == min(sizes.values())


@pytest.mark.parametrize(
    ("kind", "options", "name", "split", "language"),
    [
        (Xquad, {}, "xquad/xquad.ro.json", "test", "ro"),
        (Mlqa, {}, "mlqa/test/test-context-vi-question-vi.json", "test", "vi"),
        (Mlqa, {}, "MLQA_V1/test/test-context-hi-question-hi.json", "test", "hi"),
        (Mlqa, {"evaluate_on": "dev"}, "mlqa/dev/dev-context-ar-question-ar.json", "test", "ar"),
        (Mlqa, {"evaluate_on": "dev"}, "mlqa/MLQA_V1/dev/dev-context-en-question-en.json", "test", "en"),
        (TydiQa, {}, "tydiqa_goldp/dev/tydiqa.goldp.sw.dev.json", "test", "sw"),
        (TydiQa, {"evaluate_on": "dev"}, "tydiqa_goldp/dev/tydiqa.goldp.sw.dev.json", "test", "sw"),
        (TydiQa, {}, "tydiqa/tydiqa-goldp-v1.1-dev/tydiqa.goldp.ko.dev.json", "test", "ko"),
        (TydiQa, {}, "tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-telugu.json", "test", "te"),
    ],
)
def test_every_published_layout_is_found(tmp_path, kind: type[ExtractiveQa], options, name, split, language):
    write(tmp_path, name, squad(article(qa("english-1-0"), qa("x"))))
    task = kind(kind.Options(data=str(tmp_path), **options))
    assert task.languages() == [language]
    assert sorted(e.id for e in task.examples(split, language)) == ["english-1-0", "x"]


def test_mlqa_takes_no_pair_of_two_languages(tmp_path):
    write(tmp_path, "mlqa/test/test-context-de-question-de.json", squad(article(qa("one"))))
    write(tmp_path, "mlqa/test/test-context-de-question-es.json", squad(article(qa("two"))))
    task = Mlqa(Mlqa.Options(data=str(tmp_path)))
    assert task.languages() == ["de"]
    assert [e.id for e in task.examples("test", "de")] == ["one"]


def test_mlqa_dev_files_are_never_selected_on(tmp_path):
    training(tmp_path)
    write(tmp_path, "mlqa/dev/dev-context-en-question-en.json", squad(article(qa("mlqa"))))
    task = Mlqa(Mlqa.Options(data=str(tmp_path), evaluate_on="dev"))
    assert [e.id for e in task.examples("test", "en")] == ["mlqa"]
    assert "mlqa" not in {e.id for split in ("train", "dev") for e in task.examples(split, "en")}


def test_tydiqa_trains_on_its_own_english_or_on_squad(tmp_path):
    training(tmp_path)
    mixed = squad(
        article(qa("english-12-0"), title="A"),
        article(qa("swahili-3-1"), title="B"),
        article(qa("english--7-2"), title="C"),
    )
    write(tmp_path, "tydiqa-goldp-v1.1-train.json", mixed)
    tydiqa = TydiQa(TydiQa.Options(data=str(tmp_path)))
    ids = {e.id for split in ("train", "dev") for e in tydiqa.examples(split, "en")}
    assert ids == {"english-12-0", "english--7-2"}
    with pytest.raises(UserError, match="nothing left for train in sw: 1 usable"):
        tydiqa.examples("train", "sw")
    squads = TydiQa(TydiQa.Options(data=str(tmp_path), train_set="squad"))
    assert len(squads.examples("train", "en")) == 114
    write(tmp_path, "xquad/xquad.en.json", squad(article(qa())))
    assert {
        e.id for s in ("train", "dev") for e in xquad(tmp_path, train_set="tydiqa").examples(s, "en")
    } == ids
    assert len(xquad(tmp_path).examples("train", "en")) == 114


def test_xtremes_tydiqa_ids_repeat_and_paragraphs_without_titles_stay_together(tmp_path):
    document = squad(*(article(qa("0"), context=f"{CONTEXT} {n // 2}") for n in range(80)))
    for entry in document["data"]:
        del entry["title"]
    write(tmp_path, "tydiqa_goldp/train/tydiqa.goldp.en.train.json", document)
    task = TydiQa(TydiQa.Options(data=str(tmp_path)))
    train, dev = task.examples("train", "en"), task.examples("dev", "en")
    assert {e.id for e in train + dev} == {str(n) for n in range(1, 81)}
    assert len(dev) == 4
    assert not {e.fields[0] for e in train} & {e.fields[0] for e in dev}


def test_hub_tables_have_lists_of_answers_and_numbers_that_moved(tmp_path, monkeypatch):
    """The hub's conversion cut white space off contexts and answers, and left the numbers as they were."""

    def fetch(repo, pattern, revision):
        ids = {"train": [f"english-{n}-0" for n in range(3)] + ["korean-0-0"], "validation": ["english-9-0"]}
        split = "train" if "train" in pattern else "validation"
        rows = [
            {
                "id": key,
                "title": f"T{n}" if repo.endswith("squad") else "",
                "context": f"{CONTEXT} {n}",
                "question": "Where?",
                "answers": {"text": ["Oran", "Oran", "May"], "answer_start": [15, 16, 23]},
            }
            for n, key in enumerate(ids[split])
        ]
        path = tmp_path / f"{repo.split('/')[1]}-{split}.parquet"
        pl.DataFrame(rows).write_parquet(path)
        return hub.HubFiles([path], repo, "c" * 40)

    monkeypatch.setattr(hub, "fetch_files", fetch)
    for kind, count in ((TydiQa, 3), (Xquad, 4), (Mlqa, 4)):
        task = kind(kind.Options(source="hub"))
        (example,) = task.examples("test", "en")
        assert (example.id, example.answers) == ("english-9-0", ("Oran", "May"))
        assert len(task.examples("train", "en") + task.examples("dev", "en")) == count
        assert task.languages()[0] == "en"
    assert [len(T(T.Options(source="hub")).languages()) for T in (Xquad, TydiQa, Mlqa)] == [12, 9, 7]


def test_prompts_are_there_for_every_language_of_the_three_sets():
    languages = load_prompts("qa")["languages"]
    wanted = set()
    for kind in (Xquad, TydiQa, Mlqa):
        wanted |= set(hub.hub_entry(kind.hub["test"]).languages)
    assert set(languages) == wanted | {"ja"}
    for code, spec in languages.items():
        assert find(code).code == code
        before, between, after = spec["prompt"].replace("{question}", "{context}").split("{context}")
        assert before.endswith(": ")
        assert between.startswith("\n\n")
        assert between.endswith(": ")
        assert after.startswith("\n\n")
        assert after == after.rstrip()
        words = {part.strip(" :\n") for part in (before, between, after)}
        assert len(words) == 3
        if find(code).script != "Latn":
            assert not any(c.isascii() and c.isalpha() for word in words for c in word)
    prompts = [spec["prompt"] for spec in languages.values()]
    assert len(set(prompts)) == len(prompts)


def published(path):
    """Context, id, question and answers of every question, read independently."""
    for entry in json.loads((DATA / path).read_text())["data"]:
        for paragraph in entry["paragraphs"]:
            for question in paragraph["qas"]:
                yield paragraph["context"], question


@needs_data
def test_the_published_files():
    task = xquad(DATA)
    assert task.languages() == ["en", "ar", "de", "es", "hi", "ru", "th", "tr", "zh"]
    english = task.examples("test", "en")
    for language in task.languages():
        examples = task.examples("test", language)
        assert len(examples) == 1190
        assert [e.id for e in examples] == [e.id for e in english]
        rows = {q["id"]: (c, q) for c, q in published(f"xquad/xquad.{language}.json")}
        for e in examples:
            context, question = rows[e.id]
            assert (
                e.prompt
                == f"Context: {context.strip()}\n\nQuestion: {question['question'].strip()}\n\nAnswer:"
            )
            assert e.answers == (question["answers"][0]["text"],)
            assert e.answers[0] in context
            assert all(value == 1.0 for value in task.score(e, e.answers[0]).values())
    train, dev = task.examples("train", "en"), task.examples("dev", "en")
    parts = [list(published(f"squad/train-v1.1.part{n}.json")) for n in (1, 2)]
    assert [len(part) for part in parts] == [4370, 3418]
    assert Counter(e.id for e in train + dev) == Counter(q["id"] for part in parts for _, q in part)
    assert len(dev) == 389
    seen = {e.fields[0] for e in (*train, *dev)}
    assert not seen & {e.fields[0] for e in english}
    assert task.skipped == []


@needs_data
def test_the_published_mlqa_and_tydiqa_files():
    mlqa = Mlqa(Mlqa.Options(data=str(DATA), evaluate_on="dev"))
    assert {code: len(mlqa.examples("test", code)) for code in mlqa.languages()} == {
        "de": 512,
        "es": 500,
        "zh": 504,
    }
    ids = {code: {e.id for e in mlqa.examples("test", code)} for code in mlqa.languages()}
    assert len(ids["de"] & ids["es"]) > 100
    with pytest.raises(UserError, match=r"task mlqa has no test split under .* \(it has dev, train\)"):
        Mlqa(Mlqa.Options(data=str(DATA))).languages()
    tydiqa = TydiQa(TydiQa.Options(data=str(DATA)))
    assert tydiqa.languages() == ["en", "bn", "sw"]
    train, dev = tydiqa.examples("train", "en"), tydiqa.examples("dev", "en")
    assert (len(train), len(dev)) == (3512, 184)
    # These are XTREME's copies: every one of the 113, 440 and 499 answers is blank.
    for code, count in {"bn": 113, "en": 440, "sw": 499}.items():
        rows = list(published(f"tydiqa_goldp/dev/tydiqa.goldp.{code}.dev.json"))
        assert len(rows) == count
        assert not any(answer["text"] for _, request in rows for answer in request["answers"])
        with pytest.raises(
            UserError, match="no question in it has an answer: this copy was published without"
        ):
            tydiqa.examples("test", code)
    assert not {c for c, _ in rows} & {e.fields[0][1] for e in train}
