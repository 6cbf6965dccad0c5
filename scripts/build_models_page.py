"""Write docs/models.md: which architectures are right with which method, and which are refused, and why.

    python scripts/build_models_page.py

Every architecture of tests/zoo is made with two layers and random weights, and every method on it is held
against transformers' own eager attention.
"""

import sys
import tempfile
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "zoo"))

from architectures import ARCHITECTURES  # noqa: E402
from checks import CASES, REFUSED, RIGHT, SLOW, check  # noqa: E402

TOP = """# Architectures

Every architecture below was made with two layers and random weights, and every method on it (weights away
from their start) was held against transformers' own eager attention, which read one text at a time, without
crosstune's hook: texts alone, in padded rows, behind one another in one line, as branches, and as decoding
steps; in training the gradients too. Made by `scripts/build_models_page.py` with transformers {version} and
PyTorch {torch}; `tests/zoo` holds it in every CI run.

Loading any other model tries its architecture in the same way, on a small copy made from the config, before
weights are fetched: what crosstune would compute differently is refused in one line, by `plan`, `params` and
`run` alike. LongRoPE and dynamic NTK are right up to the length at which their frequencies change with the
longest text of a batch; a longer text is refused in one line.

"+" is right; "1" is right with one text a row, which is slower: models that keep a state beside attention know
nothing of texts that share a row, or of branches. R and a number is a refusal, in the list below. Nothing is
wrong: {right} right, {slow} right one text a row, {refused} refused.

"""


def main() -> None:
    """Try all, write the page."""
    torch.set_num_threads(1)
    rows, why, counts = [], [], {RIGHT: 0, REFUSED: 0}
    for name in sorted(ARCHITECTURES):
        with tempfile.TemporaryDirectory() as folder:
            found = check(name, Path(folder) / "model")
        cells = []
        for said in found.values():
            kind, _, reason = said.partition(": ")
            counts[kind] += 1  # a third outcome is a KeyError: the page is not written
            if reason and reason not in why:
                why.append(reason)
            cells.append(str(why.index(reason) + 1) if reason else "+")
        rows.append(f"| {name} | `{ARCHITECTURES[name][0]}` | {' | '.join(cells)} |")
    page = TOP.format(
        version=transformers.__version__,
        torch=torch.__version__,
        right=counts[RIGHT],
        refused=counts[REFUSED],
    )
    page += f"| architecture | model type | {' | '.join(CASES)} |\n|---|---|{'---|' * len(CASES)}\n"
    page += "\n".join(rows) + "\n\n## Refusals\n\n"
    page += "\n".join(f"{i}. {reason}" for i, reason in enumerate(why, 1)) + "\n"
    (ROOT / "docs" / "models.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
