"""Retrieval: which texts are nearest to a question, by pooled states.

Every text's vector is the mean of the states that `EvaluateSettings.pooling` names (all tokens by default,
the tokenizer's own among them) behind a chosen layer; those with the largest cosines are the answer, of
equals the first. The search is exact, in blocks on the model's device. A task says which texts are searched
(`Task.searches`): those of a language's own examples, or of all languages at once. Parts of a method that are
one language's are active for the texts in that language.

Trained, the states of the last layer are what the loss sees (`crosstune.training.pairs`).
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import normalize

from crosstune.data.example import Candidate, Example
from crosstune.errors import UserError
from crosstune.outputs.base import Answers, Output
from crosstune.outputs.heads.reading import answered, pool
from crosstune.outputs.journal import Stream
from crosstune.outputs.rows import Paired, Rows, TrainingRow
from crosstune.tasks.base import Task

QUESTIONS, TEXTS = 1024, 65_536
"""How many are compared in one product."""


class Retrieval(Output):
    """The ids of the nearest texts, parted by spaces, and the cosine of the first."""

    cuts = True

    def rows(self, examples: Sequence[Example], loss: str = "answer") -> Rows:
        """Questions, each with the text that answers it."""

        def tokenise(drawn: Sequence[Example]) -> list[TrainingRow]:
            sides = [[example.prompt for example in drawn], [example.answers[0] for example in drawn]]
            return [
                TrainingRow(
                    tuple(question),
                    labels=((self._places(question), 0),),
                    pair=Paired(tuple(text), self._places(text), loss == "symmetric"),
                )
                for question, text in zip(*map(self._read, sides), strict=True)
            ]

        return Rows(examples, tokenise)

    def answers(self, task: Task, examples: Sequence[Example], **stream: Unpack[Stream]) -> Answers:
        """Ids, and the cosine of the first with its question."""
        layer = task.layer
        if layer is not None and not 0 < layer <= self.lm.geometry.layers:
            raise UserError(f"task {task.name}: {self.lm.name} has the layers 1 to {self.lm.geometry.layers}")
        searches = task.searches(examples)
        questions = self._vectors([q for search in searches for q in search.questions], layer, stream)
        texts = self._vectors([text for search in searches for text in search.texts], layer, stream)
        ids, cosines = [""] * len(examples), [0.0] * len(examples)
        first, start = 0, 0
        for search in searches:
            queries = questions[first : (first := first + len(search.questions))]
            candidates = texts[start : (start := start + len(search.texts))]
            values, places = nearest(queries, candidates, task.depth, self.lm.device)
            for i, near, value in zip(search.numbers, places.tolist(), values[:, 0].tolist(), strict=True):
                ids[i], cosines[i] = " ".join(search.texts[place].id for place in near), value
        if (tell := stream.get("tell")) is not None:
            tell(len(examples))
        return Answers(ids, {"cosine": cosines})

    def _vectors(self, texts: Sequence[Candidate], layer: int | None, stream: Stream) -> Tensor:
        """Unit vectors ``[texts, hidden]`` in fp32 on the CPU."""
        vectors = torch.empty(len(texts), self.lm.geometry.hidden)
        for languages in self.lm.adaptation.groups(dict.fromkeys(text.language for text in texts)):
            chosen = [i for i, text in enumerate(texts) if text.language in languages]
            with self.lm.adaptation.for_language(languages[0]):
                # A text that is there twice is read once.
                unique = list(dict.fromkeys(texts[i].text for i in chosen))
                read = dict(zip(unique, self._pooled(unique, layer, stream), strict=True))
            vectors[chosen] = torch.stack([read[texts[i].text] for i in chosen])
        return normalize(vectors, dim=1)

    def _pooled(self, texts: Sequence[str], layer: int | None, stream: Stream) -> Tensor:
        pooled = torch.empty(len(texts), self.lm.geometry.hidden)
        ids = self._read(texts)

        def keep(states: Tensor, numbers: Sequence[int]) -> list[None]:
            pooled[list(numbers)] = states.float().cpu()
            return [None] * len(numbers)

        # The journal keeps answers, and these are none yet; progress is of questions.
        progress = Stream(passes=stream.get("passes"))
        places = [[self._places(text)] for text in ids]
        answered(self.lm, ids, places, keep, self.settings, layer=layer, **progress)
        return pooled

    def _read(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids; of a text that is longer than the model has positions for, the first and the last."""
        ids = self.lm.tokens.prompts(texts)
        room = self.lm.room
        return [text if room is None or len(text) <= room else [*text[: room - 1], text[-1]] for text in ids]

    def _places(self, ids: Sequence[int]) -> tuple[int, ...]:
        return pool(self.lm, len(ids), self.settings.pooling or "mean")


def nearest(questions: Tensor, texts: Tensor, depth: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and places of the nearest of unit vectors ``[texts, hidden]``, each ``[questions, depth]``.

    ``questions`` are unit vectors ``[questions, hidden]``; of fewer texts than ``depth`` all are found.
    """
    blocks = []
    for block in questions.split(QUESTIONS):
        queries = block.to(device)
        values = torch.empty(len(queries), 0, device=device)
        places = torch.empty(len(queries), 0, dtype=torch.long, device=device)
        for start in range(0, len(texts), TEXTS):
            scores = queries @ texts[start : start + TEXTS].to(device).T
            # `max` finds the first of equals, `topk` any.
            best = scores.max(1, keepdim=True) if depth == 1 else scores.topk(min(depth, scores.shape[1]))
            order = best.indices.argsort(1)
            values = torch.cat([values, best.values.gather(1, order)], 1)
            places = torch.cat([places, best.indices.gather(1, order) + start], 1)
            values, order = values.sort(dim=1, descending=True, stable=True)
            values, places = values[:, :depth], places.gather(1, order)[:, :depth]
        blocks.append((values.cpu(), places.cpu()))
    return torch.cat([values for values, _ in blocks]), torch.cat([places for _, places in blocks])
