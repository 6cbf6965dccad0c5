"""Write docs/models.md: which architectures work with which method, which are refused, and why.

    python scripts/build_models_page.py

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
from encoders import ENCODERS  # noqa: E402

TOP = """# Architectures

    crosstune list models                      # models whose sizes are built in
    crosstune plan my_study.yaml               # refuses a model that crosstune would compute incorrectly

For this table, every architecture was built with two layers and random weights, and every method (with
weights away from their initial values) was compared with transformers' eager attention (for Falcon with
ALiBi, which eager adds twice, its default), which reads one text at a time without crosstune's hook. The
comparison covers single texts, padded batches, packed texts, branches that share a prefix, decoding steps,
and gradients in training. `scripts/build_models_page.py`
wrote this page with transformers {version} and PyTorch {torch}; `tests/zoo` repeats it in every CI run.

Encoders are checked alike, two-way: each text by itself against padded rows, several texts in a row or line,
planted keys and values, and embeddings in front; what is compared are the words of their masked language
model, or the states where there is none. Studies tune them with a head
([methods.md](methods.md#encoders-and-heads)).

Encoder-decoders are checked alike: a source and a target by themselves against padded batches and decoding steps
behind a source that was read once, planted keys and values in the encoder, the decoder and the attention between
them, and embeddings in front of the source. T5, mT5, mBART, M2M100 and NLLB, Marian, BART, PLBart, Pegasus and
Blenderbot pass; UMT5, LongT5, LED, Switch Transformers, NLLB-MoE, BigBird-Pegasus, Pegasus-X, MVP and ProphetNet are
refused: they attend or are built otherwise. The placements `pfeiffer` and `parallel` need a norm in front of
the MLP, which Marian, BART, PLBart and Blenderbot-small do not have. `tests/oracles/test_encoder_decoders.py`
compares methods on five of them with transformers and PEFT
([methods.md](methods.md#encoder-decoders)).

Any other architecture is checked the same way when it is loaded: on a small copy built from the config,
before weights are downloaded. If crosstune would compute something incorrectly, `plan`, `params` and `run`
refuse the model with a one-line error. With LongRoPE, texts on both sides of the length at which its
frequencies change are read apart, and an answer that crosses it is read anew there; no question is compared
with labels from both sides. With dynamic NTK a longer text is refused before training (or cut or left out,
`evaluate.on_too_long`): its frequencies would depend on the longest text of a batch.

"+" means correct. "one per row" means correct with one text per row, which is slower: a model that keeps a
state beside attention cannot read packed texts or branches. A number is a refusal, listed below. Nothing is
wrong: {right} correct, {slow} correct with one text per row, {refused} refused.

"""


def main() -> None:
    """Check every architecture and write the page."""
    torch.set_num_threads(1)
    rows, reasons, counts = [], [], {RIGHT: 0, SLOW: 0, REFUSED: 0}
    every = ARCHITECTURES | ENCODERS
    for name in (*sorted(ARCHITECTURES), *sorted(ENCODERS)):
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
        rows.append(f"| {name} | `{every[name][0]}` | {' | '.join(cells)} |")
    page = TOP.format(
        version=transformers.__version__,
        torch=torch.__version__,
        right=counts[RIGHT],
        slow=counts[SLOW],
        refused=counts[REFUSED],
    )
    page += f"| architecture | model type | {' | '.join(CASES)} |\n|---|---|{'---|' * len(CASES)}\n"
    page += "\n".join(rows) + "\n\n## Refusals\n\n"
    page += "\n".join(f"{i}. {reason}" for i, reason in enumerate(reasons, 1)) + "\n"
    (ROOT / "docs" / "models.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
