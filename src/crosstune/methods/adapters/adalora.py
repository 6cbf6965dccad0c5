"""What AdaLoRA needs of a training loop (Zhang et al. 2023, arXiv 2303.10512), around PEFT's tuner.

PEFT's model adds the mean of ``|A A' - I|`` and ``|B' B - I|``, times ``orth_reg_weight``, to a loss that it
is given, and its rank allocator weighs each rank by its parameters and gradients after each step. Our loop
computes its own loss, so that the term is computed here; the allocator is PEFT's.
"""

from typing import Any

from crosstune.errors import UserError
from crosstune.methods.deferred import Tensor, torch

_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class Allocation:
    """The ranks of one tuner while it is trained.

    Args:
        tuner: PEFT's ``AdaLoraModel``.
    """

    def __init__(self, tuner: Any) -> None:
        self._tuner = tuner
        self._config = tuner.peft_config[tuner.trainable_adapter_name]

    def begin(self, steps: int) -> None:
        """Plan for a number of steps.

        Raises:
            UserError: They leave none to reduce ranks in.
        """
        config = self._config
        if config.tinit >= steps - config.tfinal:
            raise UserError(
                f"peft: ADALORA reduces ranks after tinit {config.tinit} and until tfinal {config.tfinal} "
                f"steps before the end, and training has {steps}; lower tinit or tfinal"
            )
        config.total_step, config.rank_pattern = steps, None
        self._tuner.rankallocator.reset_ipt()

    def loss(self) -> Tensor:
        """PEFT's orthogonality term."""
        terms = []
        for name, p in self._tuner.model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                product = p @ p.T if "lora_A" in name else p.T @ p
                terms.append(torch.linalg.norm(product - torch.eye(len(product), device=p.device)))
        mean = torch.stack([term.to(terms[0].device) for term in terms]).mean()
        return mean * float(self._config.orth_reg_weight)

    def step(self, step: int) -> None:
        """PEFT's call after a step of the optimiser, which needs its gradients."""
        self._tuner.update_and_allocate(step)

    def state(self) -> dict[str, Tensor]:
        """Running averages, and the ranks that were kept."""
        allocator = self._tuner.rankallocator
        averages = {f"{kind}.{n}": x for kind in _AVERAGES for n, x in getattr(allocator, kind).items()}
        kept = self._config.rank_pattern or {}
        return averages | {f"kept.{name}": torch.tensor(ranks) for name, ranks in kept.items()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Put a `state` back."""
        device = {name: p.device for name, p in self._tuner.model.named_parameters()}
        kept: dict[str, list[bool]] = {}
        for key, x in state.items():
            kind, _, name = key.partition(".")
            if kind == "kept":
                kept[name] = x.tolist()
            else:
                getattr(self._tuner.rankallocator, kind)[name] = x.to(device[name])
        self._config.rank_pattern = kept or None
