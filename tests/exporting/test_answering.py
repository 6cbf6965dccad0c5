"""What lm-evaluation-harness asks of a run, against PEFT and transformers on the adapter written of it."""

from pathlib import Path
from typing import Any, NamedTuple

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstune.errors import UserError
from crosstune.exporting.answering import AnsweringRun, windows
from crosstune.exporting.folders import write_adapter

PAIRS = [
    ("A house is", " red"),
    ("A house is", " green."),
    ("A house is ", "red"),  # the space is the word's
    ("<s>Ein Haus", " ist"),  # as a chat template writes it
    ("", "Haus"),
]


class Asked(NamedTuple):
    args: tuple[Any, ...]


@pytest.fixture(params=["lora", "hidden prefix"])
def both(request: Any, runs: Any, model: Path, tmp_path: Path) -> Any:
    """A run that answers, PEFT's model of it and the tokenizer."""
    folder, _ = runs[request.param]
    written = write_adapter(folder, tmp_path / "out", "cpu").folder
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), written).eval()
    run = AnsweringRun(str(folder), device="cpu")
    yield run, theirs, AutoTokenizer.from_pretrained(model)
    run.inside.close()


@torch.no_grad()
def expected(theirs: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    ids = torch.tensor([context + continuation])
    logits = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(ids[0]) :]
    logits = logits[len(context) - 1 : -1]
    scores = torch.log_softmax(logits.double(), -1)[range(len(continuation)), continuation]
    return float(scores.sum()), logits.argmax(-1).tolist() == continuation


def test_likelihoods(both: Any) -> None:
    run, theirs, tokenizer = both
    pairs = []
    for context, continuation in PAIRS:
        front, word = context.rstrip(), " " * context.endswith(" ") + continuation
        ids = [1, *tokenizer.encode(front.removeprefix("<s>"), add_special_tokens=False)]
        pairs.append((ids, tokenizer.encode(word, add_special_tokens=False)))
    # What greedy decoding writes is said to be so.
    with torch.no_grad():
        likeliest = theirs(input_ids=torch.tensor([pairs[0][0]])).logits[0, -1].argmax().item()
    text = tokenizer.decode([likeliest])
    asked, wanted = [*PAIRS], [expected(theirs, *pair) for pair in pairs]
    if tokenizer.encode(f"{PAIRS[0][0]}{text}") == [*pairs[0][0], likeliest]:
        asked.append((PAIRS[0][0], text))
        wanted.append(expected(theirs, pairs[0][0], [likeliest]))
        assert wanted[-1][1]
    found = run.loglikelihood([Asked(pair) for pair in asked])
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in wanted], rel=1e-5)
    assert len({round(score, 3) for score, _ in found[:2]}) == 2


def test_whole_texts(both: Any) -> None:
    run, theirs, tokenizer = both
    ids = tokenizer.encode("A house is red.", add_special_tokens=False)
    (found,) = run.loglikelihood_rolling([Asked(("A house is red.",))])
    assert found == pytest.approx(expected(theirs, [1], ids)[0], rel=1e-5)
    run.tokens_per_pass = 6  # read in windows
    (found,) = run.loglikelihood_rolling([Asked(("A house is red.",))])
    parts = [expected(theirs, list(a), list(b))[0] for a, b in windows(ids, 1, 6)]
    assert len(parts) == 3
    assert found == pytest.approx(sum(parts), rel=1e-5)


def test_windows_read_each_token_once_behind_as_much_as_fits() -> None:
    assert list(windows(range(10), -1, 4)) == [
        ([-1], [0, 1, 2, 3]),
        ([3], [4, 5, 6, 7]),
        ([5, 6, 7], [8, 9]),
    ]


def test_written_answers(both: Any) -> None:
    run, theirs, tokenizer = both
    contexts = ["A house is", "Ein Haus"]
    found = run.generate_until([Asked((text, {"until": [], "max_gen_toks": 5})) for text in contexts])
    whole = []
    for context in contexts:
        ids = tokenizer.encode(context)
        for _ in range(5):
            rows = torch.tensor([ids])
            with torch.no_grad():
                logits = theirs(input_ids=rows, attention_mask=torch.ones_like(rows)).logits[0, -1]
            ids = [*ids, int(logits.argmax())]
        whole.append(tokenizer.decode(ids[-5:], skip_special_tokens=True))
    assert found == [text.strip() for text in whole]
    stop = whole[0].strip()[1:2]
    (cut,) = run.generate_until([Asked((contexts[0], {"until": stop, "max_gen_toks": 5}))])
    assert cut == whole[0].strip().partition(stop)[0] or stop == whole[0].strip()[0]
    with pytest.raises(UserError, match="draws its answers"):
        run.generate_until([Asked((contexts[0], {"do_sample": True}))])


def test_chats_are_the_tokenizer_s(runs: Any) -> None:
    run = AnsweringRun(str(runs["none"][0]), device="cpu")
    with pytest.raises(UserError, match="no chat template"):
        run.chat_template(True)
    run.tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] }}|{% endfor %}"
    assert run.apply_chat_template([{"role": "user", "content": "a"}]) == "a|"
    assert run.chat_template(True) == run.tokenizer.chat_template
    assert run.chat_template(False) is None
    run.inside.close()
