"""Sparse fine-tuning by lottery ticket: only the K weights that full fine-tuning changes most are tuned.

Ansell et al. 2022 (arXiv 2110.07560), LT-SFT. Full fine-tuning for a share of the steps; the K entries with
the largest ``|theta - theta_0|`` are kept in a mask; the weights go back to ``theta_0``; fine-tuning again
for the other steps, of those K alone. What is trained is the change d of ``theta_0 + d``, in fp32, which is
rounded into the model after each step, and saved sparse. With ``l1`` the loss has ``l1 * mean |d|`` more.
Norms stay frozen. Trained parameters: K (the tuning in between changes all).
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from typing_extensions import TypeVar

from crosstune.errors import UserError
from crosstune.methods.base import Method, Pass
from crosstune.methods.config import Layered
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry


class SparseConfig(Layered):
    """Settings of `sparse`.

    Attributes:
        keep: K, or a share of the weights but norms. The paper's 14,155,776 are 0.08 of mBERT.
        dense: Share of the steps in which all weights move; the paper has 3 epochs of 13 for tasks, and half
            the steps for languages.
        l1: Weight of the mean absolute change in the loss; the paper has 0.1 for languages.
    """

    keep: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = 0.08
    dense: float = Field(default=0.25, gt=0, lt=1)
    l1: float = Field(default=0.0, ge=0)


Settings = TypeVar("Settings", bound=SparseConfig, default=SparseConfig)


class Sparse(Method[Settings]):
    """Few weights move, wherever they are."""

    name = "sparse"
    trains_weights = True
    summary = "the K weights that full fine-tuning changes most, tuned alone (LT-SFT, Ansell et al. 2022)"
    learning_rate = 2e-5
    learning_rate_from = "that of full; the paper's for mBERT is 5e-5"
    size = "keep"
    stacking = "alone"
    Config = SparseConfig

    tensors: dict[str, Tensor]  # the model's weights, by their own names
    originals: dict[str, Tensor]  # their values before, in the model's dtype
    changes: "dict[str, nn.Parameter]"  # the trained changes, fp32
    masks: dict[str, Tensor] | None = None  # true where a change may be; None while all may

    @classmethod
    def count(cls, config: SparseConfig, geometry: Geometry) -> int:
        """K.

        Raises:
            UserError: There are fewer weights.
        """
        rows = geometry.counts
        chosen = range(len(rows)) if config.layers is None else config.chosen(geometry.layers)
        tunable = sum(rows[i][0] - rows[i][2] for i in chosen)
        k = config.keep if isinstance(config.keep, int) else max(1, int(config.keep * tunable))
        if k > tunable:
            raise UserError(f"{cls.name}: keep {k:,} of {tunable:,} weights; lower it")
        return k

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Keep the weights' bits, let gradients reach them, start from no change."""
        if lm.quantized:
            raise UserError(
                f"{self.name}: quantised weights cannot be trained; use lora, or take quantize out"
            )
        self.count(self.config, lm.geometry)
        part.undo.callback(self._put_back)
        self.tensors, self.originals, self.changes, self.masks = {}, {}, {}, None
        layers = None if self.config.layers is None else self.config.chosen(lm.geometry.layers)
        self.tensors = {
            weight.name: weight.tensor
            for weight in lm.parts.weights(lm.model)
            if (layers is None or weight.layer in layers) and not weight.norm
        }
        for name, weight in self.tensors.items():
            self.originals[name] = weight.detach().clone()
            self.changes[name] = nn.Parameter(torch.zeros_like(weight, dtype=torch.float32))
            weight.requires_grad_(True)

    def _put_back(self) -> None:
        with torch.no_grad():
            for name, weight in self.tensors.items():
                if name in self.originals:
                    weight.copy_(self.originals[name])
                weight.requires_grad_(False)
                weight.grad = None
        self.tensors, self.originals, self.changes, self.masks = {}, {}, {}, None

    def parameters(self) -> "dict[str, nn.Parameter]":
        """The changes, whole tensors, by the weights' own names."""
        return self.changes

    def trained_parameters(self) -> int:
        """K."""
        return self.count(self.config, self.attached().geometry)

    def begin_training(self, steps: int) -> list[int]:
        """All weights move, then K of them.

        Raises:
            UserError: Too few steps for both.
        """
        if steps < 2:
            raise UserError(f"{self.name}: two phases need two training steps or more; found {steps}")
        self.masks = None
        dense = min(max(1, round(self.config.dense * steps)), steps - 1)
        return [dense, steps - dense]

    def next_phase(self) -> None:
        """Keep the places of the K largest changes, and take all changes back."""
        k = self.trained_parameters()
        with torch.no_grad():
            sizes = torch.cat([change.abs().flatten().cpu() for change in self.changes.values()])
            kept = torch.zeros(len(sizes), dtype=torch.bool)
            kept[sizes.topk(k).indices] = True
            masks = kept.split([change.numel() for change in self.changes.values()])
            self.masks = {}
            for (name, change), mask in zip(self.changes.items(), masks, strict=True):
                self.masks[name] = mask.view(change.shape).to(change.device)
                change.zero_()
        self.after_step()

    def objective(self, loss: Tensor, of: Pass) -> Tensor:
        """With ``l1 * mean |d|``."""
        if not self.config.l1:
            return loss
        numel = sum(change.numel() for change in self.changes.values())
        sums = [change.abs().sum().to(loss.device) for change in self.changes.values()]
        return loss + of.share * self.config.l1 / numel * torch.stack(sums).sum()

    def after_backward(self) -> None:
        """Add the weights' gradients to those of the changes that may be."""
        for name, weight in self.tensors.items():
            change = self.changes[name]
            if weight.grad is not None:
                grad = weight.grad.float()
                change.grad = grad if change.grad is None else change.grad.add_(grad)
                weight.grad = None
            if self.masks is not None and change.grad is not None:
                change.grad.mul_(self.masks[name])

    def after_step(self) -> None:
        """Round the changed weights into the model."""
        with torch.no_grad():
            for name, weight in self.tensors.items():
                weight.copy_(self.changed(name))

    def changed(self, name: str) -> Tensor:
        """A weight with its change, fp32."""
        return self.originals[name].float() + self.changes[name]

    def training_state(self) -> dict[str, Tensor]:
        """The masks, from the second phase on."""
        return dict(self.masks or {})

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Put them back."""
        device = {name: change.device for name, change in self.changes.items()}
        self.masks = {name: mask.to(device[name]) for name, mask in state.items()} or None

    def state(self) -> dict[str, Tensor]:
        """``<weight>.at``, flat places, and ``<weight>.change`` there, of weights with any."""
        changed: dict[str, Tensor] = {}
        for name, change in self.changes.items():
            flat = change.detach().flatten()
            at = flat.nonzero()[:, 0]
            if len(at):
                changed |= {f"{name}.at": at.int(), f"{name}.change": flat[at]}
        return changed

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put saved changes into place.

        Raises:
            UserError: They are not of these weights.
        """
        check_sparse(self.name, state, self.tensors)
        values = {name: torch.zeros_like(change) for name, change in self.changes.items()}
        for name, value in values.items():
            add_sparse(value, name, state)
        self.set_parameters(values)


def check_sparse(method: str, state: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Whether sparse changes can be added to weights.

    Raises:
        UserError: They cannot.
    """
    for key, x in state.items():
        name, _, end = key.rpartition(".")
        twin = f"{name}.{'at' if end == 'change' else 'change'}"
        if name not in weights or end not in ("at", "change") or twin not in state:
            odd = twin if name in weights and end in ("at", "change") else key
            raise UserError(f"weights do not fit {method}: {odd} is on one side only")
        if x.dim() != 1 or x.shape != state[twin].shape:
            first, second = f"{name}.at", f"{name}.change"
            raise UserError(
                f"weights do not fit {method}: {first} is {tuple(state[first].shape)}, "
                f"{second} {tuple(state[second].shape)}"
            )
        if end == "at" and not 0 <= int(x.min()) <= int(x.max()) < weights[name].numel():
            raise UserError(f"weights do not fit {method}: {key} is outside of {name}")


def add_sparse(to: Tensor, name: str, state: Mapping[str, Tensor]) -> None:
    """Add the saved changes of a weight to a tensor of its shape, in place."""
    if f"{name}.at" in state:
        at, change = state[f"{name}.at"].to(to.device), state[f"{name}.change"].to(to.device)
        to.view(-1).index_add_(0, at.long(), change.to(to.dtype))
