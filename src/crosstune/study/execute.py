"""One run: attach, train, evaluate, detach; and the record of it."""

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from crosstune.errors import UserError
from crosstune.evaluation.evaluate import evaluate
from crosstune.methods.base import Method
from crosstune.models.language_model import LanguageModel
from crosstune.study import provenance, store
from crosstune.study.data import TaskData
from crosstune.study.draw import draw
from crosstune.study.grid import Run
from crosstune.study.progress import Display
from crosstune.tasks.few_shot import pick_exemplars, with_exemplars
from crosstune.training.batches import tokenize
from crosstune.training.loop import Trained, train
from crosstune.training.settings import TrainSettings


@dataclass(frozen=True)
class Loaded:
    """A model, and how long it took to load."""

    lm: LanguageModel
    seconds: float


@dataclass(frozen=True)
class Made:
    """A run's result, in memory.

    Attributes:
        record: Content of run.json.
        predictions: One row an example.
        weights: The trained tensors on the CPU; None where nothing is trained.
    """

    record: dict[str, Any]
    predictions: pl.DataFrame
    weights: dict[str, Tensor] | None

    def save(self, folder: Path) -> None:
        """Write it into the store."""
        write = None if self.weights is None else partial(_write, self.weights)
        store.save(folder, self.record, self.predictions, write)

    def summary(self) -> str:
        """Such as "en 71.2, mean of 21 other languages 55.3, 34 s"."""
        means = dict(self.predictions.group_by("language").agg(pl.col("score").mean()).iter_rows())
        source = self.record["source_language"]
        parts = [f"{source} {100 * means.pop(source):.1f}"]
        if means:
            parts.append(f"mean of {len(means)} other languages {100 * sum(means.values()) / len(means):.1f}")
        cost = self.record["cost"]
        return ", ".join([*parts, f"{(cost['train_seconds'] or 0) + cost['evaluate_seconds']:.0f} s"])


def execute(run: Run, loaded: Loaded, data: TaskData, shown: Display) -> Made:
    """Make one run on a loaded model, which is left as it was found.

    Raises:
        UserError: The method does not fit the model, training diverged, or memory ran out.
    """
    started = provenance.now()
    provenance.reset_peak_memory(run.device)
    lm, method = loaded.lm, run.new_method()
    try:
        method.attach(lm, run.seed)
        try:
            count = _count(run, method, lm)
            trained = None if run.train is None else _train(run, run.train, method, data, shown)
            test = data.test
            if method.shots:
                exemplars = pick_exemplars(data.train_for(None), method.shots, run.seed)
                test = {language: with_exemplars(each, exemplars) for language, each in test.items()}
            shown.evaluating(sum(len(each) for each in test.values()))
            began = time.perf_counter()
            with method.evaluating():
                predictions = evaluate(lm, data.task, test, run.evaluate, shown.evaluated)
            seconds = time.perf_counter() - began
            weights = None
            if trained is not None:
                # Copies: detaching may put other bits into the same tensors.
                weights = {name: x.to("cpu", copy=True).contiguous() for name, x in method.state().items()}
        finally:
            method.detach()
    except torch.OutOfMemoryError as error:
        raise UserError(f"memory of {run.device} ran out; lower tokens_per_pass, or batch_size") from error
    record = _record(run, lm, data, trained, count)
    record["cost"] |= {"load_seconds": loaded.seconds, "evaluate_seconds": seconds}
    record |= {"started": started, "finished": provenance.now()}
    return Made(record, predictions, weights)


def _count(run: Run, method: Method, lm: LanguageModel) -> int:
    """Trained parameters: the closed form, which must be what is attached."""
    count = type(method).count(run.config, lm.geometry)
    attached = sum(parameter.numel() for parameter in method.parameters().values())
    if attached != count:
        raise UserError(
            f"{run.method} on {lm.name}: {attached:,} parameters attached where {count:,} were counted; "
            "the model's layers differ in a way crosstune does not know: report it"
        )
    return count


def _train(run: Run, settings: TrainSettings, method: Method, data: TaskData, shown: Display) -> Trained:
    lm = method.attached()
    examples = draw(data.train_for(settings), settings, run.seed)
    rows = tokenize(
        lm,
        examples,
        data.task.kind,
        first_token=run.evaluate.choices == "first-token",
        among_choices=settings.loss == "choices",
    )
    source = data.task.source_language

    def dev_score() -> float:
        with method.evaluating():
            table = evaluate(lm, data.task, {source: data.dev[: settings.dev_limit]}, run.evaluate)
        return float(table["score"].mean())  # type: ignore[arg-type]  # never empty

    wanted = dev_score if settings.evaluate_every is not None else None
    return train(method, rows, settings, run.seed, wanted, shown.trained)


def _record(
    run: Run, lm: LanguageModel, data: TaskData, trained: Trained | None, count: int
) -> dict[str, Any]:
    """run.json, without times."""
    task = data.task
    settings = None
    if run.train is not None:
        used = len(draw(data.train_for(run.train), run.train, run.seed))
        settings = run.train.model_dump(mode="json") | {"steps": run.train.total_steps(used)}
    facts = asdict(trained) if trained is not None else {}
    return {
        "id": run.id,
        "study": run.study,
        "model": run.model,
        "revision": lm.revision,
        "method": {"name": run.method, **run.config.model_dump(mode="json")},
        "label": run.label,
        "task": {
            "name": task.name,
            "version": task.version,
            "kind": task.kind,
            "metrics": list(task.metrics),
            "options": run.task.options.model_dump(mode="json"),
            "file": run.task.record(),
            "splits": dict(task.split_names),
            "source_language": task.source_language,
        },
        "source_language": task.source_language,
        "languages": list(run.languages),
        "seed": run.seed,
        "train": settings,
        "evaluate": run.evaluate.model_dump(mode="json"),
        "trained_parameters": count,
        "zero_shot": data.zero_shot(run.train),
        "fingerprints": data.of(run.train),
        "overlap": data.overlap(run.train),
        "data": data.facts(run.train),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
        "device": run.device,
        "dtype": run.dtype,
        "cost": {
            "train_seconds": facts.get("seconds"),
            "train_tokens": facts.get("tokens"),
            "train_padded_tokens": facts.get("padded_tokens"),
            "steps": facts.get("steps"),
            "peak_memory_bytes": provenance.peak_memory(run.device),
        },
        "curve": facts.get("curve", []),
        "dev": facts.get("dev", []),
        "chosen_step": facts.get("chosen_step"),
    }


def _write(weights: dict[str, Tensor], at: Path) -> None:
    """Safetensors says what went wrong with the disk in words only; make it the error it was."""
    try:
        save_file(weights, at)
    except SafetensorError as error:
        text = str(error)
        number = text.partition("os error ")[2].partition(")")[0]
        raise OSError(int(number) if number.isdigit() else 0, text) from error
