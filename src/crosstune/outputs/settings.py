"""How a run is evaluated."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EvaluateSettings(BaseModel):
    """Settings of evaluation, the same for every run that is compared.

    Attributes:
        limit: Test examples a language: the first so many of the task's fixed order; None for all.
        choices: How choices are compared: "label" by the probability of the whole label, exactly;
            "label-per-token" by that divided by its length in tokens; "first-token" by the first
            token of each label alone (training then writes only that token).
        tokens_per_pass: Most tokens, padding included, that go through the model at once; fewer where a GPU's
            memory is found to take fewer. Answers being written hold what is left there, and twice as many
            on a CPU.
        max_answer_tokens: Longest free answer; None takes the task's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int | None = Field(default=None, ge=1)
    choices: Literal["label", "label-per-token", "first-token"] = "label"
    tokens_per_pass: int = Field(default=8192, ge=1)
    max_answer_tokens: int | None = Field(default=None, ge=1)
