"""Compacter: bottleneck adapters whose projections are sums of Kronecker products of small factors.

    A(x) = U phi(D x + b) + c        D' = sum_i A_i (x) (s_i t_i)        U' = sum_i A_i (x) (s'_i t'_i)

Mahabadi et al. 2021 (arXiv 2106.04647): n matrices A_i ``[n, n]`` shared by both projections of all adapters,
and factors s_i ``[d/n, r]`` and t_i ``[r, w/n]`` (of U: ``[w/n, r]``, ``[r, d/n]``) of each. Behind attention
and the MLP; with ``sublayers: mlp`` it is Compacter++. The factors start as in Glorot and Bengio's rule, but
t'_i is zero, so that the model starts as the base model, bit for bit; A is drawn from N(0, 0.01²). Trained
parameters: layers * sub-layers * (2 r (d + w) + w + d) + n³.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import sqrt

from pydantic import Field

from crosstune.errors import UserError
from crosstune.methods.adapters.inserted import Inserted, InsertedConfig, Published
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry

PUBLISHED = Published(("attention", "mlp"), "d/32", "gelu")


class CompacterConfig(InsertedConfig):
    """Settings of `compacter`.

    Attributes:
        n: How many products a projection is the sum of; the hidden size and the width are multiples of it.
        rank: r.
    """

    n: int = Field(default=4, ge=1)
    rank: int = Field(default=1, ge=1)

    @property
    def published(self) -> Published:
        """The paper's, in every placement."""
        return PUBLISHED

    def width_in(self, hidden: int) -> int:
        """A share of the hidden size is rounded down to a multiple of n.

        Raises:
            UserError: n does not divide the sizes.
        """
        width = super().width_in(hidden)
        if not isinstance(self.width, int):
            width = max(self.n, width - width % self.n)
        for what, size in (("hidden size", hidden), ("width", width)):
            if size % self.n:
                raise UserError(f"compacter: n {self.n} does not divide the {what} {size}")
        return width


class Compacter(Inserted[CompacterConfig]):
    """Adapters made of Kronecker products."""

    name = "compacter"
    summary = "bottleneck adapters made of shared Kronecker products (Mahabadi et al. 2021)"
    learning_rate = 3e-3
    learning_rate_from = "that of the paper; not searched"
    size = "rank"
    Config = CompacterConfig

    @classmethod
    def count(cls, config: CompacterConfig, geometry: Geometry) -> int:
        """Layers * sub-layers * (2 r (d + w) + w + d) + n³."""
        both = geometry.hidden + config.width_in(geometry.hidden)
        return config.adapters_on(cls.name, geometry) * (2 * config.rank * both + both) + config.n**3

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """An adapter in each place, and what they share."""
        d, n, rank = lm.geometry.hidden, self.config.n, self.config.rank
        w, draw = self.config.width_in(d), torch.Generator().manual_seed(seed)
        self._computed: dict[str, tuple[Tensor, ...]] = {}

        def glorot(rows: int, columns: int) -> Tensor:
            return torch.randn(n, rows, columns, generator=draw) * sqrt(2 / (rows + columns))

        def make(name: str) -> Iterator[tuple[str, Tensor]]:
            yield from {"down.left": glorot(d // n, rank), "down.right": glorot(rank, w // n)}.items()
            yield from {"up.left": glorot(w // n, rank), "up.right": torch.zeros(n, rank, d // n)}.items()
            yield from {"down.bias": torch.zeros(w), "up.bias": torch.zeros(d)}.items()

        self.insert(lm, part, make)
        rule = torch.randn(n, n, n, generator=draw) * 0.01
        self.tensors["rule"] = nn.Parameter(rule.to(lm.device))

    def projections(self, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Multiplied out."""
        if name in self._computed:
            down, up = self._computed[name]
        else:
            down, up = self._product(f"{name}.down"), self._product(f"{name}.up")
        return down, self.tensors[f"{name}.down.bias"], up, self.tensors[f"{name}.up.bias"]

    def _product(self, name: str) -> Tensor:
        """``(sum_i A_i (x) (s_i t_i))'``."""
        left, right = self.tensors[f"{name}.left"], self.tensors[f"{name}.right"]
        rule = self.tensors["rule"].to(left.device)
        blocks = torch.einsum("iab,ipq->bqap", rule, left @ right)
        return blocks.flatten(2).flatten(0, 1)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Multiply out once, not once a batch."""
        names = {name.rpartition(".down.")[0] for name in self.tensors if ".down." in name}
        with torch.no_grad():
            self._computed = {
                name: (self._product(f"{name}.down"), self._product(f"{name}.up")) for name in names
            }
        try:
            yield
        finally:
            self._computed = {}
