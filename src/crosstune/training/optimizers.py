"""Optimizers of a method's parameters: AdamW over fp32, or one that needs little memory beside the weights.

``adamw`` is PyTorch's, over fp32 parameters; full fine-tuning gives it fp32 copies of the weights. Those,
their gradients and two moments take 16 bytes a weight beside the model's own 2. The other two step the
model's own weights, each by itself:

- ``adamw-8bit``: AdamW with both moments in 8 bits, a scale for every 256 (Dettmers et al. 2021, arXiv
  2110.02861; bitsandbytes): 2 bytes a weight.
- ``adafactor``: second moments as one number for each row and column of a matrix, no first ones, a step's
  root mean square at most 1 (Shazeer & Stern 2018, arXiv 1804.04235; transformers). With relative steps and
  scaling by the weight's size switched off, a learning rate means what it does in AdamW.

A bf16 weight is copied to fp32, stepped, and rounded stochastically: up or down, by chance, in proportion to
how near either is. A step far below the rounding then counts as often as it should, where rounding to the
nearest would lose it. With ``clip: 0`` a weight is stepped inside the backward pass, as soon as its gradient
is whole, and the gradient let go. Clipping needs the norm of all gradients, which is known behind the
backward pass only: all are then kept, in the model's dtype.
"""

import itertools
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crosstune.errors import UserError
from crosstune.methods.base import Method
from crosstune.models.loading.quantize import needs_package
from crosstune.training import parallel
from crosstune.training.settings import OptimizerName, TrainSettings

if TYPE_CHECKING:
    from crosstune.models.fast.shards import Shards

MOMENTS: dict[OptimizerName, int] = {"adamw": 8, "adamw-8bit": 2, "adafactor": 0}
"""Bytes that an optimizer keeps of a parameter, its scales and Adafactor's rows and columns left out."""


class Optimizer:
    """What steps a method's parameters.

    Args:
        method: Attached to a model.
        settings: Which optimizer, weight decay, clipping.
        seed: Of stochastic rounding, and of dropout in each of several processes.
        shards: Of whose rows each process steps its own.

    Raises:
        UserError: A package is missing, or the model is in fp16, which is not rounded stochastically.
    """

    def __init__(
        self, method: Method, settings: TrainSettings, seed: int, shards: "Shards | None" = None
    ) -> None:
        self._rows, self._method = {} if shards is None else shards.rows, method
        method.use_masters(settings.optimizer == "adamw")
        self._parameters = method.parameters()
        self._factors, self._clip, self._name = method.rate_factors(), settings.clip, settings.optimizer
        self._seed, self._step, self._stepping, self._hooks = seed, 0, False, []
        self._stepped: list[str] = []  # weights stepped inside this step's backward passes
        # What the library steps, by name: the parameter, or the fp32 copy that there is during its step.
        self._wide = {name: _wide(p) for name, p in self._parameters.items()}
        if settings.optimizer == "adamw":
            every: torch.optim.Optimizer = torch.optim.AdamW(
                self._groups(),
                lr=0.0,
                weight_decay=settings.weight_decay,
                # One pass over memory in place of ten, and no temporary copies of all weights.
                fused=True if method.attached().device.type in ("cpu", "cuda") else None,
            )
            self._of = dict.fromkeys(self._parameters, every)
        else:
            make = _MAKERS[settings.optimizer](settings.weight_decay)
            self._of = {name: make([p]) for name, p in self._wide.items()}
        if not self._clip:
            self._hooks = [
                self._parameters[name].register_post_accumulate_grad_hook(partial(self._arrived, name))
                for name in self._narrow()
            ]

    def _narrow(self) -> list[str]:
        """Parameters that are stepped through an fp32 copy."""
        return [name for name, parameter in self._parameters.items() if parameter is not self._wide[name]]

    def _groups(self) -> list[dict[str, Any]]:
        """The parameters in their order, neighbours of one learning rate together."""
        runs = itertools.groupby(self._parameters.items(), lambda item: self._factors.get(item[0], 1.0))
        return [{"params": [p for _, p in run], "factor": factor} for factor, run in runs]

    def begin(self, step: int, rate: float) -> None:
        """The number (from 1) and the learning rate of the next step."""
        self._step = step
        parallel.begin_step(self._seed, step)
        for name, one in self._of.items():
            for group in one.param_groups:
                group["lr"] = rate * group.get("factor", self._factors.get(name, 1.0))

    @contextmanager
    def last_part(self) -> Iterator[None]:
        """Inside is a step's last backward pass: gradients that are whole may be applied and let go."""
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False

    def _arrived(self, name: str, parameter: Tensor) -> None:
        if self._stepping:
            self._stepped.append(name)
            self._step_wide(name)

    @property
    def begun(self) -> bool:
        """Whether weights of a step that is not done have moved: it can no longer be repeated."""
        return bool(self._stepped)

    def step(self) -> None:
        """Clip the gradients, and step all parameters that have one."""
        if self._clip:
            self._clip_gradients()
        narrow = self._narrow()
        for one in dict.fromkeys(one for name, one in self._of.items() if name not in narrow):
            one.step()
        for name in narrow:
            if self._parameters[name].grad is not None:
                self._step_wide(name)
        self._stepped.clear()

    def _clip_gradients(self) -> None:
        parameters = self._parameters.values()
        if not self._narrow() and not self._rows:
            torch.nn.utils.clip_grad_norm_(parameters, self._clip)
            return
        # In fp32, which PyTorch's own function does not offer.
        gradients = {name: p.grad for name, p in self._parameters.items() if p.grad is not None}
        device = next(iter(gradients.values())).device
        norms = {
            name: torch.linalg.vector_norm(g, dtype=torch.float32).to(device) for name, g in gradients.items()
        }
        if self._rows:  # each process has the gradients of its own
            squares = sum(float(norms.pop(name)) ** 2 for name in self._rows if name in norms)
            norms["rows"] = torch.tensor(parallel.summed([squares], device), device=device).sqrt()[0]
        norm = torch.linalg.vector_norm(torch.stack([*norms.values()]))
        factor = (self._clip / (norm + 1e-6)).clamp(max=1.0)
        for gradient in gradients.values():
            gradient.mul_(factor.to(gradient.device))

    @torch.no_grad()
    def _step_wide(self, name: str) -> None:
        """Step a 16-bit weight through an fp32 copy, and let its gradient go."""
        weight, wide = self._parameters[name], self._wide[name]
        assert weight.grad is not None
        wide.data, wide.grad = weight.detach().float(), weight.grad.float()
        weight.grad = None
        self._of[name].step()
        # By the step and the weight: the same in whatever order weights come, and nothing for a checkpoint.
        draw = random.Random(f"{self._seed}:{self._step}:{name}").getrandbits(63)
        generator = torch.Generator(weight.device).manual_seed(draw)
        round_stochastically(wide.data, weight.data, generator)
        wide.data, wide.grad = wide.data.new_empty(0), None

    @property
    def to_come(self) -> int:
        """Bytes that the first step allocates for good."""
        return MOMENTS[self._name] * sum(parameter.numel() for parameter in self._parameters.values())

    def let_go(self) -> None:
        """Drop all gradients."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def forget(self) -> None:
        """Drop all moments."""
        for one in self._of.values():
            one.state.clear()

    def close(self) -> None:
        """Leave the weights to themselves; let go of moments and fp32 copies: evaluation has their memory."""
        for hook in self._hooks:
            hook.remove()
        self.forget()
        self._method.use_masters(False)

    def state(self, name: str) -> dict[str, Tensor]:
        """What is kept of a parameter; whole numbers as int64."""
        state = self._of[name].state.get(self._wide[name], {})
        return {key: x if isinstance(x, Tensor) else torch.tensor(x) for key, x in state.items()}

    def take(self, states: Mapping[str, dict[str, Tensor]]) -> None:
        """Put states of all parameters back."""
        for one in dict.fromkeys(self._of.values()):
            names = [name for name, of in self._of.items() if of is one]
            content = {i: _plain(states[name]) for i, name in enumerate(names) if states[name]}
            one.load_state_dict({"state": content, "param_groups": one.state_dict()["param_groups"]})


def round_stochastically(values: Tensor, into: Tensor, generator: torch.Generator) -> None:
    """Round fp32 values, which are overwritten, into a bf16 tensor of their shape.

    bf16 is the upper half of fp32. A random number is added to the lower half: only the carry counts.
    """
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint(1 << 16, bits.shape, generator=generator, device=bits.device, dtype=torch.int32)
    upper = bits.add_(noise).view(-1).view(torch.int16)[1::2]  # of each number; a pass less than masking
    into.view(torch.int16).copy_(upper.view(into.shape))


def _wide(parameter: nn.Parameter) -> nn.Parameter:
    if parameter.dtype == torch.float32:
        return parameter
    if parameter.dtype != torch.bfloat16:
        raise UserError(
            "train.optimizer: weights in 16 bits are stepped in bfloat16 alone; set dtype: bfloat16, or adamw"
        )
    return nn.Parameter(torch.empty(0, device=parameter.device))


def _adamw_8bit(weight_decay: float) -> Any:
    needs_package("bitsandbytes", "train.optimizer: adamw-8bit", "quantize")
    from bitsandbytes.optim.adamw import AdamW8bit

    return partial(AdamW8bit, lr=0.0, weight_decay=weight_decay)


def _adafactor(weight_decay: float) -> Any:
    from transformers.optimization import Adafactor

    fixed = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    return partial(Adafactor, lr=0.0, weight_decay=weight_decay, **fixed)


_MAKERS: dict[str, Any] = {"adamw-8bit": _adamw_8bit, "adafactor": _adafactor}


def _plain(state: Mapping[str, Tensor]) -> dict[str, Any]:
    return {key: x.item() if x.dtype == torch.int64 and x.dim() == 0 else x for key, x in state.items()}
