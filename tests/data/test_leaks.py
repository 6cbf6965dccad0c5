from crosstune.data.example import Example
from crosstune.data.leaks import in_text, normalised, overlap, repeats


def example(id_, answer="x", **fields):
    return Example(id_, "en", f"prompt {id_}", (answer,), ("x", "y"), tuple(fields.items()))


def test_a_paragraph_under_another_question_is_a_leak():
    train = [
        example("1", context="The cat sat.", question="Who?"),
        example("2", context="A dog.", question="What?"),
    ]
    tested = [
        example("a", context="The cat sat.", question="Where?"),
        example("b", context="the  CAT sat", question="WHO"),
        example("c", context="A bird.", question="A dog."),
    ]
    assert overlap(train, tested) == {
        "prompts": 0,
        "exact": {"context": 1, "question": 0},
        "normalised": {"context": 2, "question": 1},
    }


def test_the_same_prompt_is_counted_without_fields():
    one = Example("1", "en", "same", ("x",), ("x", "y"))
    assert overlap([one], [one])["prompts"] == 1


def test_repeats_and_contradictions():
    again = [
        example("1", "x", text="a"),
        example("2", "x", text="a"),
        example("3", "y", text="a"),
        example("4", text="b"),
    ]
    assert repeats(again) == {"repeated": 2, "conflicting": 1}
    assert repeats(again[:2]) == {"repeated": 1, "conflicting": 0}


def test_vowel_signs_are_not_punctuation():
    assert normalised("की") != normalised("का")
    assert normalised("ＡＢＣ, «été»!") == "abc été"


def test_long_texts_are_looked_for_in_unlabelled_text() -> None:
    lines = ["It rained: all DAY, in the old harbour of Mombasa.", "and all night too"]
    fields = [
        "the old harbour of mombasa",
        "harbour of Mombasa! And all",
        "rained",
        "The new harbour of Mombasa",
    ]
    examples = [Example(str(i), "en", "?", ("a",), (), (("text", f),)) for i, f in enumerate(fields)]
    assert in_text(lines, examples) == (2, 3)
