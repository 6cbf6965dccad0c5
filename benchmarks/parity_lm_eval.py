"""The same prompts and model through lm-evaluation-harness and through crosstune: do they choose alike?

    pip install lm-eval==0.4.13
    python benchmarks/parity_lm_eval.py                    # XNLI, XCOPA, Belebele; Gemma 3 270M, fp32
    python benchmarks/parity_lm_eval.py --tasks xcopa --languages et th --limit 20
    python benchmarks/parity_lm_eval.py --tasks sib200 --chat --system "Be short." --shots 2 --turns

crosstune writes each task's prompts, choices and gold answers to a JSON file; local YAML tasks of the
harness read them, and its own Hugging Face backend scores them on a plain transformers model. Compared,
example by example: the choice picked, and the log-probabilities of the choices, normalised over the
question. The run fails (exit code 1) under 99.5% agreement. Pairs that differ are shown with their margin.
With --chat both use the model's chat template (a plain one where it has none): the harness by
--apply_chat_template, --system_instruction and --fewshot_as_multiturn.
"""

import argparse
import importlib.metadata
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lm_eval
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM

from crosstune.data.example import Example
from crosstune.methods.few_shot import FewShot, FewShotConfig
from crosstune.models.loading.demo import prepare
from crosstune.models.loading.load import load
from crosstune.outputs.evaluate import evaluate
from crosstune.outputs.settings import EvaluateSettings
from crosstune.running.prepared import shown_first
from crosstune.store.provenance import hardware
from crosstune.tasks import make_task
from crosstune.tasks.exemplars import pick_exemplars, with_exemplars

LEAST = 0.995
TASKS: dict[str, tuple[str, dict[str, object]]] = {
    "xnli": ("xnli", {}),
    "xnli-harness-form": ("xnli", {"form": "lm-eval", "prompt_language": "target"}),
    "xcopa": ("xcopa", {"prompt_language": "target"}),
    "belebele": ("belebele", {}),
    "sib200": ("sib200", {}),
}
TEMPLATE = (
    "{{ bos_token }}{% for turn in messages %}<|{{ turn['role'] }}|>\n{{ turn['content'] | trim }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo:gemma-3-270m", help="a demo model or a folder")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--languages", nargs="+", help="of each task; some of several scripts by default")
    parser.add_argument("--limit", type=int, default=100, help="examples a language")
    parser.add_argument("--batch", type=int, default=8, help="of the harness")
    parser.add_argument("--chat", action="store_true", help="prompts in a chat template")
    parser.add_argument("--system", help="with --chat: a system prompt")
    parser.add_argument("--shots", type=int, default=0, help="solved examples in front of each question")
    parser.add_argument("--turns", action="store_true", help="with --chat: each of these is two turns")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    return parser.parse_args()


def normalised(scores: Sequence[float]) -> list[float]:
    """Log-probabilities over the choices of one question."""
    top = max(scores)
    total = top + math.log(sum(math.exp(score - top) for score in scores))
    return [score - total for score in scores]


def through_harness(
    harness: HFLM, name: str, examples: Sequence[Example], solved: Sequence[Example], **chat: Any
) -> list[list[float]]:
    """Log-probabilities of each example's choices, normalised, by lm-evaluation-harness."""
    with tempfile.TemporaryDirectory() as folder:
        data, shots = Path(folder, "examples.json"), Path(folder, "solved.json")
        for file, some in ((data, examples), (shots, solved or examples[:1])):
            rows = [
                {"number": i, "prompt": e.prompt, "choices": list(e.choices), "gold": e.gold}
                for i, e in enumerate(some)
            ]
            file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data), "train": str(shots)}},
            "fewshot_split": "train",
            "fewshot_config": {"sampler": "first_n"},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "prompt",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": [{"metric": "acc"}],
        }
        Path(folder, f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        evaluated = lm_eval.simple_evaluate(
            model=harness,
            tasks=[name],
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
            num_fewshot=len(solved),
            **chat,
        )
    samples = sorted(evaluated["samples"][name], key=lambda sample: sample["doc"]["number"])
    return [normalised([float(answer[0][0]) for answer in sample["resps"]]) for sample in samples]


def compare(
    examples: Sequence[Example], ours: list[list[float]], theirs: list[list[float]]
) -> dict[str, Any]:
    """Agreement of the choices picked, and the largest difference of a log-probability."""

    def best(scores: list[float]) -> int:
        return max(range(len(scores)), key=scores.__getitem__)

    apart = []
    largest = 0.0
    for example, scores, other in zip(examples, ours, theirs, strict=True):
        largest = max(largest, *(abs(a - b) for a, b in zip(scores, other, strict=True)))
        if best(scores) != best(other):
            top = sorted(other, reverse=True)
            apart.append({"language": example.language, "id": example.id, "harness_margin": top[0] - top[1]})
    return {
        "examples": len(examples),
        "agreement": 1 - len(apart) / len(examples),
        "largest_difference_nats": largest,
        "different": apart,
    }


def main() -> None:
    arguments = parse()
    lm = load(arguments.model, device="cpu", dtype="float32")
    folder = prepare(arguments.model) if arguments.model.startswith("demo:") else Path(arguments.model)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # The tokenizer puts the beginning-of-text token in front where the model has one; so must the harness.
    bos = lm.tokenizer.bos_token_id
    begins = bos is not None and lm.tokens.prompts(["a"])[0][0] == bos
    harness = HFLM(
        pretrained=plain,
        tokenizer=lm.tokenizer,
        device="cpu",
        batch_size=arguments.batch,
        add_bos_token=begins,
    )
    if arguments.chat and not lm.tokenizer.chat_template:
        lm.tokenizer.chat_template = TEMPLATE
    settings = EvaluateSettings(
        choices="label", chat_template=arguments.chat, system_prompt=arguments.system, prompts="whole"
    )
    method = FewShot(FewShotConfig(k=max(1, arguments.shots), turns=arguments.turns))
    chat: dict[str, Any] = {"apply_chat_template": arguments.chat}
    if arguments.chat:
        chat |= {"system_instruction": arguments.system, "fewshot_as_multiturn": arguments.turns}
    results = {}
    for name in arguments.tasks:
        kind, options = TASKS[name]
        task = make_task(kind, options)
        offered = task.languages()
        wanted = arguments.languages or ["en", "de", "sw", "th", "zh"]
        per = {code: task.examples("test", code)[: arguments.limit] for code in wanted if code in offered}
        flat = [example for examples in per.values() for example in examples]
        train = task.examples("train", "en") if arguments.shots else []
        solved = pick_exemplars(train, arguments.shots, seed=0)
        with shown_first(method, lm, settings, solved) as in_prompt:
            table = evaluate(
                lm, task, {code: with_exemplars(some, in_prompt) for code, some in per.items()}, settings
            )
        theirs = through_harness(harness, name, flat, solved, **chat)
        results[name] = compare(flat, table["choice_logprobs"].to_list(), theirs) | {
            "languages": list(per),
            "accuracy": table["score"].mean(),
        }
        shown = results[name]
        print(
            f"{name:18} {', '.join(per):20} n={shown['examples']:4}  agreement {shown['agreement']:.2%}  "
            f"largest difference {shown['largest_difference_nats']:.1e} nats",
            flush=True,
        )
        for pair in shown["different"]:
            print(f"  differs: {pair}")
    if arguments.out is not None:
        names = ("lm_eval", "transformers", "torch")
        facts = {
            "model": arguments.model,
            "dtype": "float32",
            "limit": arguments.limit,
            "chat": chat,
            "shots": arguments.shots,
            "versions": {name: importlib.metadata.version(name) for name in names},
            "hardware": hardware(),
        }
        arguments.out.write_text(json.dumps(facts | {"tasks": results}, indent=1) + "\n", encoding="utf-8")
    if any(result["agreement"] < LEAST for result in results.values()):
        sys.exit(f"an agreement is under {LEAST:.1%}")


if __name__ == "__main__":
    main()
