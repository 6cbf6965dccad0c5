"""LLaMA-Adapter: a second attention over n trained prompt tokens, behind a gate that starts at zero.

    softmax(q K^T / sqrt(d)) V + tanh(g_h) softmax(q P_k^T / sqrt(d)) P_v      before the output projection

Zhang et al. 2023 (arXiv 2303.16199), as their released training code has it: prompt ``[n, hidden]``
a layer pushed through the layer's frozen W_k and W_v (with the layer's key norm where it has one),
keys not rotated, one gate a head under tanh. It was published for decoders alone; in an encoder-decoder it
has the places of a prefix (`crosstune.methods.prompts.prefix`). Trained parameters:
layers * (n * hidden + heads).
"""

from functools import partial
from typing import Literal

from crosstune.methods.config import Placed, Prompted
from crosstune.methods.deferred import LanguageModel, Tensor, nn, torch
from crosstune.methods.prompts.planted import Planted
from crosstune.methods.prompts.start import attention_inputs, init_ids, normal
from crosstune.models.adaptation import Part, Prompt
from crosstune.models.geometry import Geometry


class LlamaAdapterConfig(Prompted, Placed):
    """Settings of `llama-adapter`.

    Attributes:
        init: Start prompts from what the layer sees of ``init_text``, or from N(0, 1) as the paper's code.
        gate: One gate a head, or one a layer.
        squash: "tanh" over the gate, or "none" (the form PEFT and litgpt have).
    """

    init: Literal["text", "random"] = "text"
    gate: Literal["head", "layer"] = "head"
    squash: Literal["tanh", "none"] = "tanh"


class LlamaAdapter(Planted[LlamaAdapterConfig]):
    """Gated attention over trained prompt tokens."""

    name = "llama-adapter"
    summary = "zero-gated attention over trained prompt tokens (Zhang et al. 2023)"
    learning_rate = 3e-2
    learning_rate_from = (
        "SIB-200 with Gemma 3 270M, 60 steps, loss: choices: English 64.7 to 84.8; not searched further"
    )
    size = "length"
    Config = LlamaAdapterConfig

    @classmethod
    def count(cls, config: LlamaAdapterConfig, geometry: Geometry) -> int:
        """Layers * (n * hidden + gates)."""
        geometry.usable(cls.name, geometry.no_prompts)
        gates = geometry.heads if config.gate == "head" else 1
        return len(config.attention_places(geometry)) * (config.length * geometry.hidden + gates)

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """A gated prompt for each chosen layer; the text stays where it is."""
        config = self.config
        self.layers = config.attention_places(lm.geometry)
        lm.learn_calls()
        shape = (config.length, lm.geometry.hidden)
        if config.init == "text":
            states = attention_inputs(lm, init_ids(lm, config.init_text, config.length))
            start = [states[i] for i in self.layers]
        else:
            start = list(normal((len(self.layers), *shape), seed).unbind())
        gates = lm.geometry.heads if config.gate == "head" else 1
        where = self.devices(lm)
        self.prompts = {i: nn.Parameter(x.to(where[i])) for i, x in zip(self.layers, start, strict=True)}
        self.gates = {i: nn.Parameter(torch.zeros(gates, device=where[i])) for i in self.layers}
        part.prompts = {i: Prompt(partial(self.keys_values, i), partial(self._gate, i)) for i in self.layers}

    def project(self, layer: int) -> tuple[Tensor, Tensor]:
        """The prompt through the layer's frozen projections."""
        lm = self.attached()
        return lm.keys_values(layer, self.prompts[layer].to(lm.dtype))

    def _gate(self, layer: int) -> Tensor:
        gate = self.gates[layer]
        return torch.tanh(gate) if self.config.squash == "tanh" else gate

    def parameters(self) -> "dict[str, nn.Parameter]":
        """``layers.<i>.prompt`` ``[n, hidden]`` and ``layers.<i>.gate`` ``[heads]`` (or ``[1]``)."""
        prompts = {f"layers.{i}.prompt": p for i, p in self.prompts.items()}
        return prompts | {f"layers.{i}.gate": p for i, p in self.gates.items()}
