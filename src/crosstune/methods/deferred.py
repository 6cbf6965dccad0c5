"""PyTorch for the files of methods, imported when one of them first computes something.

A method is one file: its settings and its parameter count, which planning a study reads, and what attaches
it to a model, which needs PyTorch. Files take ``torch`` and ``nn`` from here as they would from PyTorch, and
quote the annotations that name one of their attributes (``"nn.Parameter"``).
"""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["LanguageModel", "Tensor", "nn", "torch"]


class Deferred:
    """A module that is imported when one of its attributes is first read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from crosstune.models.language_model import LanguageModel
else:
    torch, nn = Deferred("torch"), Deferred("torch.nn")
    Tensor = LanguageModel = Any  # used in annotations alone
