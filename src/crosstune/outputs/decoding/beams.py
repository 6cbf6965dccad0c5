"""Beam search: of the answers that beams come to, the one with the highest score.

An answer's score is the sum of its tokens' log-probabilities, divided by its length to the power of
``length_penalty``. As transformers has it (`generate` with ``num_beams``): the best answers that have ended
are kept, as many as there are beams, and ``early_stopping`` says when the search of a text ends. A stop
string ends an answer as an end-of-text token does.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from crosstune.outputs.settings import Beams

Step = Callable[[Tensor, Tensor], Tensor]
"""Continue the rows ``[n]`` (numbers of rows of the step before; one may occur several times), each with the
token ``[n]`` written last: scores ``[n, vocabulary]`` of the next token."""


@dataclass(slots=True)
class _Search:
    """Of one text."""

    # Best first: sum of log-probabilities and tokens of open answers; score and tokens of those that ended.
    going: list[tuple[float, list[int]]]
    ended: list[tuple[float, list[int]]] = field(default_factory=list)

    def end(self, score: float, tokens: list[int], how: Beams) -> None:
        """An answer has ended."""
        if how.early_stopping is not True or len(self.ended) < how.count:
            self.ended = sorted([*self.ended, (score, tokens)], key=lambda scored: -scored[0])[: how.count]

    def goes_on(self, length: int, longest: int, how: Beams) -> bool:
        """Whether open answers of a length can still be among the best, or have to be waited for."""
        if not self.going or len(self.ended) < how.count:
            return bool(self.going)
        far = longest if how.early_stopping == "never" and how.length_penalty > 0 else length
        return how.early_stopping is not True and (
            self.going[0][0] / far**how.length_penalty > self.ended[-1][0]
        )


@torch.inference_mode()
def search(
    scores: Tensor,
    step: Step,
    longest: int,
    how: Beams,
    stops: Collection[int],
    ended: Callable[[Sequence[int]], bool] = lambda tokens: False,
) -> list[list[int]]:
    """Token ids of the best answer to each text, the ending token left out.

    Args:
        scores: ``[texts, vocabulary]`` of each answer's first token.
        step: Reads one more token of each beam.
        longest: Most tokens of an answer.
        how: The number of beams, and which answers are better.
        stops: Tokens that end an answer.
        ended: Whether an answer of token ids has ended with the last of them.
    """
    searches = [_Search([(0.0, [])]) for _ in range(len(scores))]
    some = max(2, 1 + len(stops)) * how.count  # so that enough go on whatever ends
    for length in range(1, longest + 1):
        values, tokens = _best(scores, some)
        rows: list[int] = []
        first = 0
        for one in searches:
            open_ones, one.going = one.going, []
            candidates = [
                (total + value, beam, token)
                for beam, (total, _) in enumerate(open_ones)
                for value, token in zip(values[first + beam], tokens[first + beam], strict=True)
            ]
            candidates.sort(key=lambda candidate: -candidate[0])
            for rank, (total, beam, token) in enumerate(candidates[:some]):
                if rank >= how.count and len(one.going) == how.count:
                    break
                text, over = [*open_ones[beam][1], token], token in stops
                if over or length == longest or ended(text):
                    if rank < how.count:
                        one.end(total / length**how.length_penalty, text[:-1] if over else text, how)
                elif len(one.going) < how.count:
                    one.going.append((total, text))
                    rows.append(first + beam)
            first += len(open_ones)
            if not one.goes_on(length, longest, how):
                del rows[len(rows) - len(one.going) :]
                one.going = []
        if not rows:
            break
        newest = [text[-1] for one in searches for _, text in one.going]
        scores = step(torch.tensor(rows, device=scores.device), torch.tensor(newest, device=scores.device))
    return [one.ended[0][1] for one in searches]


def _best(scores: Tensor, count: int) -> tuple[list[list[float]], list[list[int]]]:
    """Of each row, the likeliest tokens' log-probabilities and ids."""
    best = scores.topk(min(count, scores.shape[-1]))
    logprobs = best.values - torch.logsumexp(scores, -1, keepdim=True)
    return logprobs.tolist(), best.indices.tolist()
