"""Write docs/models.md: which architectures work with which method, which are refused, and why.

    python scripts/build_models_page.py                    # all tables
    python scripts/build_models_page.py encoder-decoders   # one; the others stay as they are

Every architecture of tests/zoo is built with two layers and random weights, and every method on it is
compared with transformers' eager attention.
"""

import sys
import tempfile
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "zoo"), str(ROOT / "tests")]

from architectures import ARCHITECTURES  # noqa: E402
from checks import CASES, REFUSED, RIGHT, SLOW, check  # noqa: E402
from encoder_decoders import ENCODER_DECODERS  # noqa: E402
from encoders import ENCODERS  # noqa: E402

TOP = """# Architectures

    crosstune list models                      # models whose sizes are built in
    crosstune plan my_study.yaml               # refuses a model that crosstune would compute incorrectly

For these tables, every architecture was built with two layers and random weights, and every method (with
weights away from their initial values) was compared with transformers' eager attention, which reads one text
at a time without crosstune's hook. `scripts/build_models_page.py` wrote them; `tests/zoo` repeats them in
every CI run.

Any other architecture is checked the same way when it is loaded: on a small copy built from the config,
before weights are downloaded. If crosstune would compute something incorrectly, `plan`, `params` and `run`
refuse the model with a one-line error. With LongRoPE, texts on both sides of the length at which its
frequencies change are read apart, and an answer that crosses it is read anew there; no question is compared
with labels from both sides. With dynamic NTK a longer text is refused before training (or cut or left out,
`evaluate.on_too_long`): its frequencies would depend on the longest text of a batch.

"+" means correct. "one per row" means correct with one text per row, which is slower: a model that keeps a
state beside attention cannot read packed texts or branches. A number is a refusal, listed below the table.
Nothing is wrong.
"""
ABOUT = {
    "decoders": """\
The comparison covers single texts, padded batches, packed texts, branches that share a prefix, decoding
steps, and gradients in training. Falcon with ALiBi is compared with PyTorch's own attention: eager adds the
biases twice.""",
    "encoders": """\
Two-way: each text by itself against padded rows and several texts in a line or row, and gradients in
training; what is compared are the words of the masked language model, or the states where there is none.
Studies tune them with a head ([methods.md](methods.md#encoders-and-heads)).""",
    "encoder-decoders": """\
A source and a target by themselves against padded batches, decoding steps behind a source that was read
once, and gradients in training. A method stands where it does by default
([methods.md](methods.md#encoder-decoders)). The placements `pfeiffer` and `parallel` need a norm in front of
the MLP, which Marian, BART, PLBart and Blenderbot-small do not have. `tests/oracles/test_encoder_decoders.py`
compares more settings with transformers and PEFT.""",
}
ZOO = {"decoders": ARCHITECTURES, "encoders": ENCODERS, "encoder-decoders": ENCODER_DECODERS}


def main() -> None:
    """Check the architectures of the tables that are named, or of all, and write the page."""
    torch.set_num_threads(1)
    page = ROOT / "docs" / "models.md"
    old = dict(part.split("\n", 1) for part in page.read_text(encoding="utf-8").split("\n## ")[1:])
    wanted = sys.argv[1:] or list(ZOO)
    sections = {name: section(name) if name in wanted else old[name.capitalize()] for name in ZOO}
    text = TOP + "".join(f"\n## {name.capitalize()}\n{body.rstrip()}\n" for name, body in sections.items())
    page.write_text(text, encoding="utf-8")


def section(zoo: str) -> str:
    """One table, and its refusals."""
    rows, reasons, counts = [], [], {RIGHT: 0, SLOW: 0, REFUSED: 0}
    for name, (model_type, _) in sorted(ZOO[zoo].items()):
        with tempfile.TemporaryDirectory() as folder:
            outcomes = check(name, Path(folder) / "model")
        cells = []
        for outcome in outcomes.values():
            kind, _, reason = outcome.partition(": ")
            counts[kind] += 1  # a third outcome is a KeyError: the page is not written
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(
                str(reasons.index(reason) + 1) if reason else {RIGHT: "+", SLOW: "one per row"}[kind]
            )
        rows.append(f"| {name} | `{model_type}` | {' | '.join(cells)} |")
        print(name, flush=True)
    lines = [
        "",
        ABOUT[zoo],
        f"transformers {transformers.__version__}, PyTorch {torch.__version__}: {counts[RIGHT]} correct, "
        f"{counts[SLOW]} correct with one text per row, {counts[REFUSED]} refused.",
        "",
        f"| architecture | model type | {' | '.join(CASES)} |",
        f"|---|---|{'---|' * len(CASES)}",
        *rows,
        "",
        "Refused:",
        "",
        *(f"{i}. {reason}" for i, reason in enumerate(reasons, 1)),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
