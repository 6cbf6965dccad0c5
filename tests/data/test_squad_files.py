import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstune.errors import UserError
from crosstune.tasks.benchmarks.qa import Xquad
from squad_json import CONTEXT, article, qa, squad, write


def xquad(root, **options):
    return Xquad(Xquad.Options(data=str(root), **options))


ASKED = {"id": "q2", "question": "Who?", "answers": [{"text": "Mara", "answer_start": 0}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"answers": [{"text": "Mara", "answer_start": 1}]},
            "answer 'Mara' is not at character 1 of its context",
        ),
        ({"answers": [{"text": "d.", "answer_start": -2}]}, "answer 'd.' is not at character -2 of"),
        ({"answers": [{"text": "Mara", "answer_start": 9999}]}, "is not at character 9999 of"),
        ({"answers": [{"text": "Mara"}]}, "answer 'Mara' at None is no text and number"),
        ({"answers": [{"text": "Mara", "answer_start": "0"}]}, "answer 'Mara' at '0' is no text and number"),
        ({"answers": [{"text": "Mara", "answer_start": False}]}, "at False is no text and number"),
        ({"answers": [{"text": 7, "answer_start": 0}]}, "answer 7 at 0 is no text and number"),
        ({"answers": [{"text": "", "answer_start": 0}]}, "empty answer"),
        ({"answers": [{"text": " ", "answer_start": 4}]}, "empty answer"),
        ({"answers": []}, "no answer"),
        ({"answers": "Mara"}, "answers are 'Mara' where texts with their starts were expected"),
        ({"answers": ["Mara"]}, "answers are \\['Mara'\\] where texts"),
        ({"answers": {"text": ["Mara"], "answer_start": []}}, "answers are {'text'.* where texts"),
        ({"answers": None}, "answers are None where texts"),
        ({"question": "  "}, "empty question"),
        ({"question": None}, "question is missing"),
        ({"question": ["Who?"]}, r"question is \['Who\?'\] where a text was expected"),
        ({"question": "?" * 1_000_000}, r"1,000,047 letters; the most is 1,000,000"),
    ],
)
def test_a_bad_question_is_named_or_skipped(tmp_path, change, message):
    # json.dumps with an indent puts each id on a line of its own.
    path = write(tmp_path, "xquad/xquad.en.json", squad(article(qa(), ASKED | change, qa("q3"))), indent=1)
    (line,) = [n for n, text in enumerate(path.read_text().split("\n"), 1) if '"q2"' in text]
    with pytest.raises(UserError, match=rf"xquad\.en\.json:{line}: .*{message}.*on_bad_rows: skip") as caught:
        xquad(tmp_path).examples("test", "en")
    assert "\n" not in str(caught.value)
    task = xquad(tmp_path, on_bad_rows="skip")
    assert sorted(e.id for e in task.examples("test", "en")) == ["q1", "q3"]
    assert len(task.skipped) == 1
    assert f":{line}: " in task.skipped[0]


def test_a_span_error_names_the_question(tmp_path):
    write(tmp_path, "xquad/xquad.en.json", squad(article(qa(start=14))))
    expected = r"xquad\.en\.json:1: question 'q1': answer 'Oran' is not at character 14 of its context"
    with pytest.raises(UserError, match=expected):
        xquad(tmp_path).examples("test", "en")


def test_ids_are_found_on_their_lines_though_texts_look_like_keys(tmp_path):
    context = 'She wrote "id": "q2" on\r\na\u2028wall.'
    document = squad(article(qa("q1", answer="wall", start=context.index("wall")), context=context))
    document["data"].append(article(qa('q"2\\', start=0), qa("q1")))
    path = write(tmp_path, "xquad/xquad.en.json", json.dumps(document, indent=1, ensure_ascii=False))
    lines = [n for n, text in enumerate(path.read_text().split("\n"), 1) if '    "id":' in text]
    task = xquad(tmp_path, on_bad_rows="skip")
    assert [e.id for e in task.examples("test", "en")] == ["q1"]
    assert f":{lines[1]}: question 'q\"2" in task.skipped[0]
    assert f":{lines[2]}: id 'q1' again, first on line {lines[0]}" in task.skipped[1]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("", r":1: not JSON"),
        ('{"data": [\n{"paragraphs" 1}]}', r":2: not JSON"),
        ("[1]", r': not SQuAD JSON: no list "data" at its top'),
        ({"data": {}}, r': not SQuAD JSON: no list "data"'),
        ({"data": []}, r": it holds no question"),
        (squad(article()), r": it holds no question"),
        ({"data": [7]}, r':1: article 1 has no list "paragraphs"'),
        ({"data": [{"paragraphs": [{"context": "a"}]}]}, r':1: paragraph 1 of article 1 has no list "qas"'),
        (
            {"data": [{"paragraphs": [{"context": "a", "qas": ["q"]}]}]},
            r":1: article 1, paragraph 1: a question is no",
        ),
        (squad(article(qa(7))), r":1: id is 7 where a text was expected"),
        (squad(article({"question": "Who?", "answers": [{"text": "M"}]})), r":1: id is missing"),
        (squad(article(qa(), context=None)), r":1: context is missing"),
        (squad(article(qa(), context="x" * 1_000_001)), r":1: question 'q1': 1,000,021 letters; the most is"),
        (
            squad(article(qa(answer="", start=0), qa("q2", answer="", start=0))),
            r": no question in it has an answer",
        ),
    ],
)
def test_a_file_that_is_not_squad_json_is_named(tmp_path, document, message):
    write(tmp_path, "xquad/xquad.en.json", document)
    with pytest.raises(UserError, match=r"xquad\.en\.json" + message) as caught:
        xquad(tmp_path).examples("test", "en")
    assert "\n" not in str(caught.value)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "paragraphs", "context", "qas", "id", "question", "answers", "text", "answer_start"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    ANYTHING,
    ANYTHING,
    st.sampled_from(["paragraphs", "qas", "answers", "text", "answer_start", "id"]),
)
def test_any_json_gives_examples_or_one_line_of_error(tmp_path_factory, wild, beside, where):
    """One part of a good document is anything at all; the good question beside it survives `skip`."""
    bad = {"id": "bad", "question": "Who?", "answers": [{"text": "Mara", "answer_start": 0}]}
    paragraph = {"context": CONTEXT, "qas": [bad, beside]}
    broken = {"title": "B", "paragraphs": [paragraph]}
    document = squad(article(qa("good")), broken, beside)
    holder = {"paragraphs": broken, "qas": paragraph, "answers": bad, "id": bad}.get(where, bad["answers"][0])
    holder[where] = wild
    root = tmp_path_factory.mktemp("wild")
    write(root, "xquad/xquad.en.json", document)
    assert "good" in {e.id for e in xquad(root, on_bad_rows="skip").examples("test", "en")}
    message = ""
    try:
        xquad(root).examples("test", "en")
    except UserError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
