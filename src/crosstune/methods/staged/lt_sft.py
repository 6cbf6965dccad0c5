"""LT-SFT: sparse changes of the weights, one of a task and one of each language, added (arXiv 2110.07560).

A stage trains a sparse change phi_L of each language (`crosstune.methods.sparse`) by next-token loss on its
text (the paper: masked tokens). The change phi_T of the task is trained on ``theta_0 + phi_source``, as in
the authors' scripts; at evaluation each language L has

    theta_0 + phi_T + phi_L

added in fp32 and rounded once. A language without text has phi_T alone (``missing: none``). Trained
parameters are those of phi_T; each stage has its own.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated

from pydantic import Field

from crosstune.methods.deferred import LanguageModel, Tensor, torch
from crosstune.methods.sparse import Sparse, SparseConfig, add_sparse, check_sparse
from crosstune.methods.staged.stage import Stage, Staged, StagedConfig
from crosstune.models.adaptation import Part


class LanguageConfig(SparseConfig):
    """Settings of a language's change; by default the paper's, whose K is 7,667,712 weights of mBERT's."""

    keep: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = 0.043
    dense: float = Field(default=0.5, gt=0, lt=1)
    l1: float = Field(default=0.1, ge=0)


class LtSftConfig(StagedConfig, SparseConfig):
    """Settings of `lt-sft`: of the task's change those of `sparse`.

    Attributes:
        language: Of the languages' changes.
    """

    language: LanguageConfig = LanguageConfig()


class LtSft(Staged[LtSftConfig], Sparse[LtSftConfig]):
    """A sparse change of the task on one of the language."""

    name = "lt-sft"
    summary = (
        "sparse changes of a task and of languages trained on unlabelled text, added (Ansell et al. 2022)"
    )
    learning_rate_from = "that of sparse"
    Config = LtSftConfig

    @property
    def stage(self) -> Stage:
        """A sparse change of each language."""
        return Stage("sparse change", "sparse", SparseConfig(**self.config.language.model_dump()))

    def summed(self, states: Sequence[tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
        """At the places of all, some of them more than once: what stands there is added."""
        stacked: dict[str, list[Tensor]] = {}
        for weight, state in states:
            for name, x in state.items():
                stacked.setdefault(name, []).append(x if name.endswith(".at") else weight * x)
        return {name: torch.cat(tensors) for name, tensors in stacked.items()}

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """The task's change, and a part for each language that switches its own on."""
        self.below: Mapping[str, Tensor] = {}
        super().place(lm, part, seed)
        for text, codes in self.users.items():
            state = self.weights.get(text, {})
            check_sparse(self.name, state, self.tensors)
            of_language = Part(f"{self.name}, {text}", frozenset(codes), switch=partial(self._use, lm, state))
            lm.adaptation.parts.append(of_language)
            part.undo.callback(lm.adaptation.parts.remove, of_language)
            if lm.adaptation.language in codes:
                self.below = state
        self.after_step()

    def _use(self, lm: LanguageModel, state: Mapping[str, Tensor], on: bool) -> None:
        if lm.adaptation.language is None:  # nothing is computed then
            return
        if on or self.below is state:
            self.below = state if on else {}
            self.after_step()

    def changed(self, name: str) -> Tensor:
        """A weight with both changes."""
        with torch.no_grad():
            weight = super().changed(name)
            add_sparse(weight, name, self.below)
        return weight
