"""Prefix tuning: every chosen layer attends to n trained key/value pairs in front of the text.

    softmax(q [P_k; K]^T / sqrt(d)) [P_v; V]

Li and Liang 2021 (arXiv 2101.00190). What is trained is stated by ``space``:

* ``kv``: P_k and P_v themselves, ``2 * n * kv_heads * head_dim`` a layer. Keys are learned as already
  rotated.
* ``hidden``: P of shape ``[n, hidden]`` a layer, pushed through the layer's frozen projections,
  P_k = W_k P and P_v = W_v P (with the layer's key norm where it has one); not rotated. The form
  LLaMA-Adapter feeds its attention, here inside the joint softmax.

In both, the text starts at position n; an encoder's stays where it is, as nothing in it comes first. An
encoder-decoder has a prefix in its encoder, in its decoder and in the attention between them (``where``), as
Li and Liang's; PEFT's has none in the encoder. There no position is shifted, and T5's position bias is 0 for
a prefix, which is at no distance from any token (PEFT's is that of earlier tokens). With
``reparameterise: h`` the prompt is p_0 + W_2,l tanh(W_1 e + b_1) + b_2,l during training (e of shape
``[n, hidden]``, one W_1 for all layers) and is folded into plain vectors when saved and evaluated.
"""

from functools import partial
from typing import Literal

from pydantic import Field

from crosstune.errors import UserError
from crosstune.methods.config import Placed, Prompted
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.methods.prompts.planted import Planted
from crosstune.methods.prompts.start import attention_inputs, init_ids, normal, text_keys_values
from crosstune.models.adaptation import Part, Prompt
from crosstune.models.geometry import Geometry


class PrefixConfig(Prompted, Placed):
    """Settings of `prefix`.

    Attributes:
        space: What is trained: "hidden" vectors or "kv" pairs.
        init: Start from what the layer sees of ``init_text``, or from N(0, 1).
        reparameterise: Width of the MLP that makes the prompt while training; None for none.
    """

    space: Literal["hidden", "kv"] = "hidden"
    init: Literal["text", "random"] = "text"
    reparameterise: int | None = Field(default=None, ge=1, le=65_536)


class Prefix(Planted[PrefixConfig]):
    """Trained keys and values in front of the text, in every chosen layer."""

    name = "prefix"
    summary = "trained keys and values in front of the text, layer by layer (Li and Liang 2021)"
    learning_rate = 3e-2
    learning_rate_from = (
        "SIB-200 with Gemma 3 270M, 60 steps, loss: choices: English 64.7 to 86.8 (kv at 1e-2: 81.9); "
        "not searched further"
    )
    size = "length"
    Config = PrefixConfig

    @classmethod
    def count(cls, config: PrefixConfig, geometry: Geometry) -> int:
        """N * layers * width, width = hidden or 2 * kv_heads * head_dim; with an MLP, its size as well."""
        geometry.usable(cls.name, geometry.no_prompts)
        if config.space == "kv" and (
            geometry.value_dim or geometry.cached or "keys and values" in geometry.uneven
        ):
            raise UserError(
                f"{cls.name}: this model caches other keys than it attends to, or values of another size, or "
                "of other sizes in some layers; use space: hidden"
            )
        layers = len(config.attention_places(geometry))
        width = geometry.hidden if config.space == "hidden" else 2 * geometry.kv_size
        h = config.reparameterise
        if h is None:
            return config.length * layers * width
        return config.length * geometry.hidden + (geometry.hidden + 1) * h + layers * width * (h + 1)

    @property
    def default_rate(self) -> float | None:
        """3e-2 for hidden vectors, 1e-2 for keys and values."""
        return 3e-2 if self.config.space == "hidden" else 1e-2

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """A joint prompt for each chosen layer, and the text of a causal model shifted by n."""
        config = self.config
        self.layers = config.attention_places(lm.geometry)
        lm.learn_calls()
        where = self.devices(lm)
        start = {i: x.to(where[i]) for i, x in self._start(lm, seed).items()}
        self.mlp: dict[str, nn.Parameter] = {}
        if config.reparameterise is None:
            self.prompts = {i: nn.Parameter(x) for i, x in start.items()}
        else:
            self.base = start
            self._make_mlp(lm, config.reparameterise, seed)
        part.prompts = {i: Prompt(partial(self.keys_values, i)) for i in self.layers}
        part.shift = 0 if lm.geometry.encoder or lm.geometry.encoder_layers else config.length

    def _start(self, lm: LanguageModel, seed: int) -> dict[int, Tensor]:
        """First value of each layer's prompt, fp32: ``[n, hidden]`` or ``[2, n, kv_heads * head_dim]``."""
        config = self.config
        n, g = config.length, lm.geometry
        if config.init == "random":
            shape = (n, g.hidden) if config.space == "hidden" else (2, n, g.kv_size)
            draws = normal((len(self.layers), *shape), seed)
            return dict(zip(self.layers, draws.unbind(), strict=True))
        ids = init_ids(lm, config.init_text, n)
        if config.space == "hidden":
            states = attention_inputs(lm, ids)
            return {i: states[i] for i in self.layers}
        pairs = text_keys_values(lm, ids)
        # [kv_heads, n, head_dim] twice -> [2, n, kv_heads * head_dim]
        return {i: torch.stack([x.transpose(0, 1).flatten(1).float() for x in pairs[i]]) for i in self.layers}

    def _make_mlp(self, lm: LanguageModel, h: int, seed: int) -> None:
        """One first layer for all, one zeroed last layer each: training starts at ``base`` exactly."""
        width = self.base[self.layers[0]].numel() // self.config.length
        hidden = lm.geometry.hidden
        tensors = {
            "mlp.input": normal((self.config.length, hidden), seed).to(lm.device),
            "mlp.first.weight": normal((h, hidden), seed + 1, hidden**-0.5).to(lm.device),
            "mlp.first.bias": torch.zeros(h, device=lm.device),
        }
        for i in self.layers:
            tensors[f"mlp.last.{i}.weight"] = torch.zeros(width, h, device=self.base[i].device)
            tensors[f"mlp.last.{i}.bias"] = torch.zeros(width, device=self.base[i].device)
        self.mlp = {name: nn.Parameter(x) for name, x in tensors.items()}

    def _value(self, i: int) -> Tensor:
        """The prompt of layer ``i`` as it stands now, fp32."""
        if not self.mlp:
            return self.prompts[i]
        m, base = self.mlp, self.base[i]
        inner = torch.tanh(nn.functional.linear(m["mlp.input"], m["mlp.first.weight"], m["mlp.first.bias"]))
        inner = inner.to(base.device)
        delta = nn.functional.linear(inner, m[f"mlp.last.{i}.weight"], m[f"mlp.last.{i}.bias"])
        if base.dim() == 2:
            return base + delta
        pair: Tensor = delta.unflatten(-1, (2, -1))
        return base + pair.transpose(0, 1)

    def project(self, layer: int) -> tuple[Tensor, Tensor]:
        """Hidden vectors through the layer's frozen projections; keys and values as they are."""
        lm = self.attached()
        value = self._value(layer).to(lm.dtype)
        if value.dim() == 2:
            return lm.keys_values(layer, value)
        keys, values = value.unflatten(-1, (lm.geometry.kv_heads, -1)).transpose(1, 2)
        return keys, values

    def parameters(self) -> "dict[str, nn.Parameter]":
        """``layers.<i>``, or the MLP's tensors while reparameterised."""
        return self.mlp or {f"layers.{i}": self.prompts[i] for i in self.layers}

    def state(self) -> dict[str, Tensor]:
        """``layers.<i>``: the plain prompt of each layer, the MLP folded away."""
        with torch.no_grad():
            return {f"layers.{i}": self._value(i).detach().clone() for i in self.layers}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take plain prompts; a reparameterising MLP is dropped, as it was folded when saved."""
        mlp = self.mlp
        if mlp:
            self.mlp = {}
            self.prompts = {i: nn.Parameter(x.clone()) for i, x in self.base.items()}
        try:
            super().load_state(state)
        except UserError:
            self.mlp = mlp
            raise
