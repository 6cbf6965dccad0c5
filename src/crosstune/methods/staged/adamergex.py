"""AdaMergeX: LoRA of a task, moved from the source language to another (Zhao et al. 2024, arXiv 2402.18913).

A stage trains a LoRA of each language by next-token loss on its text. The task's LoRA is trained on the bare
model, in the source language; at evaluation each language L has

    A = A_task + lambda (A_L - A_source)        B = B_task + lambda (B_L - B_source)

each matrix by itself, as the authors merge them. All start from the same A: stages share their seed. The
source language has the task's LoRA as it is, and so has a language without text (``missing: none``). Not
merged into the weights for evaluation: every language would have others. Trained parameters are those of the
task's LoRA; each stage has its own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from pydantic import Field

from crosstune.errors import UserError
from crosstune.methods.adapters.lora import Lora, LoraConfig
from crosstune.methods.adapters.merged import worth_merging
from crosstune.methods.deferred import LanguageModel, Tensor, torch
from crosstune.methods.staged.stage import Stage, Staged, StagedConfig
from crosstune.models.adaptation import Part


class AdaMergeXConfig(StagedConfig, LoraConfig):
    """Settings of `adamergex`: of all LoRAs those of `lora`.

    Attributes:
        strength: Lambda.
    """

    strength: float = Field(default=1.0, ge=0)


class AdaMergeX(Staged[AdaMergeXConfig], Lora[AdaMergeXConfig]):
    """A task's LoRA with the difference of two languages'."""

    name = "adamergex"
    summary = "LoRA of a task, plus the difference of two languages' LoRAs (AdaMergeX, Zhao et al. 2024)"
    learning_rate_from = "that of lora"
    Config = AdaMergeXConfig

    @property
    def stage(self) -> Stage:
        """A LoRA of each language."""
        settings = {name: getattr(self.config, name) for name in LoraConfig.model_fields}
        return Stage("LoRA", "lora", LoraConfig(**settings))

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """The task's LoRA, and a part for each language that moves it."""
        self.task: dict[str, Tensor] | None = None
        self.moved_by: Mapping[str, Tensor] = {}
        super().place(lm, part, seed)
        source = self.uses[next(iter(self.uses))] if self.uses else None
        for text, codes in self.users.items():
            if text == source or not self.weights:
                continue
            moves = self._moves(self.weights[text], self.weights[str(source)])
            of_language = Part(f"{self.name}, {text}", frozenset(codes), switch=partial(self._use, lm, moves))
            lm.adaptation.parts.append(of_language)
            part.undo.callback(lm.adaptation.parts.remove, of_language)

    def _moves(self, target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> dict[str, Tensor]:
        moves = {}
        for name, parameter in self.parameters().items():
            if any(name not in state or state[name].shape != parameter.shape for state in (target, source)):
                raise UserError(f"weights do not fit {self.name}: {name} of a language's LoRA")
            moves[name] = self.config.strength * (target[name].float() - source[name].float())
        return moves

    def _use(self, lm: LanguageModel, moves: Mapping[str, Tensor], on: bool) -> None:
        if lm.adaptation.language is None:  # nothing is computed then
            return
        if on or self.moved_by is moves:
            task = self.state()
            self.moved_by = moves if on else {}
            self.set_parameters(task)

    def set_parameters(self, values: Mapping[str, Tensor]) -> None:
        """Put the task's values in, moved for the language that is active."""
        self.task = {name: x.detach().clone() for name, x in values.items()} if self.moved_by else None
        super().set_parameters(values)
        with torch.no_grad():
            for name, move in self.moved_by.items():
                parameter = self.parameters()[name]
                parameter.add_(move.to(parameter.device))

    def state(self) -> dict[str, Tensor]:
        """The task's LoRA, whichever language is active."""
        return super().state() if self.task is None else self.task

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Beside the weights."""
        self.merge = worth_merging({}, len(self.wrapped))[1]
        yield
