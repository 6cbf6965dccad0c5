"""Scoring choices in one forward, against one plain forward a label."""

import pytest
import torch

from crosstune.errors import UserError
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.settings import EvaluateSettings
from reference_decoder import effect_of, reference_logits
from tiny_models import SCORED, VOCABULARY, WINDOW, attach, make_lm, near, random_ids, row


def items() -> list[ChoiceItem]:
    """Prompts shorter and longer than the window; labels of 1 to 12 tokens, some starting alike."""
    items = []
    for i, length in enumerate([3, 11, 6, 25, 1, 17]):
        labels = [random_ids(n, seed=100 * i + n) for n in (1, 4, 2)]
        labels.append([*labels[1][:2], 9, 8])  # shares two tokens with another label
        if i == 3:
            labels.append(random_ids(12, seed=5))
        items.append(ChoiceItem(random_ids(length, seed=i), tuple(tuple(x) for x in labels)))
    items.append(ChoiceItem(random_ids(9, seed=50), ((5,), (6,), (7,))))
    # A passage longer than the window with three questions, one of them twice, labels that begin alike.
    passage = random_ids(3 * WINDOW, seed=51)
    for n in (2, 4, 4, 7):
        labels = ((8, 9, 10), (8, 9, 11, 12), (13,), (8,))
        items.append(ChoiceItem([*passage, *random_ids(n, seed=52 + n)], labels))
    return items


def one_at_a_time(logits_of, item: ChoiceItem, choices: str) -> torch.Tensor:
    """Log-probability of each label after the prompt, full softmax at every step, normalised over labels."""
    scores = []
    for whole in item.labels:
        label = whole[:1] if choices == "first-token" else whole
        logp = torch.log_softmax(logits_of([*item.prompt, *label]).double(), -1)
        total = sum(logp[len(item.prompt) + j - 1, token] for j, token in enumerate(label))
        scores.append(total / len(label) if choices == "label-per-token" else total)
    return torch.log_softmax(torch.stack(scores), 0)


@pytest.mark.parametrize(("choices", "longest"), [("label", 2048), ("label-per-token", 2048), ("label", 0)])
@pytest.mark.parametrize("case", SCORED)
def test_equals_one_label_at_a_time(tiny_lm, family, case, choices, longest, monkeypatch):
    """In one line without padding, and (where a text is longer than ``longest``) in padded lines."""
    monkeypatch.setattr("crosstune.models.attention.choose.LONGEST", longest)
    lm = tiny_lm(family)
    method = attach(lm, case)

    def logits_of(ids):
        with torch.no_grad():
            return lm.logits(lm.hidden(row(ids))[0]).cpu()

    wanted = [one_at_a_time(logits_of, item, choices) for item in items()]
    with method.evaluating():
        for tokens in (1, 60, 10_000):  # every item alone, a few batches, one or two
            settings = EvaluateSettings(choices=choices, tokens_per_pass=tokens)
            told: list[int] = []
            scores = score_choices(lm, items(), settings, tell=told.append)
            assert sum(told) == len(wanted)
            assert (len(told) <= 2) == (tokens == 10_000)
            assert tokens > 1 or told == [1] * len(wanted)
            for ours, reference in zip(scores, wanted, strict=True):
                near(f"choices ({choices}) = one label at a time", torch.tensor(ours), reference, 2e-5)


@pytest.mark.parametrize("case", SCORED)
def test_equals_slow_decoder(tiny_lm, family, case):
    lm = tiny_lm(family)
    method = attach(lm, case)
    effect = effect_of(method, lm)
    some = [*items()[:4], *items()[-4:]]
    scores = score_choices(lm, some, EvaluateSettings())
    for item, ours in zip(some, scores, strict=True):
        reference = one_at_a_time(lambda ids: reference_logits(lm, ids, effect), item, "label")
        near("choices = slow fp64 decoder", torch.tensor(ours), reference, 2e-5)


@pytest.mark.parametrize("case", SCORED)
def test_first_token(tiny_lm, family, case):
    lm = tiny_lm(family)
    attach(lm, case)
    some = [ChoiceItem(i.prompt, i.labels[:3]) for i in items()[:7]]

    def logits_of(ids):
        with torch.no_grad():
            return lm.logits(lm.hidden(row(ids))[0]).cpu()

    scores = score_choices(lm, some, EvaluateSettings(choices="first-token"))
    for item, ours in zip(some, scores, strict=True):
        near("choices (first-token)", torch.tensor(ours), one_at_a_time(logits_of, item, "first-token"), 2e-5)


def test_first_token_of_labels_that_start_alike(tiny_lm):
    with pytest.raises(UserError, match="start with the same token"):
        score_choices(tiny_lm("llama"), items()[:1], EvaluateSettings(choices="first-token"))


def test_every_token_of_the_vocabulary_as_a_label(tiny_lm, family):
    """All probabilities of the next token, so that they add up to one without being normalised."""
    lm = tiny_lm(family)
    item = ChoiceItem(random_ids(2 * WINDOW), tuple((i,) for i in range(VOCABULARY)))
    with torch.no_grad():
        whole = torch.log_softmax(lm.logits(lm.hidden(row(item.prompt))[0, -1:])[0].double(), -1).cpu()
    near(
        "choices = next-token distribution",
        torch.tensor(score_choices(lm, [item], EvaluateSettings())[0]),
        whole,
    )


@pytest.mark.parametrize("choices", ["label", "label-per-token", "first-token"])
def test_columns_of_a_capped_head(choices):
    """A soft cap on the logits bends their differences: it has to reach single columns too."""
    lm = make_lm("gemma3", final_logit_softcapping=0.7)
    some = [ChoiceItem(i.prompt, i.labels[:3]) for i in items()[:7]]

    def logits_of(ids):
        with torch.no_grad():
            return lm.model(input_ids=row(ids), use_cache=False).logits[0].cpu()

    for item, ours in zip(some, score_choices(lm, some, EvaluateSettings(choices=choices)), strict=True):
        near("choices under a softcap", torch.tensor(ours), one_at_a_time(logits_of, item, choices), 2e-5)
