"""What people who come from other programs write in a study, and what it is called here."""

from crosstune.training.settings import TrainSettings

_IN_TRAIN = {key: f'write "train: {{{key}: ...}}"' for key in TrainSettings.model_fields}

STUDY_SLIPS = _IN_TRAIN | {
    "limit": 'write "evaluate: {limit: ...}"',
    "task": "it is called tasks",
    "method": "it is called methods",
    "seed": "it is called seeds",
}
"""Keys of a study that are called otherwise here, or belong elsewhere."""

METHOD_SLIPS = _IN_TRAIN | {
    "lr": 'write "train: {learning_rate: ...}"',
    "num_train_epochs": 'write "train: {epochs: ...}"',
    "per_device_train_batch_size": 'write "train: {batch_size: ...}"',
    "r": "it is called rank",
    "lora_r": "it is called rank",
    "lora_alpha": "it is called alpha",
    "lora_dropout": "it is called dropout",
    "targets": "it is called target_modules, such as [q_proj, v_proj] or all-linear",
    "num_virtual_tokens": "it is called length",
}
"""Keys of a method, likewise."""

OTHER_NAMES = {
    "adapter": "bottleneck",
    "adapters": "bottleneck",
    "houlsby": "bottleneck",
    "pfeiffer": "bottleneck",
    "prompt-tuning": "soft-prompt",
    "p-tuning": "soft-prompt",
    "prefix-tuning": "prefix",
    "fine-tuning": "full",
    "full-fine-tuning": "full",
    "zero-shot": "none",
    "baseline": "none",
    "icl": "few-shot",
    "in-context": "few-shot",
    "dora": "{name: peft, type: DORA}",
}
"""Methods by the names of other programs."""
