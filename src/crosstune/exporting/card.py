"""The card of what was written: results by language with intervals, data, and the study that made it."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from crosstune.analysis.predictions import Predictions
from crosstune.analysis.statistics.differences import AllPairs
from crosstune.analysis.statistics.pairing import PairedPredictions, pair_predictions
from crosstune.analysis.transfer import language_scores
from crosstune.errors import UserError
from crosstune.exporting.folders import TOKENS, Written
from crosstune.exporting.library import TASK
from crosstune.files import read_text, user_path
from crosstune.languages import find
from crosstune.models.loading import hub
from crosstune.models.loading.demo import DEMOS
from crosstune.store import store as stored
from crosstune.store.record import RunRecord

CARD = "README.md"


def write_card(run_folder: Path, written: Written) -> Path:
    """Write the card into the folder.

    Raises:
        UserError: It cannot be written.
    """
    run, store = written.run, user_path(run_folder).parent
    predictions = Predictions(store)
    scores = language_scores([run], predictions)
    (paired,) = pair_predictions(scores, predictions.to_pair([run]))
    parts = [
        _head(written),
        f"# {_plain(run.label)} on {_plain(run.model)}\n\nTrained and evaluated with crosstune "
        f"{run.versions.get('crosstune', '')}: {_facts(run)}\n",
        f"## Use\n\n{_use(written)}\n",
        f"## Results\n\n{_results(run, scores, paired)}\n",
        f"## Data\n\n{_data(run)}\n",
        f"## Licences\n\n{_licences(run)}\n",
        _study(store),
    ]
    file = written.folder / CARD
    try:
        file.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror})") from error
    return file


def _head(written: Written) -> str:
    """What the hub reads of a card."""
    run = written.run
    libraries = {"PEFT adapter": "peft", "merged checkpoint": "transformers"}
    facts: dict[str, Any] = {
        "base_model": hub.parted(run.model)[0] if hub.is_hub_id(run.model) else None,
        "library_name": libraries.get(written.kind, "adapters"),
        "language": [code for code in run.languages if len(code) in (2, 3)],
        "tags": ["crosstune", run.method.name, run.task.name],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.items() if value]
    return "\n".join(["---", *lines, "---", ""])


def _facts(run: RunRecord) -> str:
    train = run.train or {}
    count = "" if run.trained_parameters is None else f"{run.trained_parameters:,} trained parameters, "
    steps = f"{train.get('steps')} steps of {train.get('batch_size')} examples"
    return (
        f"{count}{steps} at a learning rate of {train.get('learning_rate'):g}, seed {run.seed}, {run.dtype}; "
        f"model revision {_plain(str(run.revision))}, run {run.id}."
    )


def _use(written: Written) -> str:
    name, first = json.dumps(written.run.model), ""
    if written.run.model in DEMOS:  # transformers knows it by its folder alone
        name, first = f"prepare({name})", "from crosstune.models.loading.demo import prepare\n"
    classes = f", num_labels={written.classes}" if written.classes else ""
    if written.kind == "PEFT adapter":
        text = (
            f"```python\n{first}from peft import PeftModel\nfrom transformers import {written.loads}\n\n"
            f"model = {written.loads}.from_pretrained({name}{classes})\n"
            'model = PeftModel.from_pretrained(model, "this folder")\n```\n'
        )
    elif written.gap is None:
        text = (
            f"```python\nimport adapters\n{first}from transformers import AutoModelForCausalLM\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({name})\n"
            "adapters.init(model)\n"
            f"{_loaded(written)}```\n"
        )
    else:
        also = "" if written.classes else ", for vLLM, SGLang and llama.cpp's converter too"
        text = f"A checkpoint in the form of transformers (`{written.loads}`){also}.\n"
    notes = [f"{remark[0].upper()}{remark[1:]}." for remark in written.remarks]
    if written.gap is not None:
        notes.insert(
            0, f"Logits on {TOKENS} tokens differ from crosstune's by {written.gap:.1g} of the largest."
        )
    return "\n".join([text, " ".join(notes), ""]) if notes else text


def _loaded(written: Written) -> str:
    """The lines that load the folders of the adapters library."""
    names = sorted(folder.name for folder in written.folder.iterdir() if folder.is_dir())
    if not names:
        return 'model.load_adapter("this folder", use_safetensors=True, set_active=True)\n'
    code = next(name for name in (*reversed(written.run.languages), *names) if name in names)
    lines = [
        f'model.load_adapter("this folder/{name}", load_as="{name}", use_safetensors=True)\n'
        for name in (code, TASK)
    ]
    return "".join([*lines, f'model.active_adapters = adapters.composition.Stack("{code}", "{TASK}")\n'])


def _results(run: RunRecord, scores: pl.DataFrame, paired: PairedPredictions) -> str:
    measure = run.task.metrics[0]
    units = "examples" if paired.clusters is None else "passages"
    lines = [
        f"`{run.task.name}`, {measure} in percent, with 95% intervals over test {units}:",
        "",
        "| language | examples | score | interval |",
        "|---|---|---|---|",
    ]
    for row in scores.sort("is_source", descending=True, maintain_order=True).iter_rows(named=True):
        (mean,) = AllPairs(paired, [row["language"]], language_effect="fixed").values().rows(named=True)
        few = mean["low"] is None
        interval = "-" if few else f"{100 * mean['low']:.1f} to {100 * mean['high']:.1f}"
        name = find(row["language"]).name + (" (trained on)" if row["is_source"] else "")
        lines.append(f"| {name} | {row['n']} | {100 * row['score']:.1f} | {interval} |")
    if not run.zero_shot:
        lines += ["", "Other languages' data was used in training: not zero-shot."]
    return "\n".join(lines) + "\n"


def _data(run: RunRecord) -> str:
    lines = [f"- {split}: {_plain(text)}" for split, text in run.task.splits.items()]
    for source in run.data.sources:
        names = ", ".join(f"{key} {value}" for key, value in source.items() if isinstance(value, str))
        lines.append(f"- {_plain(names)}")
    return "\n".join(lines) + "\n"


def _licences(run: RunRecord) -> str:
    """Of the model and the data, with what is not known said so."""
    model = DEMOS[run.model].terms if run.model in DEMOS else "not known here: look at its source"
    data = run.task.licences or {run.task.name: "not known here: look at its source"}
    lines = [f"- base model {_plain(run.model)}: {model}"]
    lines += [f"- data {_plain(name)}: {_plain(licence)}" for name, licence in data.items()]
    return "\n".join([*lines, "", "They hold for what was trained on these too.", ""])


def _study(store: Path) -> str:
    file = store / stored.STUDY
    if not file.is_file():
        return ""
    return f"## Study\n\n```yaml\n{read_text(file).strip().replace('```', '')}\n```\n"


def _plain(text: str) -> str:
    """Of a name or a sentence that files hold: on one line, and no markup of a page."""
    return " ".join(text.split()).replace("<", "&lt;").replace("|", "\\|")
