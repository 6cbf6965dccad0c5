"""Rows of `gpu.py` that score and decode: what each side does, and when two answers are the same.

A decoding row is the time of its tokens alone: what a first token takes (reading the prompts, a row of its
own) is taken off. Texts are random tokens of random lengths, of the lengths that XNLI's and MGSM's prompts
have, or questions on passages as XQuAD has them. Memory is measured in the block before those that count, as
a run measures it once; ``CROSSTUNE_GPU_OFF=fitting`` leaves passes and the cache as set.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import peers
from crosstune.models.fast import graphs
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs import generation
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.decoding.ends import texts
from crosstune.outputs.decoding.vllm_engine import Engine, Weights
from crosstune.outputs.settings import EvaluateSettings
from gpu_rows import Bench, nothing
from harness import Agreement, Block, Cost, Row, Setting

# Of log-probabilities: what rounding explains.
NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}

# Batches of prompts where more are asked than are written at once.
MANY = 8
# Caches of HF generate, by what is said of them. It compiles steps over a static one by itself.
CACHES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "static": {"cache_implementation": "static", "disable_compile": True},
    "compiled": {"cache_implementation": "static"},
}
# Tokens of prompts in Gemma 3's tokenizer: sixteen quantiles of 1,000 test examples in en, de, sw and zh.
XNLI = (21, 25, 29, 32, 35, 37, 40, 43, 45, 48, 51, 54, 58, 63, 70, 83)
MGSM = (38, 45, 50, 54, 57, 62, 65, 69, 73, 77, 84, 89, 97, 105, 122, 147)
QUESTIONS = 5  # on a passage


def of_lengths(bench: Bench, lengths: Sequence[int], count: int, seed: int) -> list[list[int]]:
    """So many texts of random tokens, of these lengths in turn (with ``--length`` 512)."""
    draw, o = random.Random(seed), bench.options
    sizes = [max(2, lengths[i % len(lengths)] * o.length // 512) for i in range(count)]
    return [[draw.randrange(3, bench.lm.geometry.vocabulary) for _ in range(n)] for n in sizes]


def on_passages(bench: Bench, count: int, seed: int) -> list[list[int]]:
    """So many prompts: passages of up to ``--length`` tokens, `QUESTIONS` of a tenth as many on each."""
    draw, o = random.Random(seed), bench.options

    def text(n: int) -> list[int]:
        return [draw.randrange(3, bench.lm.geometry.vocabulary) for _ in range(n)]

    passages = [text(draw.randint(max(2, o.length // 2), o.length)) for _ in range(-(-count // QUESTIONS))]
    return [[*passages[i // QUESTIONS], *text(max(2, o.length // 10))] for i in range(count)]


def scoring_row(bench: Bench, name: str = "score", prompts: list[list[int]] | None = None) -> Row:
    """Labels of one token behind a prompt: the last row's score of four tokens is all that is asked."""
    lm, o = bench.lm, bench.options
    what = "prompts" if prompts is None else name.removeprefix("score-") + " prompts"
    prompts = bench.texts(4 * o.batch, seed=2) if prompts is None else prompts
    draw = random.Random(3)
    labels = [draw.sample(range(3, lm.geometry.vocabulary), 4) for _ in prompts]
    items = [
        ChoiceItem(prompt, tuple((i,) for i in four)) for prompt, four in zip(prompts, labels, strict=True)
    ]
    tokens = sum(map(len, prompts))
    passes = TokenLimit(max(o.batch * o.length, *map(len, prompts)), bench.device, "scoring", print)

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
        name=name,
        title=f"scoring {len(items)} {what}, {tokens:,} tokens, four labels of one token",
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
    plain = decoding_row(bench, "decode-graphs", "the same, not recorded", "dynamic")

    passes = limit(bench)
    prompts = bench.texts(bench.options.batch, seed=4)

    def theirs() -> Block:
        kept = generation.stepper
        generation.stepper = lambda lm, slots, note=None: graphs.Steps(lm, slots)
        try:
            return written(bench, prompts, passes)
        finally:
            generation.stepper = kept

    def cost(setting: Setting, folder: Path) -> Cost:
        costs = plain.cost(setting, folder)
        steps = bench.lm.steps
        recorded = steps is not None and any(steps.recorded.values())
        return replace(costs, facts=costs.facts | {"recorded": recorded})

    return replace(plain, theirs=bench.work("theirs", theirs), cost=cost)


def cache_row(bench: Bench) -> Row:
    """More prompts, with the cache that the memory takes, against one of twice what is read at once."""
    measured, as_set = limit(bench), limit(bench)
    as_set.measured = True  # nothing more to find
    prompts = bench.texts(MANY * bench.options.batch, seed=4)
    plain = decoding_row(bench, "decode-cache", "the same, cache as set", "dynamic", MANY)

    def cost(setting: Setting, folder: Path) -> Cost:
        costs = plain.cost(setting, folder)
        return replace(costs, facts=costs.facts | {"cache": measured.cache, "cache_as_set": as_set.cache})

    return replace(
        plain,
        ours=bench.work("ours", lambda: written(bench, prompts, measured)),
        theirs=bench.work("theirs", lambda: written(bench, prompts, as_set)),
        cost=cost,
    )


def limit(bench: Bench) -> TokenLimit:
    """What a study sets."""
    return TokenLimit(EvaluateSettings().tokens_per_pass, bench.device, "decoding", print)


def apart(bench: Bench, write: Callable[[int], Any]) -> Block:
    """Seconds of the tokens behind the first: of ``--new-tokens`` and one more, less those of one."""
    first = bench.timed(lambda: write(1))
    every = bench.timed(lambda: write(1 + bench.options.new_tokens))
    return Block([every.seconds[0] - first.seconds[0]], every.answers)


def written(bench: Bench, prompts: list[list[int]], passes: TokenLimit) -> Block:
    """What crosstune writes."""
    return apart(bench, lambda n: generation.generate(bench.lm, prompts, n, stop=(), passes=passes))


@torch.inference_mode()
def by_transformers(bench: Bench, prompts: list[list[int]], cache: dict[str, Any], n: int) -> list[str]:
    """What HF generate writes: ``n`` tokens behind prompts padded on the left."""
    lm, width = bench.lm, max(map(len, prompts))
    ids = torch.tensor([[lm.pad_id] * (width - len(prompt)) + prompt for prompt in prompts])
    real = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    sequences = bench.stock.generate(
        input_ids=ids.to(lm.device),
        attention_mask=real.to(lm.device),
        max_new_tokens=n,
        do_sample=False,
        **cache,
    )
    texts: list[str] = lm.tokenizer.batch_decode(sequences[:, width:], skip_special_tokens=True)
    return [text.strip() for text in texts]


def alike(setting: Setting, mine: list[str], other: list[str]) -> Agreement:
    """Whether answers are the same, or in 16 bits begin so."""
    equal = sum(a == b for a, b in zip(mine, other, strict=True))
    first = sum(a.split()[:1] == b.split()[:1] for a, b in zip(mine, other, strict=True))
    text = f"{equal} of {len(mine)} answers the same, {first} first tokens"
    if setting.torch_dtype == torch.float32:
        return Agreement(equal == len(mine), text)
    # Random weights have no favourite: in 16 bits near ties fall either way, and texts part from there.
    return Agreement(first >= 0.75 * len(mine), text + " (rounding decides near ties in 16 bits)")


def decoding_row(
    bench: Bench,
    name: str,
    peer: str,
    cache: str,
    batches: int = 1,
    times: int = 1,
    prompts: list[list[int]] | None = None,
) -> Row:
    """Greedy answers to some prompts; all of the same number of tokens, unless an end comes first.

    ``batches`` of texts, ``times`` as long as the command says, unless there are ``prompts``.
    """
    o = bench.options
    longer = replace(bench, options=replace(o, length=times * o.length))
    prompts = longer.texts(batches * o.batch, seed=4) if prompts is None else prompts
    tokens, passes = len(prompts) * o.new_tokens, limit(bench)

    def cost(setting: Setting, folder: Path) -> Cost:
        return Cost(
            bench.flop(tokens, tokens, 1), o.new_tokens * bench.weight_bytes(True), {"tokens": tokens}
        )

    return Row(
        name=name,
        title=f"{o.new_tokens} tokens behind the first of {len(prompts)} prompts of about "
        f"{statistics.mean(map(len, prompts)):.0f} tokens",
        peer=peer,
        prepare=nothing,
        ours=bench.work("ours", lambda: written(bench, prompts, passes)),
        theirs=bench.work(
            "theirs", lambda: apart(bench, partial(by_transformers, bench, prompts, CACHES[cache]))
        ),
        same=alike,
        cost=cost,
    )


def prefill_row(bench: Bench, name: str, batches: int, times: int = 1) -> Row:
    """The first token of each answer: what reading the prompts takes."""
    longer = replace(bench, options=replace(bench.options, length=times * bench.options.length))
    prompts = longer.texts(batches * bench.options.batch, seed=4)
    tokens, passes = sum(map(len, prompts)), limit(bench)
    plain = decoding_row(bench, name, "HF generate", "dynamic", prompts=prompts)

    def ours() -> Block:
        return bench.timed(lambda: generation.generate(bench.lm, prompts, 1, stop=(), passes=passes))

    return replace(
        plain,
        title=f"first tokens behind {len(prompts)} prompts, {tokens:,} tokens",
        ours=bench.work("ours", ours),
        theirs=bench.work("theirs", lambda: bench.timed(lambda: by_transformers(bench, prompts, {}, 1))),
        cost=lambda setting, folder: Cost(
            bench.flop(tokens, len(prompts), 1), bench.weight_bytes(True), {"tokens": tokens}
        ),
    )


def vllm_row(bench: Bench) -> Row:
    """Against vLLM, which has the same weights from a folder."""
    plain = decoding_row(bench, "decode-64-vllm", "vLLM", "dynamic", MANY)
    prompts = bench.texts(MANY * bench.options.batch, seed=4)

    def theirs(setting: Setting, folder: Path) -> Callable[[int], Block]:
        bench.lm.model.save_pretrained(folder)
        bench.lm.tokenizer.save_pretrained(folder)
        length = max(map(len, prompts)) + 1 + bench.options.new_tokens
        # Half of what is free, as our side needs the rest.
        engine = Engine(bench.lm, Weights(str(folder), setting.dtype), length, share=0.5)

        def write(n: int) -> list[str]:
            return texts(bench.lm, engine.write(bench.lm, prompts, n, ()), ())

        def block(size: int) -> Block:
            return apart(bench, write)

        block(0)
        return block

    return replace(plain, theirs=theirs)


def _decode(batches: int, cache: str, times: int = 1) -> Callable[[Bench], Row]:
    size = f"{8 * batches}" + ("" if times == 1 else f"-{512 * times}")
    name = f"decode-{size}" + ("" if cache == "compiled" else f"-{cache}")
    return partial(
        decoding_row, name=name, peer=f"HF generate, {cache}", cache=cache, batches=batches, times=times
    )


def _scores(name: str, prompts: Callable[[Bench], list[list[int]]]) -> Callable[[Bench], Row]:
    return lambda bench: scoring_row(bench, name, prompts(bench))


# Most telling first. Names are of batches of 8 and ``--length`` 512.
EVALUATION: dict[str, Callable[[Bench], Row]] = {
    "decode-8": _decode(1, "compiled"),
    "decode-64": _decode(MANY, "compiled"),
    "score-passages": _scores("score-passages", lambda bench: on_passages(bench, 8 * bench.options.batch, 2)),
    "score": scoring_row,
    "prefill-64": partial(prefill_row, name="prefill-64", batches=MANY),
    "decode-8-static": _decode(1, "static"),
    "decode-64-dynamic": _decode(MANY, "dynamic"),
    **({"decode-64-vllm": vllm_row} if find_spec("vllm") else {}),
    "decode-256-dynamic": _decode(4 * MANY, "dynamic"),
    "decode-8-2048": _decode(1, "compiled", 4),
    "prefill-8-2048": partial(prefill_row, name="prefill-8-2048", batches=1, times=4),
    "score-xnli": _scores("score-xnli", lambda bench: of_lengths(bench, XNLI, 32 * bench.options.batch, 2)),
    "decode-mgsm": lambda bench: decoding_row(
        bench,
        "decode-mgsm",
        "HF generate, compiled",
        "compiled",
        prompts=of_lengths(bench, MGSM, MANY * bench.options.batch, 4),
    ),
    "decode-64-2048-static": _decode(MANY, "static", 4),
    "decode-graphs": graph_row,
    "decode-cache": cache_row,
}
