"""Soft prompt tuning: ``h_0 = [P; E(x)]`` with P of shape ``[n, hidden]`` trained, the model frozen.

Lester et al. 2021 (arXiv 2104.08691). P stands in front of the text's embeddings, before the
beginning-of-text token, as in PEFT; it holds embeddings as the first layer receives them (after
the scale that Gemma multiplies its table by). In an encoder-decoder it stands in front of the encoder's
text, as in Lester et al. and PEFT. Trained parameters: n * hidden.
"""

from typing import ClassVar, Literal

from crosstune.methods.base import Method
from crosstune.methods.config import Prompted, Sided
from crosstune.methods.deferred import LanguageModel, nn, torch
from crosstune.methods.prompts.start import init_ids, normal
from crosstune.models.adaptation import Part
from crosstune.models.geometry import Geometry, Side


class SoftPromptConfig(Prompted, Sided):
    """Settings of `soft-prompt`.

    Attributes:
        init: Start from the embeddings of ``init_text``, of tokens drawn from the vocabulary, or
            from N(0, s²) with s the embedding table's own standard deviation.
    """

    usual: ClassVar[tuple[Side, ...]] = ("encoder",)
    possible: ClassVar[tuple[Side, ...]] = ("encoder",)

    init: Literal["text", "vocabulary", "random"] = "text"


class SoftPrompt(Method[SoftPromptConfig]):
    """n trained vectors in front of the input."""

    name = "soft-prompt"
    summary = "trained embeddings in front of the input (Lester et al. 2021)"
    learning_rate = 3e-2
    learning_rate_from = (
        "SIB-200 with Gemma 3 270M, 60 steps, loss: choices: English 64.7 to 78.9; not searched further"
    )
    size = "length"
    Config = SoftPromptConfig

    @classmethod
    def count(cls, config: SoftPromptConfig, geometry: Geometry) -> int:
        """N * hidden."""
        geometry.usable(cls.name, geometry.no_soft_prompt)
        config.sides(geometry)
        return config.length * (geometry.embedding or geometry.hidden)

    def place(self, lm: LanguageModel, part: Part, seed: int) -> None:
        """Stand the prompt in front of the model's input."""
        config = self.config
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            if config.init == "text":
                ids = init_ids(lm, config.init_text, config.length)
            elif config.init == "vocabulary":
                ids = torch.randint(lm.geometry.vocabulary, (config.length,), generator=generator)
            else:  # tokens from all over the vocabulary, for their scale
                ids = torch.arange(0, lm.geometry.vocabulary, max(1, lm.geometry.vocabulary // 1000))
            start = lm.embed(ids.to(lm.device)).float()
            if config.init == "random":
                size = (config.length, lm.geometry.embedding or lm.geometry.hidden)
                start = normal(size, seed, float(start.std()))
        self.prompt = part.soft_prompt = nn.Parameter(start.to(lm.device).clone())

    def parameters(self) -> "dict[str, nn.Parameter]":
        """``prompt``: ``[n, hidden]``."""
        return {"prompt": self.prompt}
