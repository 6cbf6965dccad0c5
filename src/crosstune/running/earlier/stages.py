"""The stages of a run: finished runs that trained on unlabelled text, whose weights its method stands on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crosstune.data.example import Example
from crosstune.data.leaks import in_text
from crosstune.errors import UserError
from crosstune.files import checksums
from crosstune.methods.base import Method
from crosstune.methods.staged.stage import Staged, terms
from crosstune.models.tensor_file import read_tensors
from crosstune.store import store
from crosstune.store.record import RunRecord
from crosstune.tasks.text.task import TextOptions, UnlabelledText


@dataclass(frozen=True)
class FinishedStages:
    """Stages that one run needs, as the store holds them."""

    store: Path
    uses: Mapping[str, str | None]  # by language of examples, the language of the text; None for none
    runs: Mapping[str, str]  # by language of the text, the id of its run

    def digests(self) -> dict[str, str]:
        """SHA-256 of the weights, by language of the text.

        Raises:
            UserError: A stage is not in the store.
        """
        return {code: weights_digest(self.store / run) for code, run in self.runs.items()}

    def give(self, method: Method) -> None:
        """Set a method's stages, before it is attached.

        Raises:
            UserError: The weights are not there or damaged.
        """
        assert isinstance(method, Staged)
        method.uses = self.uses
        weights: dict[str, Mapping[str, Tensor]] = {}
        for code, run in self.runs.items():
            if wrong := store.damage(self.store / run, (store.RUN, store.WEIGHTS)):
                raise UserError(wrong)
            weights[code] = read_tensors(self.store / run / store.WEIGHTS, torch.device("cpu"))
        for text in filter(None, self.uses.values()):
            if text not in weights:
                weights[text] = method.summed([(w, weights[code]) for code, w in terms(text).items()])
        method.weights = weights

    def record(self, tested: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
        """For run.json; ``tested`` are test examples by language."""
        stages: dict[str, Any] = {}
        for code, run in self.runs.items():
            record = RunRecord.read(self.store / run / store.RUN)
            (source,) = record.data.sources
            stages[code] = {
                "run": run,
                "weights": weights_digest(self.store / run),
                "text": {"source": record.task.options["source"], **source},
                "tokens": record.cost.train_tokens,
                "trained_parameters": record.trained_parameters,
            }
        in_text = compared = 0
        for code, examples in tested.items():
            if (text := self.uses.get(code)) is not None:
                counts = self._in_text(terms(text), examples)
                in_text, compared = in_text + counts[0], compared + counts[1]
        uses = dict(self.uses)
        return {"uses": uses, "stages": stages, "in_text": in_text, "compared": compared}

    def _in_text(self, codes: Iterable[str], examples: Sequence[Example]) -> tuple[int, int]:
        lines: list[str] = []
        for code in codes:
            record = RunRecord.read(self.store / self.runs[code] / store.RUN)
            text = UnlabelledText(TextOptions.model_validate(record.task.options)).examples("train", code)
            lines += (line for block in text for _, line in block.fields)
        return in_text(lines, examples)


def weights_digest(folder: Path) -> str:
    """SHA-256 of a finished run's weights.

    Raises:
        UserError: There is no such run, or it has no weights.
    """
    if not (folder / store.CHECKSUMS).is_file():
        raise UserError(f"{folder} is not there, and other runs stand on it: run the study again")
    return checksums(folder)[store.WEIGHTS]
