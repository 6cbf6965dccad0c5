"""Tagged files in each published form, read as sentences; what is odd in them is mended as XTREME does."""

from pathlib import Path

import pytest

from crosstune.data.tables import BadRow, Row
from crosstune.data.tagged import read_conllu, read_tagged
from crosstune.errors import UserError
from crosstune.tasks import make_task

CONLLU = """# sent_id = n1
# text = Vamos al mar
1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2-3\tal\t_\t_\t_\t_\t_\t_\t_\t_
2\ta\ta\tADP\t_\t_\t4\tcase\t_\t_
3\tel\tel\tDET\t_\t_\t4\tdet\t_\t_
3.1\tx\tx\tNOUN\t_\t_\t_\t_\t_\t_
4\tm ar\tmar\tNOUN\t_\t_\t1\tobl\t_\t_

# sent_id = n2
1-2\tdámelo\t_\t_\t_\t_\t_\t_\t_\t_
1\tda\tdar\tVERB\t_\t_\t0\troot\t_\t_
2\tmelo\tlo\tPRON\t_\t_\t1\tobj\t_\t_
"""


def test_a_treebank_has_fused_words_with_the_tag_nearest_the_root(tmp_path):
    file = tmp_path / "es.conllu"
    file.write_text(CONLLU, encoding="utf-8")
    rows = [row.fields for row in read_conllu(file)]
    # "a" and "el" are equally near: ADP comes before DET.
    assert rows == [
        {"id": "n1", "words": ["Vamos", "al", "mar"], "tags": ["VERB", "ADP", "NOUN"]},
        {"id": "n2", "words": ["dámelo"], "tags": ["VERB"]},
    ]
    file.write_text(CONLLU.replace("\t_\t_\t0\troot\t_\t_", ""), encoding="utf-8")
    assert all(isinstance(row, BadRow) for row in read_conllu(file))


def test_lines_of_a_word_and_a_tag(tmp_path):
    file = tmp_path / "x.txt"
    file.write_text("New\u200c\tB-LOC\nYork\tI-LOC\nnow\n\n\n.\tO\n", encoding="utf-8")
    rows = [row.fields for row in read_tagged(file)]
    assert rows[0] == {"id": "0", "words": ["New", "York", "now"], "tags": ["B-LOC", "I-LOC", "O"]}
    assert rows[1]["words"] == ["."]


def test_tasks_of_tags(tmp_path):
    for name, text in {
        "panx/train-en.tsv": "A\tB-PER\nb\tO\n",
        "panx/dev-en.tsv": "A\tB-PER\n",
        "masakhaner2/swa/test.txt": "Leo B-DATE\nNairobi B-LOC\n",
        "udpos/test-de.tsv": "Haus\tHOUSE\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    task = make_task("masakhaner", {"data": str(tmp_path)})
    (found,) = task.examples("test", "sw")
    assert (found.prompt, found.answers) == ("Leo Nairobi", ("O B-LOC",))
    assert task.score(found, "O O") == {"xtreme_f1": 0.0}
    assert task.examples("train", "en")[0].choices == task.tags
    with pytest.raises(UserError, match=r"test-de.tsv:1: unknown tag 'HOUSE'"):
        make_task("udpos", {"data": str(tmp_path)}).examples("test", "de")


@pytest.mark.parametrize(
    ("name", "numbers", "tags"), [("udpos", [7, 15], "NOUN VERB"), ("panx", [1, 6], "B-PER I-LOC")]
)
def test_rows_of_the_hub_have_numbers(name, numbers, tags):
    row = Row(Path("x.parquet"), 3, {"words": ["a b", " ", "c"], "tags": [numbers[0], 0, numbers[1]]})
    example = make_task(name).example(row, "test", "en")
    assert (example.id, example.prompt, example.answers) == ("3", "ab c", (tags,))
