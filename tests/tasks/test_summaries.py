"""Headlines and summaries: files as they were published, texts cut at words, metrics by name."""

import json
import math

import polars as pl
import pytest
import sacrebleu

from crosstune.errors import UserError
from crosstune.metrics.corpus import CORPUS
from crosstune.metrics.rouge import rouge
from crosstune.tasks import make_task
from crosstune.tasks.benchmarks.summaries import MasakhaNewsHeadlines, pieces

HEADER = "category\theadline\ttext\turl\n"


def write(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")


@pytest.fixture
def news(tmp_path):
    rows = "".join(f'sports\tTitle {i}\t"Line ""one"" {i}.\nLine two {i}."\tu\n' for i in range(150))
    write(tmp_path, "masakhanews/eng/dev.tsv", HEADER + rows)
    write(tmp_path, "masakhanews/swa/test.tsv", HEADER + "sports\tHabari  njema\tMoja mbili tatu nne.\tu\n")
    return tmp_path


def headlines(root, **options):
    return make_task("masakhanews-headlines", {"data": str(root), **options})


def test_news_as_published_and_one_file_for_two_splits(news):
    task = headlines(news)
    assert task.languages() == ["sw"]
    train, dev = task.examples("train", "en"), task.examples("dev", "en")
    assert (len(train), len(dev)) == (150 - MasakhaNewsHeadlines.HELD_OUT, MasakhaNewsHeadlines.HELD_OUT)
    assert not {e.id for e in train} & {e.id for e in dev}
    first = next(e for e in train + dev if e.answers == ("Title 3",))
    assert first.prompt == 'Line "one" 3.\nLine two 3.\n\nHeadline:'
    (swahili,) = task.examples("test", "sw")
    assert swahili.answers == ("Habari njema",)
    write(news, "masakhanews/eng/train.tsv", HEADER + "sports\tA\tB\tu\n")
    assert [e.answers for e in headlines(news).examples("train", "en")] == [("A",)]
    assert len(headlines(news).examples("dev", "en")) == 150


def test_texts_are_cut_at_words_and_counted(news):
    task = headlines(news, text_characters=12)
    assert task.examples("test", "sw")[0].prompt == "Moja mbili\n\nHeadline:"
    assert task.sources[-1]["longer_than_text_characters"] == 1
    assert [headlines(news, text_characters=n).shortened("Moja mbili tatu") for n in (10, 14, 15)] == [
        *("Moja mbili", "Moja mbili", "Moja mbili tatu"),
    ]
    assert task.shortened("新聞記事の本文がここに続くのであるのだ") == "新聞記事の本文がここに続"
    (whole,) = headlines(news, text_characters=None).examples("test", "sw")
    assert whole.prompt.startswith("Moja mbili tatu")


def test_metrics_are_named_and_chrf_is_sacrebleus(news):
    task = headlines(news)
    (example,) = task.examples("test", "sw")
    scores = task.score(example, "Habari mbaya")
    assert scores["rouge_1"] == scores["rouge_l"] == 0.5
    assert scores["rouge_2"] == 0.0
    whole = sacrebleu.CHRF().sentence_score("Habari mbaya", ["Habari njema"]).score
    assert scores["sentence_chrf"] == pytest.approx(whole / 100)
    assert task.sums(example, "Habari mbaya") == []
    chrf = headlines(news, metric="chrf")
    assert chrf.metrics == ("chrf", "rouge_l", "rouge_1", "rouge_2", "line_pass", "word_pass")
    long = task.score(example, "Rais wa nchi amewasili leo mjini Nairobi kwa mkutano")
    assert long["line_pass"] == 1.0
    assert math.isnan(long["word_pass"])
    assert math.isnan(scores["line_pass"])  # two words
    assert chrf.sums(example, "Habari") == CORPUS["chrf"].sums("Habari", example.answers, ())
    assert "sp_rouge_l" in headlines(news, tokenizer="t.json").metrics
    with pytest.raises(UserError, match=r"t\.json"):
        headlines(news, tokenizer="t.json").score(example, "x")


def test_xl_sum_in_its_own_files_and_crosssum_names_the_language(tmp_path, monkeypatch):
    row = {"id": "7", "url": "", "title": "t", "summary": "Muhtasari", "text": "Habari ndefu"}
    write(tmp_path, "xlsum/swahili_test.jsonl", json.dumps(row) + "\n")
    write(tmp_path, "xlsum/chinese_simplified_test.jsonl", json.dumps(row) + "\n")
    task = make_task("xlsum", {"data": str(tmp_path)})
    assert task.languages() == ["sw", "zh"]
    (example,) = task.examples("test", "sw")
    assert (example.id, example.prompt) == ("7", "Habari ndefu\n\nSummary:")
    file = tmp_path / "x.parquet"
    pl.DataFrame({"text": ["News."], "summary": ["Habari."]}).write_parquet(file)
    from crosstune.data import hub

    fetched = []
    monkeypatch.setattr(
        hub, "fetch_files", lambda *asked: fetched.append(asked) or hub.HubFiles([file], asked[0], "c" * 40)
    )
    (crossed,) = make_task("crosssum").examples("test", "sw")
    assert crossed.prompt == "News.\n\nSummary in Swahili:"
    assert fetched == [("csebuetnlp/CrossSum", "english-swahili/test/*.parquet", "refs/convert/parquet")]
    assert make_task("xlsum").languages()[:2] == ["en", "am"]
    assert len(make_task("xlsum").languages()) == 45
    assert len(make_task("wikilingua").languages()) == 18


def test_pieces_of_a_tokenizer_are_scored_as_they_are(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    fast = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁ka", -1.0), ("zi", -1.0), ("▁ku", -1.0)], unk_id=0))
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    fast.save(str(tmp_path / "tokenizer.json"))
    split = pieces(tmp_path / "tokenizer.json")
    assert split("kazi kuzi") == ["▁ka", "zi", "▁ku", "zi"]
    assert rouge("kazi", ["kuzi"], split)["rouge_1"] == 0.5
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"other\.json: no tokenizer\.json"):
        pieces(tmp_path / "other.json")
