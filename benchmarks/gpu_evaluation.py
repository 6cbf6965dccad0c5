"""Rows of `gpu.py` that score and decode: what each side does, and when two answers are the same.

Memory is measured in the block before those that count, as a run measures it once;
``CROSSTUNE_GPU_OFF=fitting`` leaves passes and the cache as set.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import peers
from crosstune.models.fast import graphs
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs import generation
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.settings import EvaluateSettings
from gpu_rows import Bench, nothing
from harness import Agreement, Block, Cost, Row, Setting

# Of log-probabilities: what rounding explains.
NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}

# Batches of prompts where more are asked than are written at once.
MANY = 8


def scoring_row(bench: Bench) -> Row:
    """Labels of one token behind a prompt: the last row's score of four tokens is all that is asked."""
    lm, o = bench.lm, bench.options
    prompts = bench.texts(4 * o.batch, seed=2)
    draw = random.Random(3)
    labels = [draw.sample(range(3, lm.geometry.vocabulary), 4) for _ in prompts]
    items = [
        ChoiceItem(prompt, tuple((i,) for i in four)) for prompt, four in zip(prompts, labels, strict=True)
    ]
    tokens = sum(map(len, prompts))
    passes = TokenLimit(o.batch * o.length, bench.device, "scoring", print)

    def ours() -> Block:
        return bench.timed(lambda: score_choices(lm, items, EvaluateSettings(), passes=passes))

    @torch.inference_mode()
    def score() -> list[list[float]]:
        scores_of: dict[int, list[float]] = {}
        longest_first = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        for start in range(0, len(prompts), o.batch):
            places = longest_first[start : start + o.batch]
            fed = peers.pad([peer_row(prompts[i]) for i in places], lm.pad_id)
            fed = {key: x.to(lm.device) for key, x in fed.items() if key != "labels"}
            logits = bench.stock(**fed).logits
            for b, i in enumerate(places):
                scores_of[i] = torch.log_softmax(
                    logits[b, len(prompts[i]) - 1, labels[i]].double(), 0
                ).tolist()
        return [scores_of[i] for i in range(len(prompts))]

    return Row(
        name="score",
        title=f"scoring {len(items)} prompts of up to {o.length} tokens, four labels of one token",
        peer="transformers forward",
        prepare=nothing,
        ours=bench.work("ours", ours),
        theirs=bench.work("theirs", lambda: bench.timed(score)),
        same=close,
        cost=lambda setting, folder: Cost(
            bench.flop(tokens, 0, 1), bench.weight_bytes(False), {"tokens": tokens}
        ),
    )


def peer_row(ids: list[int]) -> dict[str, list[int]]:
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": ids}


def close(setting: Setting, mine: list[list[float]], other: list[list[float]]) -> Agreement:
    """Log-probabilities, to rounding."""
    allowed = NEAR[setting.torch_dtype]
    apart = float((torch.tensor(mine) - torch.tensor(other)).abs().max())
    return Agreement(apart <= allowed, f"log-probabilities at most {apart:.2g} apart ({allowed:g} allowed)")


def graph_row(bench: Bench) -> Row:
    """Decoding as crosstune does it, recorded steps on a GPU, against a step at a time."""
    plain = decoding_row(bench, "decode-graphs", "the same, not recorded", {})

    passes = whole(bench)

    def theirs() -> Block:
        kept = generation.stepper
        generation.stepper = lambda lm, slots, note=None: lambda ids: lm.step(ids, slots)
        try:
            return answers(bench, passes)
        finally:
            generation.stepper = kept

    def cost(setting: Setting, folder: Path) -> Cost:
        costs = plain.cost(setting, folder)
        recorded = bench.device.type == "cuda" and bench.lm.model not in graphs._refused
        return replace(costs, facts=costs.facts | {"recorded": recorded})

    return replace(plain, theirs=bench.work("theirs", theirs), cost=cost)


def cache_row(bench: Bench) -> Row:
    """More prompts, with the cache that the memory takes, against one of twice what is read at once."""
    tokens = EvaluateSettings().tokens_per_pass
    measured, as_set = (TokenLimit(tokens, bench.device, "decoding", print) for _ in range(2))
    as_set.measured = True  # nothing more to find
    plain = decoding_row(bench, "decode-cache", "the same, cache as set", {}, MANY)

    def cost(setting: Setting, folder: Path) -> Cost:
        costs = plain.cost(setting, folder)
        return replace(costs, facts=costs.facts | {"cache": measured.cache, "cache_as_set": as_set.cache})

    return replace(
        plain,
        ours=bench.work("ours", lambda: answers(bench, measured, MANY)),
        theirs=bench.work("theirs", lambda: answers(bench, as_set, MANY)),
        cost=cost,
    )


def whole(bench: Bench) -> TokenLimit:
    """TokenLimit that take a batch at once."""
    o = bench.options
    return TokenLimit(o.batch * (o.length + o.new_tokens), bench.device, "decoding", print)


def answers(bench: Bench, passes: TokenLimit, batches: int = 1) -> Block:
    """What crosstune writes."""
    o = bench.options
    prompts = bench.texts(batches * o.batch, seed=4)
    return bench.timed(lambda: generation.generate(bench.lm, prompts, o.new_tokens, stop=(), passes=passes))


def decoding_row(bench: Bench, name: str, peer: str, cache: dict[str, Any], batches: int = 1) -> Row:
    """Greedy answers to some prompts; all of the same number of tokens, unless an end comes first."""
    lm, o = bench.lm, bench.options
    prompts = bench.texts(batches * o.batch, seed=4)
    passes = whole(bench)
    steps = o.new_tokens

    @torch.inference_mode()
    def write() -> list[str]:
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), lm.pad_id)
        real = torch.zeros_like(ids)
        for b, prompt in enumerate(prompts):
            ids[b, width - len(prompt) :] = torch.tensor(prompt)
            real[b, width - len(prompt) :] = 1
        sequences = bench.stock.generate(
            input_ids=ids.to(lm.device),
            attention_mask=real.to(lm.device),
            max_new_tokens=steps,
            do_sample=False,
            **cache,
        )
        decoded: list[str] = lm.tokenizer.batch_decode(sequences[:, width:], skip_special_tokens=True)
        return [text.strip() for text in decoded]

    def same(setting: Setting, mine: list[str], other: list[str]) -> Agreement:
        equal = sum(a == b for a, b in zip(mine, other, strict=True))
        first = sum(a.split()[:1] == b.split()[:1] for a, b in zip(mine, other, strict=True))
        text = f"{equal} of {len(mine)} answers the same, {first} first tokens"
        if setting.torch_dtype == torch.float32:
            return Agreement(equal == len(mine), text)
        # Random weights have no favourite: in 16 bits near ties fall either way, and texts part from there.
        return Agreement(first >= 0.75 * len(mine), text + " (rounding decides near ties in 16 bits)")

    tokens = len(prompts) * steps

    def cost(setting: Setting, folder: Path) -> Cost:
        flop = bench.flop(sum(map(len, prompts)) + tokens, tokens, 1)
        return Cost(flop, steps * bench.weight_bytes(True), {"tokens": tokens})

    return Row(
        name=name,
        title=f"{steps} tokens behind each of {len(prompts)} prompts of up to {o.length} tokens",
        peer=peer,
        prepare=nothing,
        ours=bench.work("ours", lambda: answers(bench, passes)),
        theirs=bench.work("theirs", lambda: bench.timed(write)),
        same=same,
        cost=cost,
    )
