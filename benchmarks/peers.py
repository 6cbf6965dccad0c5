"""The other side of training rows: PEFT's models and the Hugging Face Trainer, as their users set them up."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

from crosstune.training.loop import rate
from crosstune.training.settings import TrainSettings
from harness import Setting
from machine import now, synchronise


def peft_model(case: Any, setting: Setting, folder: Path, state: dict[str, Tensor]) -> Any:
    """PEFT's model of a `training.Case` with the initial weights ``state`` (crosstune's names).

    For ``full`` the plain model in fp32, which `trainer` computes with in the row's dtype: bf16 weights would
    lose most of a step's small changes, and crosstune's masters are fp32 too.
    """
    dtype = torch.float32 if case.method == "full" else setting.torch_dtype
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(setting.torch_device)
    return wrapped(base, case.method, state)


def wrapped(base: Any, method: str, state: dict[str, Tensor]) -> Any:
    """A loaded model with PEFT's form of a method on it."""
    if method == "full":
        return base
    if method == "lora":
        config: Any = peft.LoraConfig(
            r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(base, config)
        for key, value in model.named_parameters():
            if "lora_" in key:
                side = "A" if "lora_A" in key else "B"
                inner = key.split("base_model.model.", 1)[1].split(".lora_")[0]
                value.data.copy_(state[f"{inner}.{side}"])
        return model
    if method == "soft-prompt":
        prompt = state["prompt"]
        config = peft.PromptTuningConfig(num_virtual_tokens=len(prompt), task_type="CAUSAL_LM")
        model = peft.get_peft_model(base, config)
        model.prompt_encoder["default"].embedding.weight.data.copy_(prompt)
        return model
    if method == "prefix":
        # [layers][2, n, kv] -> [n, layers * 2 * kv]
        stacked = torch.stack([state[f"layers.{i}"] for i in range(len(state))])
        length = stacked.shape[2]
        config = peft.PrefixTuningConfig(num_virtual_tokens=length, task_type="CAUSAL_LM")
        model = peft.get_peft_model(base, config)
        table = stacked.permute(2, 0, 1, 3).reshape(length, -1)
        model.prompt_encoder["default"].embedding.weight.data.copy_(table)
        return model
    if method == "llama-adapter":
        layers = sum(name.endswith(".prompt") for name in state)
        length = len(state["layers.0.prompt"])
        config = peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=length, adapter_layers=layers)
        model = peft.get_peft_model(base, config)
        for i in range(layers):
            adapted = model.base_model.model.model.layers[i].self_attn
            adapted.adaption_prompt.data.copy_(state[f"layers.{i}.prompt"])
            adapted.adaption_gate.data.copy_(state[f"layers.{i}.gate"])
        return model
    raise ValueError(f"no peer for {method}")


class Clock(TrainerCallback):
    """Wall time and loss of each Trainer step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.began = now()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        synchronise(self.device)
        self.seconds.append(now() - self.began)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kw: Any
    ) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


class SameOrder(Trainer):
    """The Trainer on rows already in order, with the learning rates crosstune uses."""

    settings: TrainSettings

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer or self.optimizer,
            lambda s: rate(self.settings, 1.0, min(s, num_training_steps), num_training_steps),
        )
        return self.lr_scheduler


def has_liger() -> bool:
    """Whether the Trainer can use Liger's kernels, which are written in Triton."""
    return all(importlib.util.find_spec(name) is not None for name in ("liger_kernel", "triton"))


@contextlib.contextmanager
def as_before(model: Any, trained: bool) -> Iterator[None]:
    """Inside, a model that shares its weights with ours may be trained and patched; then all is as before."""
    kept = {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters()} if trained else {}
    # Liger puts its own functions into the file of the architecture.
    file = vars(sys.modules[type(model).__module__])
    before = dict(file)
    if trained:
        model.requires_grad_(True)
    try:
        yield
    finally:
        file.update(before)
        with torch.no_grad():
            for name, parameter in model.named_parameters() if trained else ():
                parameter.copy_(kept[name])
                parameter.grad = None
                parameter.requires_grad_(False)


def pack(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """Texts behind one another in one row, told apart by their positions: the Trainer's padding-free form."""
    return {
        "input_ids": torch.tensor([[token for r in rows for token in r["input_ids"]]]),
        "position_ids": torch.tensor([[i for r in rows for i in range(len(r["input_ids"]))]]),
        "labels": torch.tensor([[label for r in rows for label in (-100, *r["labels"][1:])]]),
    }


def pad(rows: list[dict[str, list[int]]], fill: int) -> dict[str, Tensor]:
    """The usual collator: pad on the right, -100 where nothing is predicted."""
    width = max(len(r["input_ids"]) for r in rows)

    def block(key: str, value: int) -> Tensor:
        return torch.tensor([r[key] + [value] * (width - len(r[key])) for r in rows])

    return {
        "input_ids": block("input_ids", fill),
        "attention_mask": block("attention_mask", 0),
        "labels": block("labels", -100),
    }


def trainer(
    model: Any,
    data: list[dict[str, list[int]]],
    settings: TrainSettings,
    peak: float,
    fill: int,
    setting: Setting,
    out: str,
    optimizer: str = "adamw_torch_fused",  # its default
    packed: bool = False,
) -> tuple[Trainer, Clock]:
    """A Trainer over rows in order, and the clock that its steps start and stop.

    ``packed``: without padding, and with Liger's kernels where they are installed.
    """
    clock = Clock(setting.torch_device)
    mixed = setting.torch_dtype == torch.bfloat16 and model.dtype == torch.float32
    arguments = TrainingArguments(
        output_dir=out,
        per_device_train_batch_size=settings.batch_size,
        max_steps=settings.steps or 0,
        learning_rate=peak,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        optim=optimizer,
        use_liger_kernel=packed and has_liger(),
        use_cpu=setting.torch_device.type == "cpu",
        bf16=mixed,
        dataloader_num_workers=0,
        logging_nan_inf_filter=False,
    )
    trainer_ = SameOrder(
        model=model,
        args=arguments,
        train_dataset=data,
        callbacks=[clock],
        data_collator=pack if packed else lambda batch: pad(batch, fill),
    )
    trainer_.settings = settings
    trainer_.remove_callback(transformers.PrinterCallback)
    return trainer_, clock
