"""Full fine-tuning: every weight of the decoder is trained.

The model stays in its dtype; the optimiser steps fp32 master copies, and their rounded values are
put into the model after each step. Trained parameters: all of them (tied embeddings once).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.errors import UserError
from crosstune.methods.base import Method
from crosstune.methods.config import MethodConfig
from crosstune.models.geometry import Geometry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from crosstune.models.language_model import LanguageModel


class Full(Method):
    """All weights move."""

    name = "full"
    summary = "full fine-tuning of every weight, fp32 master copies"
    learning_rate = 2e-5
    learning_rate_from = "the usual value for full fine-tuning of decoders of 0.1B to 10B"

    @classmethod
    def count(cls, config: MethodConfig, geometry: Geometry) -> int:
        """All parameters of the model."""
        return geometry.parameters

    def attach(self, lm: LanguageModel, seed: int = 0) -> None:
        """Keep the weights' bits, make fp32 masters, let gradients reach every weight."""
        from torch import nn

        if lm.quantized:
            raise UserError("full: quantised weights cannot be trained; use lora, or take quantize out")
        self.lm = lm
        self.weights = dict(lm.model.named_parameters())
        self.kept = {name: w.detach().to("cpu", copy=True) for name, w in self.weights.items()}
        self.masters = {name: nn.Parameter(w.detach().float().clone()) for name, w in self.weights.items()}
        for weight in self.weights.values():
            weight.requires_grad_(True)

    def detach(self) -> None:
        """Put the kept bits back."""
        import torch

        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.kept[name])
                weight.requires_grad_(False)
                weight.grad = None
        self.weights, self.kept, self.masters = {}, {}, {}
        self.lm = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """The fp32 masters, by the weights' own names."""
        return self.masters

    def after_backward(self) -> None:
        """Add the model's gradients to the masters' in fp32."""
        for name, weight in self.weights.items():
            if weight.grad is not None:
                master = self.masters[name]
                grad = weight.grad.float()
                master.grad = grad if master.grad is None else master.grad + grad
                weight.grad = None

    def after_step(self) -> None:
        """Round the masters into the model."""
        import torch

        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.masters[name])

    def state(self) -> dict[str, Tensor]:
        """The weights as the model computes with them, in its dtype."""
        return {name: w.detach() for name, w in self.weights.items()}
