"""How a run is trained."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ONE_OF = (("steps", "epochs"), ("limit", "per_label"))
"""Settings that exclude each other: the more specific one applies."""
OptimizerName = Literal["adamw", "adamw-8bit", "adafactor"]


class TrainSettings(BaseModel):
    """Settings of the training loop, the same for every method unless a study overrides them.

    Attributes:
        steps: Optimiser steps; or give ``epochs``.
        epochs: Passes over the training examples; None when ``steps`` is given.
        batch_size: Examples an optimiser step (the effective batch).
        tokens_per_pass: Most tokens, padding included, that go through the model at once; a batch
            over it is split, with the same gradient.
        by_length: Group examples of similar length into batches; otherwise batches are random.
        loss: "answer" is the cross-entropy of the answer over the whole vocabulary; "choices", for choice
            tasks, is over the first tokens of the labels only, as ``evaluate.choices: first-token`` compares
            them. Retrieval finds the text of each question among those of the batch ("answer"), or as well
            the question of each text ("symmetric").
        learning_rate: Peak; None uses the method's default.
        optimizer: "adamw" steps fp32 parameters, in full fine-tuning fp32 copies of the weights. "adamw-8bit"
            (needs the ``quantize`` extra) and "adafactor" step bf16 weights themselves, rounded
            stochastically, and keep 2 bytes a weight, or nearly nothing, in place of 12
            (`crosstune.training.optimizers`).
        weight_decay: Decoupled (AdamW).
        warmup_steps: Linear rise of the learning rate.
        decay: "linear" or "cosine" to zero at the last step, or "constant".
        clip: Largest gradient norm; 0 for no clipping, and in full fine-tuning without fp32 copies for
            gradients that are applied as they arise instead of kept.
        limit: Number of training examples, or a fraction of them (0.1), sampled with the run's seed; None
            for all.
        per_label: Number of training examples per label (K-shot), sampled with the run's seed; for a task
            without labels, their total number. None for no such sampling.
        languages: Training languages, if the task has training data in them; None for the source language
            only. With any other language the result is not zero-shot, and is labelled so.
        evaluate_every: Steps between evaluations on source-language development data; None for never.
        dev_limit: Number of development examples.
        patience: Stop after this many evaluations without improvement; None to continue.
        gradient_checkpointing: Recompute activations in the backward pass to save memory: of all layers, or
            with "auto" of as many as a GPU's measured memory asks for (none on a CPU).
        reuse_frozen_layers: If only upper layers are adapted, cache the activations of the frozen layers
            below for each training text, for later epochs and for the study's other runs with the same
            model. No effect on methods that adapt the lowest layer. Pays off from the second epoch on;
            results differ by rounding from those without it, but do not depend on the cache's content.
        shard: Of processes that torchrun starts together, each keeps a part of every layer's weights while it
            trains, and of what is trained its fp32 copy, gradients and moments (PyTorch's FSDP2).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None = Field(default=None, ge=1, le=10_000_000)
    epochs: float | None = Field(default=None, gt=0, le=100_000)
    batch_size: int = Field(default=16, ge=1)
    tokens_per_pass: int = Field(default=8192, ge=1)
    by_length: bool = True
    loss: Literal["answer", "choices", "symmetric"] = "answer"
    learning_rate: float | None = Field(default=None, gt=0)
    optimizer: OptimizerName = "adamw"
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=10, ge=0)
    decay: str = Field(default="linear", pattern="^(linear|cosine|constant)$")
    clip: float = Field(default=1.0, ge=0)
    limit: int | float | None = None
    per_label: int | None = Field(default=None, ge=1)
    languages: tuple[str, ...] | None = Field(default=None, min_length=1)
    evaluate_every: int | None = Field(default=None, ge=1)
    dev_limit: int | None = Field(default=200, ge=1)
    patience: int | None = Field(default=None, ge=1)
    gradient_checkpointing: bool | Literal["auto"] = False
    reuse_frozen_layers: bool = False
    shard: bool = False

    @field_validator("limit", mode="plain")
    @classmethod
    def _number_or_share(cls, value: Any) -> int | float | None:
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool):
            if value >= 1 and value == int(value):
                return int(value)
            if 0 < value < 1:
                return float(value)
        raise ValueError("should be a whole number from 1 up, or a share between 0 and 1")

    @model_validator(mode="after")
    def _one_length(self) -> "TrainSettings":
        for one, other in ONE_OF:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"give {one} or {other}, not both")
        if self.patience is not None and self.evaluate_every is None:
            raise ValueError("patience needs evaluate_every")
        if self.shard and (
            self.optimizer != "adamw" or self.reuse_frozen_layers or self.gradient_checkpointing == "auto"
        ):
            raise ValueError(
                "shard goes with optimizer: adamw, and no reuse_frozen_layers or gradient_checkpointing: auto"
            )
        return self

    def facts(self) -> dict[str, Any]:
        """For the record of a run. A setting that older records lack is left out at its default.

        Otherwise new seeds of an old setup would count as another setup.
        """
        newer, fields = ("reuse_frozen_layers", "optimizer", "shard"), type(self).model_fields
        at_default = {name for name in newer if getattr(self, name) == fields[name].default}
        return self.model_dump(mode="json", exclude=at_default)

    def identity(self) -> dict[str, Any]:
        """What enters a run's id: settings added later only where they differ from the default."""
        content = self.facts()
        if self.per_label is None:
            del content["per_label"]
        return content

    def total_steps(self, examples: int) -> int:
        """Optimiser steps for so many training examples (one epoch by default)."""
        if self.steps is not None:
            return self.steps
        per_epoch = -(-examples // self.batch_size)
        return max(1, round((self.epochs or 1.0) * per_epoch))
