"""Beam search: the answer with the highest mean log-probability a token among those that beams come to.

As transformers has it with its defaults (length penalty 1, ``early_stopping`` false): the best ``beams``
answers that have ended are kept, and the search of a source ends when its best open one, by its length now,
is worse than all of them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from crosstune.models.attention.choose import Source
from crosstune.models.encoder_decoder import EncoderDecoder

LOWEST = -1e9
Scored = tuple[float, list[int]]
"""Mean log-probability a token, and an answer that has ended."""


@torch.inference_mode()
def beam_search(
    lm: EncoderDecoder,
    sources: Sequence[Sequence[int]],
    starts: Sequence[Sequence[int]],
    max_tokens: int,
    beams: int,
) -> list[list[int]]:
    """Token ids of each answer, the ending token left out; arguments as of `writing.greedy`."""
    count, stops = len(sources), lm.stop_ids
    encoded, cache = lm.encode(Source.of(sources, lm.pad_id, lm.device)), lm.new_cache()
    ids = torch.tensor([list(start) for start in starts], device=lm.device)
    states = lm.decode(ids, encoded, cache)[:, -1]
    rows = torch.arange(count, device=lm.device).repeat_interleave(beams)
    cache.batch_select_indices(rows)
    states, encoded = states[rows], encoded.take(rows)
    # All beams of a source start alike: only the first counts.
    running = torch.full((count, beams), LOWEST, device=lm.device)
    running[:, 0] = 0.0
    texts: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in range(count)]
    ended: list[list[Scored]] = [[] for _ in range(count)]
    live = [True] * count
    for length in range(1, max_tokens + 1):
        scores = _logprobs(lm, states)
        words = scores.shape[-1]
        total = (scores.view(count, beams, words) + running[:, :, None]).flatten(1)
        found = total.topk(max(2, 1 + len(stops)) * beams)
        order: list[int] = []
        for i, (values, places) in enumerate(zip(found.values.tolist(), found.indices.tolist(), strict=True)):
            going: list[tuple[float, int, int]] = []
            for rank, (value, place) in enumerate(zip(values, places, strict=True)):
                beam, token = divmod(place, words)
                if token not in stops and length < max_tokens:
                    going.append((value, beam, token))
                elif rank < beams and live[i]:
                    text = texts[i][beam] + ([] if token in stops else [token])
                    ended[i].append((value / length, text))
            ended[i] = sorted(ended[i], key=lambda scored: -scored[0])[:beams]
            if length == max_tokens:
                continue
            going = going[:beams]
            texts[i] = [[*texts[i][beam], token] for _, beam, token in going]
            running[i] = torch.tensor([value for value, _, _ in going])
            order += [i * beams + beam for _, beam, _ in going]
            better = len(ended[i]) < beams or going[0][0] / length > ended[i][-1][0]
            live[i] = live[i] and better
        if length == max_tokens or not any(live):
            break
        cache.batch_select_indices(torch.tensor(order, device=lm.device))
        newest = torch.tensor([[text[-1]] for some in texts for text in some], device=lm.device)
        states = lm.decode(newest, encoded, cache)[:, -1]
    return [answers[0][1] for answers in ended]


def _logprobs(lm: EncoderDecoder, states: Tensor) -> Tensor:
    scores = torch.log_softmax(lm.logits(states), -1)
    if lm.never:
        scores[:, list(lm.never)] = -torch.inf
    return scores
