"""vLLM as the engine of written answers (``evaluate.engine: vllm``), an optional library.

It runs the model as it is (`none`, `few-shot`), with the weights that were trained (`full`, as a checkpoint
in a temporary folder), with LoRA's matrices beside its own, and with a soft prompt as embeddings in front of
each prompt's. Prompts are the same token ids, and its tokens, chosen greedily, become text as ours do. The
answers to some prompts, spread over all, are also written by crosstune, and how many agree is in run.json
(``cost.engine``).

The engine runs in processes of its own. It is kept on the model (`LanguageModel.engine`) for all languages,
and for later runs that need the same weights, until training or scoring need its memory.

Tested with vLLM 0.32.0 on a CPU (`tests/outputs/test_vllm_engine.py`). On a GPU it has not been run.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crosstune.errors import UserError, first_line
from crosstune.models.attention.cache import row_bytes
from crosstune.models.language_model import LanguageModel
from crosstune.models.tensor_file import write_tensors
from crosstune.models.tokens import OPEN
from crosstune.outputs.decoding.ends import texts
from crosstune.outputs.settings import VLLM_RANK

# Prompts that crosstune answers too.
COMPARED = 32
# Of a GPU's memory that is free; the model itself stays loaded beside the engine.
SHARE = 0.9
# On a CPU: answers written at once, and tokens in the cache (crosstune's own holds as many), in blocks.
AT_ONCE, CPU_CACHE, BLOCK = 64, 16_384, 128
# Ends an engine whose owner ended or was killed, which it would outlive: the owner holds this one's input.
GUARD = """cat > /dev/null
for process; do grep -Eq 'VLLM|spawn_main' /proc/$process/cmdline 2> /dev/null && kill -9 $process; done"""
# Ranks that vLLM sets memory aside for.
RANKS = (8, 16, 32, 64, 128, 256, 320, VLLM_RANK)
# Longest text that an engine is ready for at least, so that the next task finds it long enough.
READY_FOR = 2048


def check(lm: LanguageModel) -> None:
    """Refuse a model that the engine would load otherwise than crosstune has.

    Raises:
        UserError: It is quantized, or spread over several GPUs.
    """
    if lm.quantized:
        raise UserError("evaluate.engine: vllm would load the model unquantized; take engine or quantize out")
    if len({parameter.device for parameter in lm.model.parameters()}) > 1:
        raise UserError("evaluate.engine: vllm runs on one GPU here; take engine or device_map out")


def free(lm: LanguageModel) -> None:
    """End what is kept for writing, vLLM or recorded steps: its memory is needed."""
    if lm.engine is not None:
        lm.engine.close()
    lm.steps = lm.engine = None


def answers(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    stop: Sequence[str],
    ours: Callable[[Sequence[Sequence[int]]], list[str]],
) -> tuple[list[list[int]], dict[str, Any]]:
    """Token ids of the answers to prompts of token ids, and what is known of their agreement with ``ours``.

    Raises:
        UserError: A prompt is empty; vLLM cannot be imported, or does not take the model.
    """
    check(lm)
    if not all(prompts):
        raise UserError(
            "an empty prompt, and the model's tokenizer puts nothing in front: nothing to go on from"
        )
    try:
        engine = _engine(lm, max(map(len, prompts)) + max_tokens + lm.adaptation.front)
        written = _whole(lm, lambda some, stop: engine.write(lm, some, max_tokens, stop), prompts, stop)
    except BaseException as error:
        free(lm)
        if not isinstance(error, Exception):
            raise
        raise UserError(f"evaluate.engine: vllm: {_reason(error)}; take engine out") from error
    some = range(0, len(prompts), max(1, len(prompts) // COMPARED))[:COMPARED]
    theirs = texts(lm, [written[i] for i in some], stop)
    same = sum(map(str.__eq__, theirs, ours([prompts[i] for i in some])))
    return written, {"name": "vllm", "version": engine.version, "compared": len(some), "same": same}


def _reason(error: Exception) -> str:
    """What an error says, in one line: pydantic's first line only counts its errors."""
    details = getattr(error, "errors", None)
    line = str(details()[0].get("msg", "")) if callable(details) and details() else ""
    return line.splitlines()[0] if line else first_line(error)


def _whole(
    lm: LanguageModel,
    write: Callable[[Sequence[Sequence[int]], Sequence[str]], list[list[int]]],
    prompts: Sequence[Sequence[int]],
    stop: Sequence[str],
) -> list[list[int]]:
    """Answers, written on where vLLM stops and crosstune does not: before all else, or within a thought."""
    written = write(prompts, stop)
    if stop:
        so_far = [lm.tokenizer.decode(ids, skip_special_tokens=True).lstrip() for ids in written]
        ends = zip(so_far, texts(lm, written, stop), strict=True)
        early = [i for i, (text, answer) in enumerate(ends) if text.startswith(OPEN) or not answer]
        for i, ids in zip(early, write([prompts[i] for i in early], ()) if early else (), strict=True):
            written[i] = ids
    return written


@dataclass(frozen=True)
class Weights:
    """What an engine is loaded with."""

    model: str
    dtype: str
    revision: str | None = None
    embeds: bool = False  # whether prompts are embeddings
    rank: int = 0  # of LoRA; 0 without


class Engine:
    """vLLM with a model's weights; its processes end when it is no longer referred to."""

    def __init__(self, lm: LanguageModel, weights: Weights, length: int, share: float = SHARE) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # it would tell its makers of every start
        import vllm

        self.version, self.weights, self.length = str(vllm.__version__), weights, length
        options: dict[str, Any] = {"model": weights.model, "dtype": weights.dtype, "max_model_len": length}
        options["use_tqdm_on_load"] = False
        if weights.revision is not None:
            options["revision"] = weights.revision
        if weights.embeds:
            options["enable_prompt_embeds"] = True
        if weights.rank:
            options |= {"enable_lora": True, "max_lora_rank": weights.rank}
        if lm.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(lm.device)
            options["gpu_memory_utilization"] = round(share * free / total, 2)
        else:
            # Compiling takes minutes there, and its own cache nearly all of the machine's memory.
            tokens = max(CPU_CACHE, 2 * (length + BLOCK))
            options |= {"enforce_eager": True, "max_num_seqs": AT_ONCE}
            options["kv_cache_memory_bytes"] = row_bytes(lm, tokens)
        before = multiprocessing.active_children()
        with _started_alone(lm.device):
            self._llm = vllm.LLM(**options)
        self._adapters = 0
        children = [str(child.pid) for child in multiprocessing.active_children() if child not in before]
        guard = subprocess.Popen(
            ["sh", "-c", GUARD, "sh", *children], stdin=subprocess.PIPE, start_new_session=True
        )
        self.close = weakref.finalize(self, _end, self._llm.llm_engine.engine_core, guard)

    def write(
        self, lm: LanguageModel, prompts: Sequence[Sequence[int]], max_tokens: int, stop: Sequence[str]
    ) -> list[list[int]]:
        """Token ids behind prompts, up to stop strings; the token that ends an answer left out."""
        from vllm import SamplingParams

        how = SamplingParams(
            temperature=0.0, max_tokens=max_tokens, stop=list(stop), stop_token_ids=sorted(lm.stop_ids)
        )
        soft_prompt = lm.adaptation.soft_prompt

        def prompt_of(ids: Sequence[int]) -> dict[str, Any]:
            if soft_prompt is None:
                return {"prompt_token_ids": list(ids)}
            with torch.inference_mode():
                embeds = lm.embed(torch.tensor(list(ids), device=lm.device))
                return {"prompt_embeds": torch.cat([soft_prompt.to(embeds.dtype), embeds]).cpu()}

        with tempfile.TemporaryDirectory(prefix="crosstune-vllm-") as folder:
            options: dict[str, Any] = {"use_tqdm": False}
            if self.weights.rank:
                from vllm.lora.request import LoRARequest

                _write_lora(lm, Path(folder))
                self._adapters += 1  # under another number it is read anew
                options["lora_request"] = LoRARequest("crosstune", self._adapters, folder)
            done = self._llm.generate([prompt_of(ids) for ids in prompts], how, **options)
        written = [list(one.outputs[0].token_ids) for one in done]
        return [ids[:-1] if ids and ids[-1] in lm.stop_ids else ids for ids in written]


def _end(core: Any, guard: subprocess.Popen[bytes]) -> None:
    """End an engine's processes: as vLLM does, then those that are still there."""
    try:
        core.shutdown()
    finally:
        guard.communicate()


def _engine(lm: LanguageModel, longest: int) -> Engine:
    """The engine that is kept on a model, if it has these weights and takes such texts; or a new one."""
    methods = {part.name for part in lm.adaptation.parts}
    config = lm.model.config
    weights = Weights(
        model=config._name_or_path,
        revision=getattr(config, "_commit_hash", None),
        dtype=str(lm.dtype).split(".")[-1],
        embeds=lm.adaptation.soft_prompt is not None,
        rank=_room_for_lora(lm) if "lora" in methods else 0,
    )
    kept: Engine | None = lm.engine
    if kept is not None and kept.weights == weights and kept.length >= longest and "full" not in methods:
        return kept
    free(lm)  # its memory goes before there is more
    window = getattr(lm.decoder.config, "max_position_embeddings", None)
    length = max(longest, min(READY_FOR, window)) if isinstance(window, int) else longest
    if "full" not in methods:
        lm.engine = engine = Engine(lm, weights, length)
        return engine
    with tempfile.TemporaryDirectory(prefix="crosstune-vllm-") as folder:
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        lm.engine = engine = Engine(lm, replace(weights, model=folder, revision=None), length)
    return engine


@contextmanager
def _started_alone(device: torch.device) -> Iterator[None]:
    """Inside, new processes see the model's GPU as their first, and do not run the script that is running.

    A script without ``if __name__ == "__main__"`` would start its study once more in each of them.
    """
    main, variable = sys.modules["__main__"], "CUDA_VISIBLE_DEVICES"
    hidden: dict[str, Any] = {
        name: main.__dict__.pop(name) for name in ("__spec__", "__file__") if name in main.__dict__
    }
    main.__dict__["__spec__"] = None
    visible = os.environ.get(variable)
    if device.index:
        every = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
        os.environ[variable] = every[device.index]
    try:
        yield
    finally:
        main.__dict__.update(hidden)
        if visible is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = visible


def _lora_layers(lm: LanguageModel) -> list[tuple[str, Any, str]]:
    """Layers that LoRA changes: name, layer, adapter."""
    return [
        (name, module, adapter)
        for name, module in lm.model.named_modules()
        if hasattr(module, "lora_A")
        for adapter in module.scaling
    ]


def _room_for_lora(lm: LanguageModel) -> int:
    """The least of vLLM's ranks that holds LoRA's."""
    most = max(len(module.lora_A[adapter].weight) for _, module, adapter in _lora_layers(lm))
    return next(rank for rank in RANKS if rank >= most)


def _write_lora(lm: LanguageModel, folder: Path) -> None:
    """Write LoRA's matrices as PEFT does, their factor in the second one."""
    tensors: dict[str, torch.Tensor] = {}
    for name, module, adapter in _lora_layers(lm):
        first, second = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        tensors[f"base_model.model.{name}.lora_A.weight"] = first.detach().contiguous().cpu()
        scaled = (second * module.scaling[adapter]).detach()
        tensors[f"base_model.model.{name}.lora_B.weight"] = scaled.contiguous().cpu()
    names = sorted({name.split(".")[-3] for name in tensors})
    rank = max(len(matrix) for name, matrix in tensors.items() if name.endswith("lora_A.weight"))
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "bias": "none",
        "target_modules": names,
    }
    config |= {"r": rank, "lora_alpha": rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_tensors(tensors, folder / "adapter_model.safetensors")
