"""One run: attach, train, evaluate, detach; and the record of it."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import polars as pl
from torch import Tensor

from crosstune.data.forms import form_of, scores_by_language, statistic_of
from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.base import Method
from crosstune.methods.head import without_head
from crosstune.metrics.corpus import sums_in
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.load import load
from crosstune.models.memory.machine import ran_out
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.models.tensor_file import write_tensors
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows
from crosstune.running.earlier.search_weights import take_up
from crosstune.running.earlier.stages import FinishedStages
from crosstune.running.prepared import (
    attached,
    check_lengths,
    held_out_rows,
    method_of,
    predictions,
    training_rows,
)
from crosstune.running.progress import Display
from crosstune.running.recording import with_text, write_record
from crosstune.running.resume.folder import ResumeFolder, made_for
from crosstune.running.task_data import TaskData, read_for
from crosstune.store import provenance, store
from crosstune.store.record import Cost, HeldOut, RunRecord
from crosstune.study.runs import Run
from crosstune.study.spec import Study
from crosstune.training import parallel
from crosstune.training.checkpoint import TensorFile
from crosstune.training.loop import train
from crosstune.training.objectives import mean_loss
from crosstune.training.settings import TrainSettings
from crosstune.training.state import Trained


@dataclass(frozen=True)
class LoadedModel:
    """A model, how long it took to load, and which modules it had then."""

    lm: LanguageModel
    seconds: float
    modules: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.modules:
            object.__setattr__(self, "modules", self._modules_now())

    def _modules_now(self) -> tuple[int, ...]:
        return tuple(map(id, self.lm.model.modules()))

    @property
    def untouched(self) -> bool:
        """Whether methods have left nothing on it."""
        return not self.lm.adaptation.parts and self._modules_now() == self.modules


def load_for(study: Study, model: str) -> LoadedModel:
    """One of a study's models, loaded as the study says; a `UserError` where it cannot be."""
    began = time.perf_counter()
    options = {name: getattr(study, name) for name in ("device", "dtype", "quantize", "device_map")}
    lm = load(model, **options)
    return LoadedModel(lm, time.perf_counter() - began)


@dataclass(frozen=True)
class RunResult:
    """A run's result, in memory."""

    record: RunRecord  # its run.json
    predictions: pl.DataFrame  # one row an example
    # The trained tensors on the CPU, or the file that they are in; None where nothing is trained.
    weights: dict[str, Tensor] | TensorFile | None

    def save(self, folder: Path) -> None:
        """Write it into the store."""
        weights = self.weights
        if isinstance(weights, TensorFile):
            store.save(folder, self.record, self.predictions, weights.taken_to)
        else:
            write = None if weights is None else partial(write_tensors, weights)
            store.save(folder, self.record, self.predictions, write)

    def summary(self) -> str:
        """Such as "en 71.2, mean of 21 other languages 55.3, 34 s"; of a search run, "dev 71.2, 34 s"."""
        cost = self.record.cost
        trained = 0 if cost.train_from else cost.train_seconds or 0
        seconds = f"{trained + (cost.evaluate_seconds or 0):.0f} s"
        if self.record.kind == "search":
            return f"dev {100 * (self.record.dev_score or 0):.1f}, {seconds}"
        if self.record.kind == "stage":
            held = self.record.held_out
            told = (
                "" if held is None else f", of held-out text {held.before:.2f} before, {held.after:.2f} after"
            )
            return f"loss {self.record.curve[-1].get('loss') or 0:.2f}{told}, {seconds}"
        task = self.record.task
        statistic = statistic_of(task.kind, task.metrics[0], task.sums)
        means = scores_by_language(self.predictions, statistic)
        source = self.record.source_language
        parts = [f"{source} {100 * means.pop(source):.1f}"] if source in means else []
        if means:
            parts.append(f"mean of {len(means)} other languages {100 * sum(means.values()) / len(means):.1f}")
        return ", ".join([*parts, seconds])


def execute(
    run: Run,
    loaded: LoadedModel,
    data: TaskData,
    shown: Display,
    work: Path | None = None,
    searched: Path | None = None,
    stages: FinishedStages | None = None,
) -> RunResult:
    """Make one run (its learning rate resolved) on a loaded model, which is left unchanged.

    A run of kind "search" is trained and scored on development data only, a "stage" is only trained. ``work``
    is the folder from which a killed run resumes. ``searched`` is the finished search run of the chosen
    learning rate: its weights are taken if it was trained as this run would be. ``stages`` are those that the
    run's method stands on.

    Raises:
        UserError: The method does not fit the model, training diverged, or memory ran out.
    """
    started = provenance.now()
    provenance.reset_peak_memory(run.device)
    lm = loaded.lm
    method = method_of(run, lm, data)
    trained, train_from, seconds = None, None, 0.0
    held_out: HeldOut | None = None
    table = pl.DataFrame(schema=form_of(data.task.kind).schema())
    digests = {} if stages is None else stages.digests()
    resume = ResumeFolder(work, made_for(run, lm, data, digests), shown.note)
    tokens = (run.evaluate if run.train is None else run.train).tokens_per_pass
    learning = TokenLimit(tokens, lm.device, "training", shown.note)
    # On development data and on test data alike.
    answering = TokenLimit(run.evaluate.tokens_per_pass, lm.device, "evaluation", shown.note)
    if stages is not None:
        stages.give(without_head(method))
    source = data.task.source_language
    try:
        with resume.attempt(learning, answering), attached(method, lm, run.seed, source):
            count = _count(run, method, lm)
            if run.train is not None:
                if run.kind == "result":
                    check_lengths(run, lm, data)
                rows = training_rows(run, lm, data, learning)
                taken = None if searched is None else take_up(searched, run, method, lm, data, shown)
                if taken is not None:
                    trained, train_from = taken
                else:
                    text = held_out_rows(run, lm, data)
                    before = mean_loss(lm, text, answering) if text else None
                    limits = (learning, answering)
                    trained = _train(run, run.train, rows, method, data, shown, resume, *limits, stages)
                    if before is not None:
                        tokens, after = sum(row.learned for row in text), mean_loss(lm, text, answering)
                        held_out = HeldOut(texts=len(text), tokens=tokens, before=before, after=after)
            answering.tokens = answering.too_long = 0  # from here on those of test examples
            if run.kind == "result":
                table, seconds = _evaluate(run, method, data, shown, resume, answering)
            weights = None if trained is None else _weights(method, resume)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise UserError(f"memory of {run.device} ran out; lower tokens_per_pass, or batch_size") from error
    cost = Cost(
        load_seconds=loaded.seconds,
        evaluate_seconds=seconds,
        train_from=train_from,
        test_tokens=answering.tokens,
        too_long=answering.too_long,
        train_too_long=learning.too_long,
        halvings=learning.halvings + answering.halvings,
        engine=answering.engine,
        resumed=resume.resumed,
    )
    record = write_record(run, method, lm, data, sums_in(table.columns), trained, count, cost, started)
    if held_out is not None:
        record = record.model_copy(update={"held_out": held_out})
    if stages is not None:
        record = with_text(record, stages.record(data.test))
    return RunResult(record, table, weights)


def _evaluate(
    run: Run, method: Method, data: TaskData, shown: Display, resume: ResumeFolder, passes: TokenLimit
) -> tuple[pl.DataFrame, float]:
    """Answers to all test examples, one row each, and the seconds they took."""
    if remark := without_head(method).remark:
        shown.note(f"  {remark}")
    shown.evaluating(sum(len(examples) for examples in data.test.values()))
    began = time.perf_counter()
    with resume.journal(method.state()) as journal:
        stream = Stream(tell=shown.evaluated, passes=passes, journal=journal)
        table = predictions(run, method, data, data.test, **stream)
    before = 0.0 if journal is None else journal.seconds
    return table, before + time.perf_counter() - began


def _weights(method: Method, resume: ResumeFolder) -> dict[str, Tensor] | TensorFile:
    """What a trained method keeps: the file its training ended with, if that holds the same tensors."""
    state, parameters, file = method.state(), method.parameters(), resume.trained
    same = state.keys() == parameters.keys() and all(
        x.dtype == parameters[name].dtype and x.is_set_to(parameters[name].detach())
        for name, x in state.items()
    )
    if file is not None and same:
        return file
    # Copies: detaching may put other bits into the same tensors.
    return {name: x.to("cpu", copy=True).contiguous() for name, x in state.items()}


def _count(run: Run, method: Method, lm: LanguageModel) -> int:
    """Trained parameters but for a head's: the closed form, which must be what is attached."""
    count = METHODS[run.method].count(run.config, lm.geometry)
    attached = without_head(method).trained_parameters()
    if attached != count:
        raise UserError(
            f"{run.method} on {lm.name}: {attached:,} parameters attached where {count:,} were counted; "
            "the model's layers differ in a way crosstune does not know: report it"
        )
    return count


def _train(
    run: Run,
    settings: TrainSettings,
    rows: Rows,
    method: Method,
    data: TaskData,
    shown: Display,
    resume: ResumeFolder,
    learning: TokenLimit,
    answering: TokenLimit,
    stages: FinishedStages | None,
) -> Trained:
    dev = {data.task.source_language: data.dev[: settings.dev_limit]}
    # Weights change from one evaluation to the next, and another engine would load them each time.
    here = replace(run, evaluate=run.evaluate.model_copy(update={"engine": "crosstune"}))

    def dev_score() -> float:
        table, task = predictions(here, method, data, dev, passes=answering), data.task
        return statistic_of(task.kind, task.metrics[0], sums_in(table.columns)).of(table)

    wanted = dev_score if settings.evaluate_every is not None else None
    checkpoint = resume.checkpoint(learning, answering)
    with parallel.ended_together():
        parallel.from_the_first((run.id, settings, stages))
        return train(method, rows, settings, run.seed, wanted, shown.trained, learning, checkpoint)


@parallel.ended_together()
def follow(study: Study, runs: Sequence[Run]) -> None:
    """Train along with the first process (`crosstune.training.parallel`), which does all else alone."""
    loaded: dict[str, LanguageModel] = {}
    by_id = {run.id: run for run in runs}
    while (job := parallel.from_the_first()) is not None:
        run_id, settings, stages = job
        # A learning rate may have been chosen meanwhile.
        run = replace(by_id[run_id], train=settings)
        if run.model not in loaded:
            loaded.clear()  # the old one's memory first
            loaded[run.model] = load_for(study, run.model).lm
        lm, data = loaded[run.model], read_for(run.task.make(), [run])
        method = method_of(run, lm, data)
        if stages is not None:
            stages.give(without_head(method))
        passes = TokenLimit(settings.tokens_per_pass, lm.device, "training")
        with attached(method, lm, run.seed, data.task.source_language):
            rows = training_rows(run, lm, data, passes)
            scored = None if settings.evaluate_every is None else float
            # What stops the first process in training stops this one too; the first says it.
            with suppress(Exception), parallel.ended_together():
                train(method, rows, settings, run.seed, scored, passes=passes)
