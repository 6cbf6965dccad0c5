"""vLLM as the engine of written answers (``evaluate.engine: vllm``), an optional library for GPUs.

It runs the model as it is (`none`, `few-shot`), with the weights that were trained (`full`, as a checkpoint
in a temporary folder), with LoRA's matrices beside its own, and with a soft prompt as embeddings in front of
each prompt's. Prompts are the same token ids, answers greedy, and cut as ours are. The answers to some
prompts, spread over all, are also written by crosstune, and how many agree is in run.json (``cost.engine``).

Written from vLLM's documentation (0.11: `LLM`, `SamplingParams`, `LoRARequest`, prompt embeddings). It has
not been run with vLLM itself: tests have a stand-in of that interface.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from crosstune.errors import UserError, first_line
from crosstune.models.language_model import LanguageModel
from crosstune.models.tensor_file import write_tensors
from crosstune.models.tokens import OPEN
from crosstune.outputs.decoding.ends import cut

# Prompts that crosstune answers too.
COMPARED = 32
# Of the memory that is free; the model itself stays loaded beside the engine.
SHARE = 0.9
# Ranks that vLLM sets memory aside for.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def answers(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    stop: Sequence[str],
    ours: Callable[[Sequence[Sequence[int]]], list[str]],
) -> tuple[list[str], dict[str, Any]]:
    """Answers to prompts of token ids, and what is known of their agreement with ``ours``.

    Raises:
        UserError: vLLM cannot be imported, or does not take the model.
    """
    with tempfile.TemporaryDirectory(prefix="crosstune-vllm-") as folder:
        try:
            write = _engine(lm, Path(folder), max(map(len, prompts)) + max_tokens, max_tokens)
            texts = _cut(write, prompts, stop)
        except Exception as error:  # of whatever class: vLLM's own
            raise UserError(f"evaluate.engine: vllm: {first_line(error)}; take engine out") from error
    some = range(0, len(prompts), max(1, len(prompts) // COMPARED))[:COMPARED]
    same = sum(texts[i] == text for i, text in zip(some, ours([prompts[i] for i in some]), strict=True))
    return texts, {"name": "vllm", "version": _version(), "compared": len(some), "same": same}


def _version() -> str:
    import vllm

    return str(vllm.__version__)


def _cut(
    write: Callable[[Sequence[Sequence[int]], Sequence[str]], list[str]],
    prompts: Sequence[Sequence[int]],
    stop: Sequence[str],
) -> list[str]:
    """Answers as ours are cut: not in front of all else or in a thought, where vLLM stops."""
    texts = write(prompts, stop)
    early = [i for i, text in enumerate(texts) if _stopped_early(text, stop)] if stop else []
    for i, text in zip(early, write([prompts[i] for i in early], ()) if early else (), strict=True):
        texts[i] = text
    return [cut(text, stop).strip() for text in texts]


def _stopped_early(text: str, stop: Sequence[str]) -> bool:
    return text.lstrip().startswith(OPEN) or not cut(text, stop).strip()


def _engine(
    lm: LanguageModel, folder: Path, longest: int, max_tokens: int
) -> Callable[[Sequence[Sequence[int]], Sequence[str]], list[str]]:
    """An engine with the model and what a method left on it: texts behind prompts, up to stop strings."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    methods = {part.name for part in lm.adaptation.parts}
    options: dict[str, Any] = {"model": lm.model.config._name_or_path, "dtype": str(lm.dtype).split(".")[-1]}
    request = None
    if "full" in methods:
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        options["model"] = str(folder)
    elif (revision := getattr(lm.model.config, "_commit_hash", None)) is not None:
        options["revision"] = revision
    if "lora" in methods:
        rank = _write_lora(lm, folder)
        options |= {"enable_lora": True, "max_lora_rank": next(r for r in RANKS if r >= rank)}
        request = LoRARequest("crosstune", 1, str(folder))
    if lm.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(lm.device)
        options["gpu_memory_utilization"] = round(SHARE * free / total, 2)
    soft_prompt = lm.adaptation.soft_prompt
    engine = LLM(
        **options, max_model_len=longest + lm.adaptation.front, enable_prompt_embeds=soft_prompt is not None
    )

    def prompt_of(ids: Sequence[int]) -> dict[str, Any]:
        if soft_prompt is None:
            return {"prompt_token_ids": list(ids)}
        with torch.inference_mode():
            embeds = lm.embed(torch.tensor(list(ids), device=lm.device))
            return {"prompt_embeds": torch.cat([soft_prompt.to(embeds.dtype), embeds]).cpu()}

    def write(prompts: Sequence[Sequence[int]], stop: Sequence[str]) -> list[str]:
        how = SamplingParams(
            temperature=0.0, max_tokens=max_tokens, stop=list(stop), stop_token_ids=sorted(lm.stop_ids)
        )
        done = engine.generate([prompt_of(ids) for ids in prompts], how, lora_request=request, use_tqdm=False)
        return [one.outputs[0].text for one in done]

    return write


def _write_lora(lm: LanguageModel, folder: Path) -> int:
    """Write LoRA's matrices as PEFT does, their factor in the second one; their rank."""
    tensors: dict[str, torch.Tensor] = {}
    rank = 0
    for name, module in lm.model.named_modules():
        for adapter in getattr(module, "scaling", {}) if hasattr(module, "lora_A") else ():
            first, second = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            rank = max(rank, len(first))
            tensors[f"base_model.model.{name}.lora_A.weight"] = first.detach().contiguous().cpu()
            scaled = (second * module.scaling[adapter]).detach()
            tensors[f"base_model.model.{name}.lora_B.weight"] = scaled.contiguous().cpu()
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "bias": "none",
    }
    config["target_modules"] = sorted({name.split(".")[-3] for name in tensors})
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_tensors(tensors, folder / "adapter_model.safetensors")
    return rank
