"""A study from its file to its page on a GPU: all eight methods, two tasks, a random Llama, no download.

    python benchmarks/gpu_study.py                         # 1.2 billion parameters on the first GPU
    python benchmarks/gpu_study.py --processes 2           # the same study by two processes on that GPU
    python benchmarks/gpu_study.py --shape tiny --device cpu --dtype float32 --limit 5

The model (random weights, a tokenizer of bytes) and the study's file are written to ``--folder``; then
they are run and reported as ``crosstune run`` and ``crosstune report`` do. What each run took is printed
from its record, and the exit code is 1 if a run failed. Random weights answer at random: this shows that all
of it runs and what it costs, not which method is best. "From file to page" is what a user waits for, who has
a model: imports, the study, the page.

Where steps are so small that Python launches their kernels more slowly than the GPU computes them, several
processes fill it better: each takes runs of the one study that no other has (`docs/cluster.md`).
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import crosstune
from crosstune.errors import UserError
from random_model import SHAPES, llama_config

METHODS = [
    "none",
    "few-shot",
    "soft-prompt",
    "prefix",
    {"name": "prefix", "space": "kv"},
    "llama-adapter",
    "lora",
    "full",
]


def save(shape: str, folder: Path, device: str, dtype: str) -> None:
    """A Llama of that shape with bytes for tokens, so that any text can be read and written."""
    alphabet = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    byte_level = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=byte_level, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(llama_config(shape), dtype=getattr(torch, dtype))
    model.save_pretrained(folder)


def since_start() -> float:
    """Seconds since this process was started, by Linux."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Write the model and the study, run it, write the page, print what each part took."""
    imported = since_start()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", default="1b", choices=sorted(SHAPES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--limit", type=int, default=100, help="examples a language")
    parser.add_argument("--processes", type=int, default=1, help="that share the GPU and the study")
    parser.add_argument("--folder", type=Path, default=Path("runs/gpu-study"))
    chosen = parser.parse_args()
    model, store, file = (chosen.folder / name for name in ("model", "store", "study.yaml"))
    chosen.folder.mkdir(parents=True, exist_ok=True)
    save(chosen.shape, model, chosen.device, chosen.dtype)
    study = {
        "name": "gpu-study",
        "model": str(model.resolve()),
        "device": chosen.device,
        "dtype": chosen.dtype,
        "tasks": ["cldr-names", {"name": "number-words", "evaluate": {"max_answer_tokens": 24}}],
        "methods": METHODS,
        "languages": ["de", "fr", "ru", "vi", "ar", "ja"],
        "train": {"steps": 20, "batch_size": 16},
        "evaluate": {"limit": chosen.limit},
        "store": str(store.resolve()),
    }
    file.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    began = time.perf_counter()
    print(f"imports {imported:.1f} s, model made and saved {since_start() - imported:.1f} s")
    command = [sys.executable, "-m", "crosstune", "run", str(file)]
    others = [
        subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(chosen.processes - 1)
    ]
    try:
        results = crosstune.run(crosstune.read_study(file))
    except UserError as error:
        print(error)
        return 1
    finally:
        codes = [other.wait() for other in others]
    ran = time.perf_counter()
    page = crosstune.report(store, chosen.folder / "report.html")
    for run in results.runs:
        seconds = f"{run.cost.train_seconds or 0:6.1f} {run.cost.evaluate_seconds or 0:6.1f}"
        print(f"{run.task.name:14} {run.label:24} {seconds}")
    seconds = time.perf_counter() - began
    print(f"study {ran - began:.1f} s, page {seconds - ran + began:.1f} s: {page}")
    print(f"from file to page {imported + seconds:.1f} s with {chosen.processes} processes")
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
