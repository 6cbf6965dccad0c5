"""Curves and scores of runs in TensorBoard, Weights & Biases or trackio, each through its own library.

Trackers do not affect results or run ids. A tracker that fails is logged once and not used any more. A
resumed run continues in the same tracker run, because both have the run's id.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from crosstune.data.forms import scores_by_language, statistic_of
from crosstune.errors import UserError, first_line
from crosstune.store.record import RunRecord
from crosstune.study.runs import Run
from crosstune.training.loop import Progress, rate

FOLDER = "trackers"
"""Folder in a store for the trackers' files."""
LOSS = "train/loss"


class TensorBoard:
    """Event files in ``<store>/trackers/tensorboard/<run id>``.

    As with every tracker, values belong to the run opened last; `end` gets no scores if the run was not
    finished.
    """

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER / "tensorboard"
        self.module = _library("tensorboard", "torch.utils.tensorboard")
        self.writer: Any = None

    def open(self, run: Run, title: str, settings: dict[str, Any]) -> None:
        """The writer is created at the first step."""
        self.at, self.title, self.settings = self.folder / run.id, title, settings

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Scalars."""
        if self.writer is None:
            # Resumed training repeats a few steps: their earlier values are purged.
            again = step if LOSS in values else None
            self.writer = self.module.SummaryWriter(str(self.at), purge_step=again)
            rows = "\n".join(f"|{key}|{value}|" for key, value in self.settings.items())
            self.writer.add_text("settings", f"|{self.title}||\n|-|-|\n{rows}", step)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def end(self, scores: Mapping[str, float], step: int) -> None:
        """Log the scores at the last step and close the files."""
        if scores:
            self.log(scores, step)
        if self.writer is not None:
            self.writer.close()
        self.writer = None


class WandB:
    """Weights & Biases; the project is the study. ``WANDB_MODE=offline`` sends nothing."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER
        self.module = _library("wandb")
        self.run: Any = None

    def open(self, run: Run, title: str, settings: dict[str, Any]) -> None:
        """Files go to ``<store>/trackers/wandb``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run = self.module.init(
            project=run.study,
            id=run.id,
            name=title,
            config=settings,
            dir=str(self.folder),
            resume="allow",
            settings=self.module.Settings(silent=True, console="off"),
        )
        # wandb's own step must not decrease, but a resumed run repeats a few steps.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """A row of its history."""
        self.run.log({**values, "step": step})

    def end(self, scores: Mapping[str, float], step: int) -> None:
        """Write the scores to the summary, which wandb's run tables show."""
        self.run.summary.update(dict(scores))
        self.run.finish(exit_code=0 if scores else 1)


class Trackio:
    """trackio; the project is the study, its folder is ``TRACKIO_DIR``."""

    def __init__(self, store: Path) -> None:
        self.module = _library("trackio")

    def open(self, run: Run, title: str, settings: dict[str, Any]) -> None:
        """Runs are identified by name."""
        self.module.init(
            project=run.study, name=f"{title} · {run.id}", config=settings, resume="allow", embed=False
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """A row of its table."""
        self.module.log(dict(values), step=step)

    def end(self, scores: Mapping[str, float], step: int) -> None:
        """Scores at the last step."""
        if scores:
            self.module.log(dict(scores), step=step)
        self.module.finish()


Tracker = TensorBoard | WandB | Trackio
KINDS: dict[str, Callable[[Path], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


class Trackers:
    """The trackers (keys of `KINDS`) of a study's store, which follow one run after another.

    Raises:
        UserError: A library is not installed.
    """

    def __init__(self, names: Sequence[str], store: Path, note: Callable[[str], None]) -> None:
        self.live = {name: KINDS[name](store) for name in names}
        self.note = note
        self.run: Run | None = None

    def begin(self, run: Run) -> None:
        """A run starts or resumes."""
        self._end({}, 0)
        self.run = run
        names = ("kind", "model", "method", "seed", "device", "dtype")
        settings = {name: getattr(run, name) for name in names}
        settings |= {"task": run.task.name, "languages": " ".join(run.languages)}
        for name, block in (("method", run.config), ("train", run.train), ("evaluate", run.evaluate)):
            dumped = {} if block is None else block.model_dump(mode="json")
            settings |= {f"{name}.{key}": value for key, value in dumped.items()}
        title = f"{run.task.name} · {run.label} · seed {run.seed}"
        self._tell(lambda tracker: tracker.open(run, title, settings))

    def trained(self, progress: Progress) -> None:
        """A training step of the run is done."""
        assert self.run is not None, "begin comes first"
        assert self.run.train is not None, "only a run that trains has steps"
        settings, step = self.run.train, progress.step
        values = {LOSS: progress.loss}
        if settings.learning_rate is not None:
            values["train/learning_rate"] = rate(settings, settings.learning_rate, step - 1, progress.total)
        values["train/tokens_per_second"] = progress.tokens / max(1e-9, progress.seconds)
        self._log(values, step)

    def finish(self, record: RunRecord, predictions: pl.DataFrame) -> None:
        """The run is finished: its scores on development data, and its score in each language.

        A run that only searches has the best score on development data instead.
        """
        for point in record.dev:
            self._log({"dev/score": point["score"]}, point["step"])
        statistic = statistic_of(record.task.kind, record.task.metrics[0], record.task.sums)
        steps = record.curve[-1]["step"] if record.curve else 0
        told = scores_by_language(predictions, statistic) if predictions.height else {}
        scores = {f"score/{language}": score for language, score in told.items()}
        if not scores and record.dev_score is not None:
            scores = {"dev/best": record.dev_score}
        self._end(scores, steps)

    def close(self) -> None:
        """The study is over, or stopped in the middle of a run."""
        self._end({}, 0)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        self._tell(lambda tracker: tracker.log(values, step))

    def _end(self, scores: Mapping[str, float], step: int) -> None:
        if self.run is not None:
            self._tell(lambda tracker: tracker.end(scores, step))
        self.run = None

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.live.items()):
            try:
                what(tracker)
            except (
                Exception
            ) as error:  # no network, no account, a full disk: each library has its own exceptions
                del self.live[name]
                self.note(f"{name} is not used any more: {first_line(error)}")


def _library(name: str, module: str | None = None) -> Any:
    try:
        return importlib.import_module(module or name)
    except ImportError as error:
        raise UserError(
            f'trackers: {name} is not installed; pip install "crosstune[{name}]", or take it off the list'
        ) from error
