"""What a row of `gpu.py` needs in memory, from the model's shape alone: before it is run, and without a GPU.

    python benchmarks/gpu.py --plan                     # a card of 80 GB
    python benchmarks/gpu.py --plan --memory 24 --quantize 4bit --checkpointing

The first three parts are exact and decide whether a row is tried; activations are a sum over the tensors that
PyTorch keeps for the backward pass of a Llama layer, and are here to be compared with what is measured.
"""

from dataclasses import dataclass

from crosstune.models.geometry import Geometry
from crosstune.training.optimizers import MOMENTS
from crosstune.training.settings import OptimizerName

GIB = 2**30
# NF4 with quantised constants: 4 bits, 8 for each 64 weights' scale, and 32 for each 256 of those scales.
BITS = {"4bit": (4 + 8 / 64 + 32 / (64 * 256)) / 8, "8bit": 1.0}


@dataclass(frozen=True)
class Need:
    """Bytes on the GPU.

    Attributes:
        weights: Of the model that both sides share.
        copies: Of it, that full fine-tuning makes: fp32 masters.
        optimiser: Gradients and the optimizer's moments of what is trained.
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
            "gradients and moments": self.optimiser,
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
    optimizer: OptimizerName = "adamw",
    fused: bool = True,
) -> Need:
    """Of a training step of ``tokens``, padding included, with ``answers`` rows that meet the vocabulary.

    ``fused``: with norms and gates in kernels of their own (`crosstune.models.fast.kernels`), ours alone.
    """
    whole = method == "full"
    full = g.parameters if whole else 0
    ours = side == "ours"
    # AdamW steps fp32 masters with gradients in fp32, beside the model's own; the others the model itself,
    # whose gradients are kept as long as they are clipped. The peer's model is of its own dtype throughout.
    masters = ours and optimizer == "adamw"
    # Beside a model in bf16 the peer's moments are in bf16 too.
    moments = 2 * itemsize if not ours and optimizer == "adamw" else MOMENTS[optimizer]
    copies = full * 4 * masters
    optimiser = full * (itemsize + 4 * masters + moments)
    # Of a layer and token: both norms' input, in fp32 if not fused; rotated queries, keys, values, what
    # attention gives; the gate and the up projection, and if not fused the activation. Trained weights keep
    # their inputs (a norm's is in 16 bits), and LoRA the first norm's output; fused, these are made again.
    fused = fused and ours
    norms = 2 * (itemsize if fused else 4) * g.hidden
    heads = itemsize * (2 * g.q_size + 2 * g.kv_size)
    inner = itemsize * (2 if fused else 3) * g.intermediate
    trained = {"full": 4 * g.hidden + g.intermediate, "lora": g.hidden}
    inputs = 0 if fused else itemsize * trained.get(method, 0)
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
