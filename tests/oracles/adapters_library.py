"""Write adapters_library.safetensors: what the `adapters` library computes, for tests that run without it.

    python tests/oracles/adapters_library.py        # with adapters 1.3.0, transformers 4.57 and PyTorch

A tiny random Llama; on it, one after the other, adapters of each of the library's own configs with random
weights, and stacks of a language's and a task's (MAD-X) with an invertible adapter at the embeddings, whose
inverse the library has in its own heads alone. Stored are the model's weights, the adapters' under
crosstune's names, the logits of one text, and the library's own config and names of each adapter.
"""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import adapters
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
CONFIGS = {
    "houlsby": adapters.DoubleSeqBnConfig(reduction_factor=4),
    "pfeiffer": adapters.SeqBnConfig(reduction_factor=4),
    "parallel": adapters.ParBnConfig(reduction_factor=2),
    "learned": adapters.ParBnConfig(reduction_factor=4, scaling="learned", non_linearity="gelu"),
    "compacter": adapters.CompacterConfig(reduction_factor=4),
    "compacter++": adapters.CompacterPlusPlusConfig(reduction_factor=4),
}
# A language adapter, and the task adapter above it.
STACKS = {
    "mad-x": (adapters.SeqBnInvConfig(reduction_factor=2), adapters.SeqBnConfig(reduction_factor=4)),
    "mad-x-houlsby": (
        adapters.DoubleSeqBnInvConfig(reduction_factor=2, non_linearity="relu"),
        adapters.DoubleSeqBnConfig(reduction_factor=4, non_linearity="relu"),
    ),
}
NAMES = {
    r"^model\.|\.adapters\.(it|language)": "",
    r"invertible_adapters\.language\.": "embeddings.",
    r"\.F\.": ".first.",
    r"\.G\.": ".second.",
    r"(first|second)\.0": r"\1.down",
    r"(first|second)\.2": r"\1.up",
    "attention_adapters": "attention",
    "output_adapters": "mlp",
    r"adapter_down\.0": "down",
    "adapter_up": "up",
    "scaling": "scale",
    r"\.b$": ".bias",
    r"\.W_left$": ".left",
    r"\.W_right$": ".right",
    ".*phm_rule$": "rule",
}


def renamed(name: str) -> str:
    """As crosstune names it."""
    for library, here in NAMES.items():
        name = re.sub(library, here, name)
    return name


def main() -> None:
    """Compute and write."""
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn_like(weight) * (0.3 if "norm" not in name else 0.1) + ("norm" in name))
    stored = {f"model.{name}": weight.clone() for name, weight in model.state_dict().items()}
    ids = torch.randint(SIZES["vocab_size"], (1, 9))
    adapters.init(model)
    written: dict[str, Any] = {}
    for config, settings in CONFIGS.items():
        model.add_adapter("it", config=settings)
        with tempfile.TemporaryDirectory() as folder:
            model.save_adapter(folder, "it", use_safetensors=True)
            written[config] = json.loads((Path(folder) / "adapter_config.json").read_text())
        model.set_active_adapters("it")
        parameters = {name: p for name, p in model.named_parameters() if ".it" in name or "phm" in name}
        written[config]["names"] = sorted(parameters)
        with torch.no_grad():
            for name, weight in parameters.items():
                weight.copy_(torch.randn_like(weight) * 0.5)
                stored[f"{config}.{renamed(name)}"] = weight.clone()
            stored[f"{config}.logits"] = model(input_ids=ids).logits[0].clone()
        model.delete_adapter("it")
    headed: Any = adapters.LlamaAdapterModel(LlamaConfig(**SIZES)).eval()
    headed.model.load_state_dict(model.model.state_dict())
    headed.add_causal_lm_head("head", layers=1)
    headed.heads["head"][0].weight = model.lm_head.weight  # its bias is zero
    for stack, (below, above) in STACKS.items():
        headed.add_adapter("language", config=below)
        headed.add_adapter("it", config=above)
        headed.set_active_adapters(adapters.composition.Stack("language", "it"))
        headed.active_head = "head"
        with torch.no_grad():
            for name, weight in headed.named_parameters():
                for adapter in ("language", "it"):
                    if f".{adapter}." in name:
                        weight.copy_(torch.randn_like(weight) * 0.5)
                        stored[f"{stack}.{adapter}.{renamed(name)}"] = weight.clone()
            stored[f"{stack}.logits"] = headed(input_ids=ids).logits[0].clone()
        headed.delete_adapter("language")
        headed.delete_adapter("it")
    about = {"ids": json.dumps(ids[0].tolist()), "sizes": json.dumps(SIZES), "written": json.dumps(written)}
    file = Path(__file__).with_suffix(".safetensors")
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, file, metadata=about)


if __name__ == "__main__":
    main()
