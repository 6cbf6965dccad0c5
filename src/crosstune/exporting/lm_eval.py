"""Makes finished runs a model of lm-evaluation-harness: ``--model crosstune --model_args run=STORE/ID``.

The harness looks for models in its own package alone. Importing this makes it known, which the tasks that
`crosstune.exporting.lm_eval_tasks` writes do; for other tasks the harness is started as
``python -m crosstune.exporting.lm_eval``, with the harness's own arguments.
"""

import importlib
from typing import Any

import lm_eval.models  # noqa: F401 - which it looks for in an empty list alone, and ours is none
import torch
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from crosstune.errors import UserError
from crosstune.exporting.answering import AnsweringRun


class CrosstuneModel(AnsweringRun, LM):  # type: ignore[misc]  # the harness is not there for mypy
    """A finished run."""

    def __init__(
        self, run: str | None = None, language: str | None = None, device: str | None = None, **more: Any
    ) -> None:
        LM.__init__(self)
        for key in ("batch_size", "max_batch_size"):  # given always; batches are made by memory
            more.pop(key, None)
        if run is None or more.keys() - {"tokens_per_pass"}:
            unknown = next(iter(more.keys() - {"tokens_per_pass"}), None)
            raise UserError(
                "write --model_args run=STORE/ID; language= and tokens_per_pass= can stand beside it"
                + (f", and {unknown}= cannot" if unknown else "")
            )
        # What the harness says where it is told nothing.
        if device == "cuda:0" and not torch.cuda.is_available():
            device = None
        AnsweringRun.__init__(self, run, language, device, **more)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    # Under its own name, as tasks import it: a model is registered once.
    importlib.import_module("crosstune.exporting.lm_eval")
    cli_evaluate()
else:
    register_model("crosstune")(CrosstuneModel)
