"""The table of PEFT's tuners in docs/methods.md: run each on tiny models of three families, write what came.

    python scripts/build_peft_table.py

Held against PEFT itself by tests/oracles/test_peft_tuners.py, whose settings for small models are used.
"""

import sys
import warnings
from pathlib import Path

import peft
import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "oracles")]

from test_peft_tuners import IDS, shaken, tuner  # noqa: E402

from crosstune.errors import UserError  # noqa: E402
from crosstune.methods.adapters.peft_tuner import REFUSED, TYPES, UNMERGED  # noqa: E402
from tiny_models import all_logits, make_lm  # noqa: E402

PAGE = ROOT / "docs" / "methods.md"
FAMILIES = {"llama": "Llama", "gemma3": "Gemma 3", "qwen3": "Qwen 3"}
BEGIN, END = "<!-- table of tuners -->\n", "<!-- end of table -->\n"


def cell(kind: str, family: str) -> tuple[str, str]:
    """What a type does on a family: whether it runs, how far its start is from the model, how it merges."""
    lm, method = make_lm(family), tuner(kind)
    plain = all_logits(lm, IDS)
    try:
        method.attach(lm, seed=3)
    except UserError as error:
        return f"refused: {error}", ""
    start = float((all_logits(lm, IDS) - plain).abs().max())
    shaken(method)
    beside = all_logits(lm, IDS)
    with method.evaluating():
        gap = float((all_logits(lm, IDS) - beside).abs().max())
    identity = "exact" if start == 0 else "to rounding" if start < 1e-4 else f"no ({start:.0e})"
    assert gap < 1e-3, kind
    return identity, "no" if kind in UNMERGED else "yes"


def main() -> None:
    """Write the table."""
    warnings.simplefilter("ignore")
    lines = [
        f"PEFT {peft.__version__}, transformers {transformers.__version__},",
        f"PyTorch {torch.__version__}, fp32, `q_proj` and `v_proj` of every layer,",
        "widths reduced where a tiny model needs it.",
        "",
        f"| `type` | {' | '.join(f'{name}: starts as the model' for name in FAMILIES.values())} | merges |",
        f"|---|{'---|' * len(FAMILIES)}---|",
    ]
    for kind in sorted(TYPES):
        cells = [cell(kind, family) for family in FAMILIES]
        lines.append(f"| {kind} | {' | '.join(start for start, _ in cells)} | {cells[0][1]} |")
    lines += ["", "Not taken:", ""]
    lines += [f"- {kind}: {reason}" for kind, reason in sorted(REFUSED.items())]
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
