"""Curves and scores of runs in TensorBoard, Weights & Biases or trackio, each through its own library.

A tracker only watches: it decides no result, is no part of a run's id, and one that fails is said once and
left out from then on. A run that is taken up again goes on in the same tracker run, as both have one id.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from crosstune.errors import UserError, first_line
from crosstune.store.record import RunRecord
from crosstune.study.runs import Run
from crosstune.training.loop import Progress, rate

FOLDER = "trackers"
"""Folder in a store for what trackers keep on disk."""
LOSS = "train/loss"


class TensorBoard:
    """Event files in ``<store>/trackers/tensorboard/<run id>``.

    As with every tracker, what it is told belongs to the run that was opened last; `end` has no scores for a
    run that came to none.
    """

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER / "tensorboard"
        self.module = _library("tensorboard", "torch.utils.tensorboard")
        self.writer: Any = None

    def open(self, run: Run, title: str, settings: dict[str, Any]) -> None:
        """The writer waits for the first step."""
        self.at, self.title, self.settings = self.folder / run.id, title, settings

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Scalars."""
        if self.writer is None:
            # Training that is taken up again repeats a few steps: what was logged of them is dropped.
            again = step if LOSS in values else None
            self.writer = self.module.SummaryWriter(str(self.at), purge_step=again)
            rows = "\n".join(f"|{key}|{value}|" for key, value in self.settings.items())
            self.writer.add_text("settings", f"|{self.title}||\n|-|-|\n{rows}", step)
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def end(self, scores: Mapping[str, float], step: int) -> None:
        """Scores at the last step, and everything to disk."""
        if scores:
            self.log(scores, step)
        if self.writer is not None:
            self.writer.close()
        self.writer = None


class WandB:
    """Weights & Biases: the study is the project. ``WANDB_MODE=offline`` keeps all on this machine."""

    def __init__(self, store: Path) -> None:
        self.folder = store / FOLDER
        self.module = _library("wandb")
        self.run: Any = None

    def open(self, run: Run, title: str, settings: dict[str, Any]) -> None:
        """Files lie in ``<store>/trackers/wandb``."""
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
        # wandb's own step may never go back, and a run that is taken up again goes back a little.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """A row of its history."""
        self.run.log({**values, "step": step})

    def end(self, scores: Mapping[str, float], step: int) -> None:
        """Scores into the summary, where wandb's tables of runs have them."""
        self.run.summary.update(dict(scores))
        self.run.finish(exit_code=0 if scores else 1)


class Trackio:
    """trackio: the study is the project; where it keeps it is said by ``TRACKIO_DIR``."""

    def __init__(self, store: Path) -> None:
        self.module = _library("trackio")

    def open(self, run: Run, title: str, settings: dict[str, Any]) -> None:
        """Its runs are told apart by name."""
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
KINDS: dict[str, Callable[[Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


class Trackers:
    """The trackers of a study, told of one run after the other.

    Args:
        names: Keys of `KINDS`.
        store: The study's store.
        note: Where a failure is said.

    Raises:
        UserError: A library is not installed.
    """

    def __init__(self, names: Sequence[str], store: Path, note: Callable[[str], None]) -> None:
        self.live = {name: KINDS[name](store) for name in names}
        self.note = note
        self.run: Run | None = None

    def begin(self, run: Run) -> None:
        """A run begins, or is taken up again."""
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
        """The run is finished: its scores on development data, and its mean score in each language.

        A run that only searches has the best score on development data instead.
        """
        for point in record.dev:
            self._log({"dev/score": point["score"]}, point["step"])
        means = predictions.group_by("language").agg(pl.col("score").mean()).sort("language")
        steps = record.curve[-1]["step"] if record.curve else 0
        scores = {f"score/{language}": float(score) for language, score in means.iter_rows()}
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
            except Exception as error:  # no network, no account, a full disk: each library has its own
                del self.live[name]
                self.note(f"{name} is left out from here on: {first_line(error)}")


def _library(name: str, module: str | None = None) -> Any:
    try:
        return importlib.import_module(module or name)
    except ImportError as error:
        raise UserError(
            f'trackers: {name} is not installed; pip install "crosstune[{name}]", or take it off the list'
        ) from error
