"""What a row of `gpu.py` needs in memory, from the model's shape alone: before it is run, and without a GPU.

    python benchmarks/gpu.py --plan                     # a card of 80 GB
    python benchmarks/gpu.py --plan --memory 24 --quantize 4bit --checkpointing

The first three parts are exact and decide whether a row is tried; activations are a sum over the tensors that
PyTorch keeps for the backward pass of a Llama layer with frozen weights, and are here to be compared with
what is measured.
"""

from dataclasses import dataclass

from crosstune.models.geometry import Geometry

GIB = 2**30
# NF4 with quantised constants: 4 bits, 8 for each 64 weights' scale, and 32 for each 256 of those scales.
BITS = {"4bit": (4 + 8 / 64 + 32 / (64 * 256)) / 8, "8bit": 1.0}


@dataclass(frozen=True)
class Need:
    """Bytes on the GPU.

    Attributes:
        weights: Of the model that both sides share.
        copies: Of it, that full fine-tuning makes: fp32 masters here, a model of its own for the peer.
        optimiser: Gradients and AdamW's two moments of what is trained.
        activations: Kept for the backward pass, and the vocabulary's scores.
    """

    weights: float
    copies: float
    optimiser: float
    activations: float

    @property
    def least(self) -> float:
        """Without activations: what no batch size changes."""
        return self.weights + self.copies + self.optimiser

    @property
    def whole(self) -> float:
        return self.least + self.activations

    def text(self) -> str:
        parts = {
            "weights": self.weights,
            "copies": self.copies,
            "gradients and AdamW": self.optimiser,
            "activations": self.activations,
        }
        return ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size)


def weights(g: Geometry, itemsize: int, quantize: str | None) -> float:
    """Of a loaded model; embeddings are not quantised."""
    tables = g.vocabulary * g.hidden * (1 if g.tied else 2)
    return tables * itemsize + (g.parameters - tables) * (BITS[quantize] if quantize else itemsize)


def training(
    g: Geometry,
    method: str,
    side: str,
    *,
    tokens: int,
    answers: int,
    itemsize: int,
    quantize: str | None,
    checkpointing: bool,
) -> Need:
    """Of a training step of ``tokens``, padding included, with ``answers`` rows that meet the vocabulary."""
    whole = method == "full"
    full = g.parameters if whole else 0
    # Ours steps fp32 masters: AdamW 8 and a gradient 4 bytes, and the model's own gradient beside it.
    # The peer's model is of its own dtype throughout.
    ours = side == "ours"
    copies = full * (4 if ours else itemsize)
    optimiser = full * (12 + itemsize if ours else 3 * itemsize)
    # Of a layer and token: both norms' fp32 input; rotated queries, keys, values, what attention gives; the
    # gate, its activation and the up projection. Trained weights keep their inputs as well.
    norms, heads = 2 * 4 * g.hidden, itemsize * (2 * g.q_size + 2 * g.kv_size)
    inner = itemsize * 3 * g.intermediate
    inputs = itemsize * (2 * g.hidden + g.q_size + g.intermediate) if whole else 0
    layer = norms + heads + inner + inputs
    kept = layer + g.layers * itemsize * g.hidden if checkpointing else g.layers * layer
    # Scores, their fp32 form and its gradient: of answers alone, or of every token.
    scores = (answers if ours else tokens) * g.vocabulary * (2 * itemsize + 8)
    return Need(weights(g, itemsize, quantize), copies, optimiser, tokens * kept + scores)


def does_not_fit(need: Need, total: float) -> str | None:
    """Why a row need not be tried on a card of ``total`` bytes; None if it may go."""
    if need.least <= total:
        return None
    return (
        f"needs {need.least / GIB:.0f} GiB before any activation ({need.text()}); there are {total / GIB:.0f}"
    )
