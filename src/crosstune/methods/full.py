"""Full fine-tuning: every weight of the decoder is trained, or those of one kind or of some layers alone.

``only: biases`` is BitFit (Ben Zaken et al. 2021, 2106.10199), ``only: norms`` trains weights and biases of
norms, ``layers: 2`` the last two layers. The model stays in its dtype; AdamW steps fp32 master copies, and
their rounded values are put into the model after each step. Optimizers that need less memory step the weights
themselves (`crosstune.training.optimizers`). Trained parameters: all that are chosen (tied embeddings once).
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from crosstune.errors import UserError
from crosstune.methods.base import Method
from crosstune.methods.config import Layered
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry

if TYPE_CHECKING:
    from crosstune.models.fast.shards import Shards


class FullConfig(Layered):
    """Settings of `full`.

    Attributes:
        only: One kind of weights; None for all.
    """

    newer: ClassVar[tuple[str, ...]] = ("only", "layers")
    only: Literal["biases", "norms"] | None = None


class Full(Method[FullConfig]):
    """Weights move."""

    name = "full"
    summary = "fine-tuning of every weight, or of biases (BitFit), norms or the last layers alone"
    learning_rate = 2e-5
    learning_rate_from = "the usual value for full fine-tuning of decoders of 0.1B to 10B"
    stacking = "alone"
    trains_weights = True
    Config = FullConfig

    masters: "dict[str, nn.Parameter]"
    shards: "Shards | None" = None  # in sharded training

    @property
    def default_rate(self) -> float:
        """Biases and norms are few, and take larger steps."""
        return 1e-3 if self.config.only else 2e-5

    @classmethod
    def count(cls, config: FullConfig, geometry: Geometry) -> int:
        """All parameters of the chosen kind and layers; without layers, those outside of them too."""
        rows, chosen = geometry.counts, config.chosen(geometry.layers)
        if config.layers is None:
            chosen = [*range(len(rows))]
        column = {None: 0, "biases": 1, "norms": 2}[config.only]
        count = sum(rows[i][column] for i in chosen)
        if not count:
            raise UserError(f"full: this model has no {config.only}; take only out, or choose lora")
        return count

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Keep the weights' bits, let gradients reach the chosen weights."""
        if lm.quantized:
            raise UserError("full: quantised weights cannot be trained; use lora, or take quantize out")
        config = self.config
        self.count(config, lm.geometry)
        part.undo.callback(self._put_back)
        self.originals, self.masters = {}, {}  # read by `_put_back`, however far this comes
        layers = None if config.layers is None else config.chosen(lm.geometry.layers)
        self.weights = {
            weight.name: weight.tensor
            for weight in lm.parts.weights(lm.model)
            if (layers is None or weight.layer in layers)
            and {None: True, "biases": weight.bias, "norms": weight.norm}[config.only]
        }
        self.originals = {name: w.detach().to("cpu", copy=True) for name, w in self.weights.items()}
        for weight in self.weights.values():
            weight.requires_grad_(True)

    def _put_back(self) -> None:
        """Put the kept bits back."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                if name in self.originals:
                    weight.copy_(self.originals[name])
                weight.requires_grad_(False)
                weight.grad = None
        self.weights, self.originals, self.masters = {}, {}, {}

    def use_masters(self, wanted: bool) -> None:
        """Make the fp32 masters, from the weights as they are now."""
        if self.shards is not None:
            self.masters = self.shards.rows
            return
        copied = self.weights if wanted else {}
        self.masters = {name: nn.Parameter(w.detach().float().clone()) for name, w in copied.items()}

    def parameters(self) -> "dict[str, nn.Parameter]":
        """By the weights' own names: the fp32 masters in training that has them, else the weights."""
        return self.masters or self.weights

    def after_backward(self) -> None:
        """Add the model's gradients to the masters' in fp32."""
        if self.shards is not None:
            return self.shards.after_backward()
        for name, master in self.masters.items():
            weight = self.weights[name]
            if weight.grad is not None:
                grad = weight.grad.float()
                master.grad = grad if master.grad is None else master.grad + grad
                weight.grad = None

    def after_step(self) -> None:
        """Round the masters into the model."""
        if self.shards is not None:
            return self.shards.after_step()
        with torch.no_grad():
            for name, master in self.masters.items():
                self.weights[name].copy_(master)

    def state(self) -> dict[str, Tensor]:
        """The weights as the model computes with them, in its dtype."""
        return {name: w.detach() for name, w in self.weights.items()}
