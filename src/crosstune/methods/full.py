"""Full fine-tuning: every weight of the decoder is trained.

The model stays in its dtype; the optimiser steps fp32 master copies, and their rounded values are
put into the model after each step. Trained parameters: all of them (tied embeddings once).
"""

from crosstune.errors import UserError
from crosstune.methods.base import Method
from crosstune.methods.config import MethodConfig
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry


class Full(Method[MethodConfig]):
    """All weights move."""

    name = "full"
    summary = "full fine-tuning of every weight, fp32 master copies"
    learning_rate = 2e-5
    learning_rate_from = "the usual value for full fine-tuning of decoders of 0.1B to 10B"
    stacking = "alone"

    @classmethod
    def count(cls, config: MethodConfig, geometry: Geometry) -> int:
        """All parameters of the model."""
        return geometry.parameters

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Keep the weights' bits, make fp32 masters, let gradients reach every weight."""
        if lm.quantized:
            raise UserError("full: quantised weights cannot be trained; use lora, or take quantize out")
        part.undo.callback(self._put_back)
        self.kept, self.masters = {}, {}  # read by `_put_back`, however far this comes
        self.weights = dict(lm.model.named_parameters())
        self.kept = {name: w.detach().to("cpu", copy=True) for name, w in self.weights.items()}
        self.masters = {name: nn.Parameter(w.detach().float().clone()) for name, w in self.weights.items()}
        for weight in self.weights.values():
            weight.requires_grad_(True)

    def _put_back(self) -> None:
        """Put the kept bits back."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                if name in self.kept:
                    weight.copy_(self.kept[name])
                weight.requires_grad_(False)
                weight.grad = None
        self.weights, self.kept, self.masters = {}, {}, {}

    def parameters(self) -> "dict[str, nn.Parameter]":
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
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.masters[name])

    def state(self) -> dict[str, Tensor]:
        """The weights as the model computes with them, in its dtype."""
        return {name: w.detach() for name, w in self.weights.items()}
