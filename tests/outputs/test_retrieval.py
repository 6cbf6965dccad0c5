"""Tatoeba on tiny models: the nearest text by states, against a plain computation; what is refused."""

import pytest
import torch

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.fits import check_fits
from crosstune.outputs.settings import EvaluateSettings
from crosstune.tasks import make_task
from tiny_encoders import encoder_model, make_encoder
from tiny_models import make_lm, row

SENTENCES = ["the in", "yes es", "a b c d", "yes es", "w"]
ENGLISH = ["in the", "yes", "a b c", "other", "w w w"]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "tatoeba").mkdir()
    for language, texts in {"deu": SENTENCES, "swh": SENTENCES[::-1]}.items():
        for end, side in ((language, texts), ("eng", ENGLISH)):
            file = tmp_path / "tatoeba" / f"tatoeba.{language}-eng.{end}"
            file.write_text("\n".join(side) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("layer", "pooling", "direction"),
    [(None, None, "to-english"), (1, "mean", "to-english"), (2, "first", "from-english")],
)
def test_the_nearest_by_cosine(data, layer, pooling, direction):
    lm, eager = make_encoder("xlm-roberta"), encoder_model("xlm-roberta", torch.float32, "eager")
    options = {"data": str(data), "prefix": "q: ", "layer": layer, "direction": direction}
    task = make_task("tatoeba", options)
    assert task.languages() == ["de", "sw"]
    examples = {code: task.examples("test", code) for code in ("de", "sw")}
    table = evaluate(lm, task, examples, EvaluateSettings(pooling=pooling))

    def vector(text: str):
        (ids,) = lm.tokens.prompts([text])
        states = eager.base_model(row(ids), output_hidden_states=True).hidden_states[
            2 if layer is None else layer
        ][0]
        pooled = states[0] if pooling == "first" else states.mean(0)
        return torch.nn.functional.normalize(pooled, dim=0)

    for code, texts in {"de": SENTENCES, "sw": SENTENCES[::-1]}.items():
        sides = [torch.stack([vector(f"q: {text}") for text in side]) for side in (texts, ENGLISH)]
        asked, offered = sides if direction == "to-english" else sides[::-1]
        cosines = asked @ offered.T
        part = table.filter(language=code)
        for name, told, cosine, score in part.select("example", "prediction", "cosine", "score").iter_rows():
            mine = cosines[int(name) - 1]
            assert cosine == pytest.approx(float(mine.max()), abs=1e-5)
            assert float(mine[int(told) - 1]) == pytest.approx(cosine, abs=1e-5)
            assert score == (told == name)


def test_what_is_refused(data):
    lm = make_lm("llama")
    settings = EvaluateSettings()
    with pytest.raises(UserError, match="choose method none"):
        check_fits("tatoeba", "retrieval", METHODS["lora"](), lm.geometry, settings)
    check_fits("tatoeba", "retrieval", METHODS["none"](), lm.geometry, settings)
    task = make_task("tatoeba", {"data": str(data), "layer": 4})
    with pytest.raises(UserError, match="has the layers 1 to 3"):
        evaluate(lm, task, {"de": task.examples("test", "de")}, settings)
    (data / "tatoeba" / "tatoeba.deu-eng.deu").write_text("one\n")
    with pytest.raises(UserError, match=r"tatoeba.deu-eng.deu: 1 lines, and tatoeba.deu-eng.eng has 5"):
        make_task("tatoeba", {"data": str(data)}).examples("test", "de")
