"""Retrieval without training: which text of another language is nearest to a text, by pooled states.

Every text's vector is the mean of the states that `EvaluateSettings.pooling` names (all tokens by default,
the tokenizer's own among them) behind a chosen layer, and of the other side's texts the one with the largest
cosine is the answer. A text is searched for among those of its own language's examples; of texts that occur
twice the first is found, so that one of the two is an error, as in XTREME.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import normalize

from crosstune.data.example import Example
from crosstune.errors import UserError
from crosstune.outputs.base import Answers, Output
from crosstune.outputs.heads.reading import answered, pool
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Rows
from crosstune.tasks.base import Task

AT_ONCE = 1024
"""Questions that are compared with all texts in one product."""


class Retrieval(Output):
    """The id of the example whose other side is nearest."""

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """None: nothing is trained."""
        raise UserError("retrieval trains nothing")

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """Ids, and the cosine of each with its question."""
        layer = task.layer
        if layer is not None and not 0 < layer <= self.lm.geometry.layers:
            raise UserError(f"task {task.name}: {self.lm.name} has the layers 1 to {self.lm.geometry.layers}")
        sides = [[example.prompt for example in examples], [example.answers[0] for example in examples]]
        questions, texts = (self._vectors(side, layer, stream) for side in sides)
        by_language: dict[str, list[int]] = {}
        for i, example in enumerate(examples):
            by_language.setdefault(example.language, []).append(i)
        told, cosines = [""] * len(examples), [0.0] * len(examples)
        for members in by_language.values():
            for start in range(0, len(members), AT_ONCE):
                some = members[start : start + AT_ONCE]
                near = (questions[some] @ texts[members].T).max(1)
                for i, cosine, at in zip(some, near.values.tolist(), near.indices.tolist(), strict=True):
                    told[i], cosines[i] = examples[members[at]].id, cosine
        if (tell := stream.get("tell")) is not None:
            tell(len(examples))
        return Answers(told, {"cosine": cosines})

    def _vectors(self, side: Sequence[str], layer: int | None, stream: Stream) -> Tensor:
        """Unit vectors ``[texts, hidden]`` in fp32 on the CPU."""
        texts = self.lm.tokens.prompts(side)
        places = [[pool(self.lm, len(ids), self.settings.pooling or "mean")] for ids in texts]
        vectors = torch.empty(len(texts), self.lm.geometry.hidden)

        def keep(states: Tensor, numbers: Sequence[int]) -> list[None]:
            vectors[list(numbers)] = states.float().cpu()
            return [None] * len(numbers)

        # The journal keeps answers, and these are none yet; progress is of questions.
        progress = Stream(passes=stream.get("passes"))
        answered(self.lm, texts, places, keep, self.settings, layer=layer, **progress)
        return normalize(vectors, dim=1)
