"""Runs with a head, written and loaded with transformers and PEFT: the same scores of the same texts."""

import io
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from rich.console import Console

from crosstune.errors import UserError
from crosstune.exporting.card import write_card
from crosstune.exporting.folders import write_adapter, write_merged
from crosstune.exporting.heads import headed_model, their_logits
from crosstune.methods.head import HeadShape, Probe, WithHead
from crosstune.models.language_model import LanguageModel
from crosstune.running.restored import method_of, restored
from crosstune.running.runner import run_study
from crosstune.store import store as stored
from crosstune.study.spec import Study
from saved_model import study_of
from tiny_encoders import make_encoder, save_encoder
from tiny_models import near

LORA = {"name": "lora", "rank": 3, "target_modules": "all-linear"}
METHODS = [LORA, "full", "soft-prompt", {"name": "peft", "type": "DORA", "r": 2}]
TAGS = "name: names\nkind: tags\nchoices: [O, B-PER, I-PER]\ntrain: en.conll\ntest: '{code}.conll'\n"
IDS = [1, *range(40, 60), 2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, model: Path) -> dict[tuple[str, str, str], Path]:
    """By family, task and method, of encoders and of the decoder, a run's folder."""
    folder = tmp_path_factory.mktemp("heads")
    (folder / "names.yaml").write_text(TAGS)
    for code in ("en", "de"):
        (folder / f"{code}.conll").write_text("Ada\tB-PER\nran\tO\n\nit\tO\n")
    found = {}
    for family in ("xlm-roberta", "bert", "distilbert", "llama"):
        base = model if family == "llama" else save_encoder(folder / family, family)
        tasks = [str(folder / "names.yaml"), *(["cldr-names"] if family != "llama" else [])]
        content = {"methods": METHODS if family == "xlm-roberta" else METHODS[:2], "tasks": tasks}
        train = {"steps": 2, "batch_size": 4, "learning_rate": 0.05, "warmup_steps": 0}
        store = folder / f"{family}-store"
        run_study(
            Study(**study_of(base, store, languages=["de"], train=train, **content)),
            console=Console(file=io.StringIO()),
        )
        for run in stored.read_runs(store):
            name = str(run.method.settings.get("type", run.method.name))
            found[family, run.task.name, name] = store / run.id
    return found


def own_scores(lm: LanguageModel, classes: bool) -> torch.Tensor:
    """Of the first state, or of all."""
    assert lm.head is not None
    with torch.no_grad():
        states = lm.hidden(torch.tensor([IDS]))[0]
        return lm.head(states[:1] if classes else states)  # type: ignore[no-any-return]


FORMS = [
    ("xlm-roberta", "cldr-names"), ("bert", "cldr-names"),
    ("xlm-roberta", "names"), ("bert", "names"), ("distilbert", "names"), ("llama", "names"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "task", "method"),
    [(*form, m) for form in FORMS for m in ("lora", "full")] + [(*FORMS[0], "DORA"), (*FORMS[2], "DORA")],
)
def test_the_same_scores(runs: Any, tmp_path: Path, family: str, task: str, method: str) -> None:
    folder = runs[family, task, method]
    record = stored.read_run(folder)
    with restored(folder, record, method_of(record), "en", device="cpu") as lm:
        wanted = own_scores(lm, task == "cldr-names")
    auto: Any = {"cldr-names": transformers.AutoModelForSequenceClassification}.get(
        task, transformers.AutoModelForTokenClassification
    )
    read = {"attention_mask": torch.ones(1, len(IDS), dtype=torch.long), "input_ids": torch.tensor([IDS])}
    written = write_merged(folder, tmp_path / "merged", "cpu")
    model = auto.from_pretrained(written.folder).eval()
    with torch.no_grad():
        near(f"merged, {family} {task} {method}", model(**read).logits.view(wanted.shape), wanted, 1e-5)
    labels = list(model.config.id2label.values())
    assert labels[:1] == ["O"] if task == "names" else len(set(labels)) == 4 == len(wanted[0])
    assert f"`{auto.__name__}`" in write_card(folder, written).read_text()
    if method == "full":
        with pytest.raises(UserError, match="PEFT has no form for it; write a checkpoint with --merged"):
            write_adapter(folder, tmp_path / "adapter", "cpu")
        return
    written = write_adapter(folder, tmp_path / "adapter", "cpu")
    torch.manual_seed(1)
    base = auto.from_pretrained(record.model, num_labels=wanted.shape[-1])
    adapted: Any = peft.PeftModel.from_pretrained(base, written.folder).eval()
    with torch.no_grad():
        near(f"adapter, {family} {task} {method}", adapted(**read).logits.view(wanted.shape), wanted, 1e-5)
    assert f"num_labels={wanted.shape[-1]})" in write_card(folder, written).read_text()


def test_a_head_of_spans(runs: Any) -> None:
    lm = make_encoder("bert")
    method = WithHead(Probe(), HeadShape(2))
    method.attach(lm, seed=1)
    record = stored.read_run(next(iter(runs.values())))
    model = headed_model(record, "spans", lm, lm.model.state_dict())
    with torch.no_grad():
        theirs = their_logits(model(torch.tensor([IDS])))
    assert type(model).__name__ == "BertForQuestionAnswering"
    near("a head of spans", theirs, own_scores(lm, classes=False), 1e-5)
    method.detach()


@pytest.mark.parametrize(
    ("family", "task", "method", "write", "wrong"),
    [
        (
            "distilbert",
            "cldr-names",
            "lora",
            write_merged,
            "the head of DistilBertForSequenceClassification is",
        ),
        (
            "xlm-roberta",
            "names",
            "soft-prompt",
            write_adapter,
            "a prompt's states and a head have no common fo",
        ),
        ("xlm-roberta", "names", "soft-prompt", write_merged, "no change of the model's weights"),
    ],
)
def test_what_has_no_form(
    runs: Any, tmp_path: Path, family: str, task: str, method: str, write: Any, wrong: str
) -> None:
    with pytest.raises(UserError, match=wrong) as error:
        write(runs[family, task, method], tmp_path / "out", "cpu")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
