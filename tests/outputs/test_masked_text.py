"""Unlabelled text of an encoder: masked tokens, against transformers' loss; hooks on its states act once."""

import pytest
import torch

from crosstune.data.example import Example
from crosstune.methods import METHODS
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.registry import output_of
from crosstune.outputs.settings import EvaluateSettings
from crosstune.training.batches import ready_parts
from crosstune.training.objectives import answer_loss
from tiny_encoders import encoder_model, make_encoder
from tiny_models import row

TEXTS = [" ".join(f"w{i} the" for i in range(8)), "b c", ""]
EXAMPLES = [Example(str(i), "en", text, ("",)) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("family", ["xlm-roberta", "embeddinggemma"])
def test_the_loss_at_masks(family):
    """Of 15% of a text's tokens, through the masked language model or, without one, the embedding."""
    lm = make_encoder(family)
    rows = output_of("text", lm, EvaluateSettings()).rows(EXAMPLES)[:]
    again = output_of("text", lm, EvaluateSettings()).rows(EXAMPLES)[:]
    assert rows == again
    assert [r.learned for r in rows] == [round(0.15 * len(TEXTS[0])), 1, 0]
    told = sum(float(answer_loss(lm, part).detach()) for part in ready_parts(lm, rows[:2], TokenLimit(8192)))
    model, expected, changed = encoder_model(family, torch.float32, "eager"), 0.0, 0
    for r, text in zip(rows[:2], TEXTS, strict=False):
        (original,) = lm.tokens.prompts([text])
        for (place,), token in r.labels:
            assert original[place] == token
            changed += r.ids[place] == lm.tokenizer.mask_token_id
        assert [i for i, (a, b) in enumerate(zip(original, r.ids, strict=True)) if a != b] == [
            place for (place,), token in r.labels if r.ids[place] != token
        ]
        out = model(row(r.ids))
        table = model.get_input_embeddings().weight
        scores = out.logits[0] if "logits" in out else out.last_hidden_state[0] @ table.T
        for (place,), token in r.labels:
            expected -= float(scores[place].log_softmax(0)[token].detach())
    assert told == pytest.approx(expected, rel=1e-4)
    assert changed > 1


def test_an_invertible_adapter_is_undone_once():
    lm = make_encoder("xlm-roberta")
    method = METHODS["bottleneck"](METHODS["bottleneck"].Config(invertible=True, width=4))
    method.attach(lm, seed=0)
    with torch.no_grad():
        for i, (name, parameter) in enumerate(method.parameters().items()):
            scale = 0.2 if name.startswith("embeddings.") else 0.0
            parameter.normal_(generator=torch.Generator().manual_seed(i)).mul_(scale)
    ids = row([1, 40, 50, 60, 2])
    states = lm.hidden(ids)[0]
    told = lm.logits(states)
    method.detach()
    head = encoder_model("xlm-roberta", torch.float32, "eager").lm_head
    torch.testing.assert_close(told, head(states).float())
    assert (lm.hidden(ids)[0] - states).abs().max() > 0.1
