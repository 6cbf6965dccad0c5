"""Free answers: batched greedy decoding with a cache; finished rows leave the batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from crosstune.evaluation.batching import in_batches
from crosstune.evaluation.journal import Journal
from crosstune.models.language_model import LanguageModel
from crosstune.models.memory import Passes

# Cutting the cache copies it: worth it once this share of the rows has finished.
DROP_SHARE = 0.25


def generate(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    stop: Sequence[str] = ("\n",),
    tokens_per_pass: int = 8192,
    tell: Callable[[int], None] | None = None,
    passes: Passes | None = None,
    journal: Journal[str] | None = None,
) -> list[str]:
    """Greedy answers, up to a stop string, an end-of-text token or ``max_tokens``.

    Args:
        lm: The model, with whatever a method left on it.
        prompts: Token ids of each prompt.
        max_tokens: Longest answer.
        stop: Strings that end an answer; they are cut off with all behind them.
        tokens_per_pass: Most tokens of cache and prompt in a batch, padding included.
        tell: Called with the number of answers done since the last call.
        passes: Says how many tokens go at once instead, and is lowered when memory runs out.
        journal: Keeps what is done, and knows what was done before.

    Returns:
        One string a prompt, without surrounding white space.

    Raises:
        UserError: One prompt is more than memory holds.
    """
    passes = Passes(tokens_per_pass, lm.device) if passes is None else passes

    def answer(batch: list[int]) -> list[str]:
        made = _generate_batch(lm, [prompts[i] for i in batch], max_tokens, stop)
        passes.tokens += sum(len(prompts[i]) + len(ids) for i, ids in zip(batch, made, strict=True))
        return [_cut(lm.tokenizer.decode(ids, skip_special_tokens=True), stop).strip() for ids in made]

    return in_batches([len(p) + max_tokens for p in prompts], answer, passes, tell, journal)


def _cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string, an opening line break skipped."""
    text = text.lstrip()
    ends = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(ends)] if ends else text


@torch.inference_mode()
def _generate_batch(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], max_tokens: int, stop: Sequence[str]
) -> list[list[int]]:
    """Token ids of each answer, the ending token left out."""
    length = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), length), lm.pad_id)
    real = torch.zeros((len(prompts), length), dtype=torch.bool)
    for b, prompt in enumerate(prompts):
        ids[b, length - len(prompt) :] = torch.tensor(prompt)
        real[b, length - len(prompt) :] = True
    hidden, state = lm.prefill(ids.to(lm.device), real.to(lm.device))
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which answer each row of the batch is writing
    live = [True] * len(rows)
    for written in range(max_tokens):
        chosen: Tensor = lm.logits(hidden).argmax(-1)
        for i, token in enumerate(chosen.tolist()):
            if not live[i]:
                continue
            if token in lm.stop_ids:
                live[i] = False
                continue
            answers[rows[i]].append(token)
            live[i] = not _stopped(lm, answers[rows[i]], stop)
        if not any(live) or written + 1 == max_tokens:
            break
        if live.count(False) >= max(1, DROP_SHARE * len(live)):
            kept = [i for i, on in enumerate(live) if on]
            index = torch.tensor(kept, device=chosen.device)
            state.keep(index)
            chosen, rows, live = chosen[index], [rows[i] for i in kept], [True] * len(kept)
        hidden = lm.step(chosen, state)
    return answers


def _stopped(lm: LanguageModel, ids: list[int], stop: Sequence[str]) -> bool:
    """Whether a stop string has been written (after something else than white space)."""
    text = lm.tokenizer.decode(ids, skip_special_tokens=True).lstrip()
    return any(s in text for s in stop)
