"""How a run is evaluated."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from crosstune.config.newer import WithNewer
from crosstune.data.example import MOST_ANSWER_TOKENS, Example
from crosstune.errors import UserError

PROMPT_END = 300
"""Characters of a prompt that predictions hold by default."""
VLLM_RANK = 512
"""The highest rank of LoRA that vLLM takes."""


@dataclass(frozen=True, slots=True)
class Beams:
    """A beam search."""

    count: int  # beams a text
    length_penalty: float = 1.0  # exponent of an answer's length in tokens, the ending one included
    # True ends the search of a text when as many answers as beams have ended; False when its best open
    # answer, by its length now, is worse than all of those; "never" when it would also be worse by the
    # greatest length.
    early_stopping: bool | Literal["never"] = False


class EvaluateSettings(WithNewer):
    """Settings of evaluation, the same for every run that is compared.

    Attributes:
        limit: Test examples a language: the first so many of the task's fixed order; None for all.
        per_cluster: Test examples of one cluster at most (the questions on one passage): the first so many of
            each, before ``limit``; None for all. 24 questions on 24 of LAReQA's paragraphs are on 13 or so of
            them, and with one of each on all.
        choices: How choices are compared: "label" by the probability of the whole label, exactly;
            "label-per-token" by that divided by its length in tokens; "first-token" by the first
            token of each label alone (training then writes only that token).
        tokens_per_pass: Most tokens, padding included, that go through the model at once; fewer where a GPU's
            memory is found to take fewer. Answers being written hold what is left there, and twice as many
            on a CPU.
        max_answer_tokens: Longest free answer; None takes the task's.
        on_too_long: What becomes of a text that, with its answer, is longer than the model has positions for:
            "error"; "truncate-left" cuts the beginning of its prompt; "skip" leaves it out. None reads it as
            it is, and is an error where positions are a table that ends. They are counted in any case.
        head: Whether choices are told by a trained head; None for those of encoders alone, and tags. Without
            one, an encoder predicts the words of the choices at a mask, and a causal model the tags' names.
        pooling: Which of a text's tokens a head reads: the "first", the "last", or the "mean" of all; None
            for the first of an encoder's and the last of a causal model's.
        beams: Of a search for written answers (`crosstune.outputs.decoding.beams`); 1 for the likeliest token
            at every step.
        length_penalty: Exponent of an answer's length in the score that a search compares.
        early_stopping: When a search ends: see `Beams`.
        engine: What writes answers: crosstune itself, or "vllm" (`crosstune.outputs.decoding.vllm_engine`).
        target_language_token: Whether answers of an encoder-decoder start with its token of their language:
            None where it has such tokens; false for never; or the token that stands in for languages it has
            none for.
        prompts: What predictions hold of each prompt: its "end" (`PROMPT_END` characters, where the question
            is), the "whole" text that went in, or "none". Scores are the same.
        two_way: Layers of a causal model, from 0, in which a sentence's tokens see those behind them, in
            training and evaluation, where tags are told by a head; None for none.
        chat_template: Whether prompts, those of training too, are a user's turn in the chat template of the
            tokenizer, with the answer where its own turn starts; "auto" where there is one. A model that
            thinks first is asked not to.
        system_prompt: What the system's turn in front of it says.
        piece: Which of a word's pieces a head on words reads, a bare "▁" left out; None as of ``pooling``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    newer = (
        *("per_cluster", "on_too_long", "head", "pooling", "piece", "two_way", "target_language_token"),
        *("beams", "length_penalty", "early_stopping", "engine", "prompts", "chat_template", "system_prompt"),
    )

    limit: int | None = Field(default=None, ge=1)
    per_cluster: int | None = Field(default=None, ge=1)
    choices: Literal["label", "label-per-token", "first-token"] = "label"
    tokens_per_pass: int = Field(default=8192, ge=1)
    max_answer_tokens: int | None = Field(default=None, ge=1, le=MOST_ANSWER_TOKENS)
    on_too_long: Literal["error", "truncate-left", "skip"] | None = None
    head: bool | None = None
    pooling: Literal["first", "last", "mean"] | None = None
    piece: Literal["first", "last", "mean"] | None = None
    target_language_token: bool | str | None = None
    beams: int = Field(default=1, ge=1, le=64)
    length_penalty: float = Field(default=1.0, ge=-10.0, le=10.0)
    early_stopping: bool | Literal["never"] = False
    engine: Literal["crosstune", "vllm"] = "crosstune"
    two_way: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    prompts: Literal["end", "whole", "none"] = "end"
    chat_template: bool | Literal["auto"] = False
    system_prompt: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _of_a_search(self) -> Self:
        if self.beams == 1 and not (self.length_penalty == 1 and self.early_stopping is False):
            raise ValueError("length_penalty and early_stopping are of a search; set beams to 2 or more")
        return self

    @property
    def search(self) -> Beams | None:
        """How beams are searched; None for greedy answers."""
        return None if self.beams == 1 else Beams(self.beams, self.length_penalty, self.early_stopping)

    def chosen(self, examples: Sequence[Example]) -> list[Example]:
        """Those of a language's test examples that are tested, in their order.

        Raises:
            UserError: ``per_cluster`` is set, and an example names no cluster.
        """
        if self.per_cluster is None:
            return list(examples[: self.limit])
        seen: Counter[str] = Counter()
        kept = []
        for example in examples:
            if not example.cluster:
                raise UserError(
                    "evaluate.per_cluster is of tasks that ask several questions on one passage, and test "
                    f"example {example.id} names no passage; leave it out"
                )
            seen[example.cluster] += 1
            if seen[example.cluster] <= self.per_cluster:
                kept.append(example)
        return kept[: self.limit]

    def kept(self, prompt: str) -> str | None:
        """What predictions hold of a prompt."""
        if self.prompts == "none":
            return None
        return prompt if self.prompts == "whole" or len(prompt) <= PROMPT_END else f"…{prompt[-PROMPT_END:]}"
