"""crosstune: tune a language model in English, measure how far each method carries into other languages.

The names below are the public interface. What needs torch is imported when first used, so that
``import crosstune`` itself is light.
"""

import importlib
from typing import TYPE_CHECKING, Any

# Importing a subpackage binds its name here, and the function `report` shares its name with one. Imported
# first, the subpackage leaves the name to the function for good.
importlib.import_module("crosstune.report")

from crosstune.api import Results, check, import_results, plan, report, results, run  # noqa: E402
from crosstune.errors import UserError  # noqa: E402

if TYPE_CHECKING:
    from crosstune.claims.file import Claim
    from crosstune.methods import METHODS
    from crosstune.models.loading.load import load
    from crosstune.outputs.evaluate import evaluate
    from crosstune.outputs.registry import tokenize
    from crosstune.outputs.settings import EvaluateSettings
    from crosstune.running.predict import predict
    from crosstune.study.spec import Study, read_study
    from crosstune.tasks import TASKS, make_task
    from crosstune.training.loop import train
    from crosstune.training.settings import TrainSettings

__all__ = [
    "METHODS",
    "TASKS",
    "Claim",
    "EvaluateSettings",
    "Results",
    "Study",
    "TrainSettings",
    "UserError",
    "check",
    "evaluate",
    "import_results",
    "load",
    "make_task",
    "plan",
    "predict",
    "read_study",
    "report",
    "results",
    "run",
    "tokenize",
    "train",
]

_LATER = {
    "Claim": "crosstune.claims.file",
    "METHODS": "crosstune.methods",
    "TASKS": "crosstune.tasks",
    "EvaluateSettings": "crosstune.outputs.settings",
    "Study": "crosstune.study.spec",
    "TrainSettings": "crosstune.training.settings",
    "evaluate": "crosstune.outputs.evaluate",
    "load": "crosstune.models.loading.load",
    "make_task": "crosstune.tasks",
    "predict": "crosstune.running.predict",
    "read_study": "crosstune.study.spec",
    "tokenize": "crosstune.outputs.registry",
    "train": "crosstune.training.loop",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("crosstune")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)
