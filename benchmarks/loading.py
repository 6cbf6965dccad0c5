"""Loading a model and its tokenizer, against transformers' own from_pretrained."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstune.models.loading.load import load
from harness import Agreement, Block, Cost, Row, Setting, Work
from machine import now

TEXT = "Gutenberg printed books in Mainz."


def prepare(setting: Setting, folder: Path) -> None:
    """Write the model as a folder, the form that both sides read."""
    lm = load(setting.model, device=setting.device, dtype=setting.dtype)
    lm.model.save_pretrained(folder / "model")
    lm.tokenizer.save_pretrained(folder / "model")


def read(model: Any, tokenizer: Any) -> list[float]:
    """Scores behind a sentence: what was loaded computes the same."""
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]], device=model.device)
    with torch.no_grad():
        scores: list[float] = model(ids).logits[0, -1].float().tolist()
    return scores


def ours(setting: Setting, folder: Path) -> Work:
    def work(size: int) -> Block:
        began = now()
        lm = load(str(folder / "model"), device=setting.device, dtype=setting.dtype)
        return Block([now() - began], read(lm.model, lm.tokenizer))

    return work


def theirs(setting: Setting, folder: Path) -> Work:
    def work(size: int) -> Block:
        began = now()
        model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=setting.torch_dtype)
        model.to(setting.torch_device)
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        return Block([now() - began], read(model, tokenizer))

    return work


def same(setting: Setting, mine: list[float], other: list[float]) -> Agreement:
    apart = max(abs(a - b) for a, b in zip(mine, other, strict=True))
    return Agreement(apart == 0, f"scores behind a sentence at most {apart:g} apart")


def cost(setting: Setting, folder: Path) -> Cost:
    """Each byte of the weights is read from the file and written to memory once."""
    size = sum(file.stat().st_size for file in (folder / "model").glob("*.safetensors"))
    return Cost(nbytes=2.0 * size, facts={"weights_bytes": size})


ROWS = [
    Row(
        name="load",
        title="loading model and tokenizer, files in the system's cache",
        peer="transformers",
        prepare=prepare,
        ours=ours,
        theirs=theirs,
        same=same,
        cost=cost,
        rounds=5,
    )
]
