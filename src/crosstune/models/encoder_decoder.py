"""A loaded encoder-decoder: what its encoder makes of a text, and what its decoder makes of that.

The encoder reads one text a row, padding masked; the decoder reads right-padded rows behind the token that
starts every answer, and attends to the encoder's states through its cross-attention. Decoding keeps the keys
and values of both in transformers' own cache, so that a source is read once.

A soft prompt stands in front of the encoder's text, and the decoder attends to it as to the text (Lester et
al. 2021). No layer is left out at random in training (LayerDrop): a prompt or an adapter would go with it.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache, EncoderDecoderCache

from crosstune.errors import UserError
from crosstune.models.attention.cache import OwnCache
from crosstune.models.attention.choose import Source
from crosstune.models.attention.own_keys import calls_of
from crosstune.models.fast.layers import EntryStates
from crosstune.models.fast.top_rows import take
from crosstune.models.language_model import LanguageModel, TextLayout


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an encoder made of some texts."""

    states: Tensor  # ``[rows, width, hidden]``, a soft prompt's in front
    mask: Tensor | None  # ``[rows, width]``: 1 for what can be attended to; None for all

    def take(self, rows: Tensor) -> "Encoded":
        """Some rows ``[n]``, each as often as it is named."""
        return Encoded(self.states[rows], None if self.mask is None else self.mask[rows])


@dataclass
class EncoderDecoder(LanguageModel):
    """One Hugging Face encoder-decoder, frozen, with what methods left on it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for stack in (self.encoder, self.decoder):
            if getattr(stack, "layerdrop", 0):
                stack.layerdrop = 0.0

    @property
    def encoder(self) -> Any:
        """The embedding and the layers that read."""
        return self.model.get_encoder()

    @property
    def decoder_start_id(self) -> int | None:
        """The token that the model names as the one that every answer starts behind."""
        for config in (self.model.config, self.model.generation_config):
            if isinstance(token := getattr(config, "decoder_start_token_id", None), int):
                return token
        return None

    @property
    def start_id(self) -> int:
        """The same; a `UserError` where the model names none."""
        if (token := self.decoder_start_id) is None:
            raise UserError(
                f"{self.name}: its config.json has no decoder_start_token_id; add the one it was trained with"
            )
        return token

    @property
    def forced_id(self) -> int | None:
        """The token that its settings of generation put first in every answer (BART's ``<s>``)."""
        for config in (self.model.generation_config, self.model.config):
            if isinstance(token := getattr(config, "forced_bos_token_id", None), int):
                return token
        return None

    @property
    def decoder_positions(self) -> int | None:
        """How many tokens the decoder has positions for; None where they do not end."""
        table = next((m for n, m in self.decoder.named_modules() if n == "embed_positions"), None)
        return self.model.config.max_position_embeddings if isinstance(table, nn.Embedding) else None

    @cached_property
    def never(self) -> frozenset[int]:
        """Tokens that its own settings of generation keep it from writing (Marian's padding)."""
        words = getattr(self.model.generation_config, "bad_words_ids", None) or ()
        return frozenset(word[0] for word in words if len(word) == 1)

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings as the encoder's first layer receives them, positions left out."""
        # Marian scales them itself, and only those of token ids.
        return cast(Tensor, self.embedding(ids)) * getattr(self.encoder, "embed_scale", 1.0)

    def encode(self, source: Source) -> Encoded:
        """What the encoder makes of texts, a soft prompt in front of each."""
        prompt, mask = self.adaptation.soft_prompt, source.mask
        read: dict[str, Tensor] = {"input_ids": source.ids}
        if prompt is not None:
            text = self.embed(source.ids)
            front = prompt.to(text.dtype).expand(len(text), -1, -1)
            read = {"inputs_embeds": torch.cat([front, text], dim=1)}
            mask = None if mask is None else pad(mask, (len(prompt), 0), value=1)
        out = self.encoder(**read, attention_mask=mask)
        return Encoded(out.last_hidden_state, mask)

    def new_cache(self) -> EncoderDecoderCache:
        """For keys and values of what is read and of what is written."""
        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def decode(self, ids: Tensor, encoded: Encoded, cache: EncoderDecoderCache | None = None) -> Tensor:
        """Final hidden states ``[rows, length, hidden]`` of right-padded rows, behind what a cache holds."""
        out = self.decoder(
            input_ids=ids,
            encoder_hidden_states=encoded.states,
            encoder_attention_mask=encoded.mask,
            use_cache=cache is not None,
            **{self.cache_argument: cache},
        )
        return cast(Tensor, out.last_hidden_state)

    def hidden(
        self,
        ids: Tensor,
        layout: TextLayout | None = None,
        read: DynamicCache | OwnCache | None = None,
        rows: Tensor | None = None,
        entry: EntryStates | None = None,
        source: Source | None = None,
    ) -> Tensor:
        """Final hidden states of what the decoder reads, as of `LanguageModel.hidden`, behind a source."""
        assert source is not None, "a decoder that attends to an encoder's text needs one"
        assert layout is None, "one text a row"
        assert read is None, "`decode` has a cache of its own"
        assert entry is None, "two stacks are not entered at one layer"
        states = self.decode(ids, self.encode(source))
        return states if rows is None else take(states, rows)[0]

    def logits(self, rows: Tensor, columns: Tensor | None = None) -> Tensor:
        """As of `LanguageModel.logits`."""
        scores = super().logits(rows if self._scale == 1 else rows * self._scale, columns)
        if self._bias is None:
            return scores
        return scores + (self._bias if columns is None else self._bias[columns.to(scores.device)])

    @cached_property
    def _scale(self) -> float:
        """What states are multiplied with before they meet the vocabulary: in T5 with a tied table."""
        config = self.model.config
        return float(config.d_model**-0.5) if getattr(config, "scale_decoder_outputs", False) else 1.0

    @cached_property
    def _bias(self) -> Tensor | None:
        """``[vocabulary]`` in fp32, added to scores in BART and its kin; None where it is zero."""
        bias: Tensor | None = getattr(self.model, "final_logits_bias", None)
        return None if bias is None or not bias.any() else bias[0].float()

    @property
    def plain_table(self) -> Tensor | None:
        """As of `LanguageModel.plain_table`."""
        return super().plain_table if self._bias is None and self._scale == 1 else None

    def read_alone(self, ids: Tensor) -> None:
        """Let every layer read a text ``[n]``: the encoder, and the decoder behind it."""
        self.hidden(ids[None], source=Source(ids[None], None))

    def learn_calls(self) -> None:
        """As of `LanguageModel.learn_calls`, of both stacks."""
        if not self._calls:
            token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            read = partial(self.model, decoder_input_ids=token, use_cache=False)
            self._calls = calls_of(read, self.attentions, token)

    def check(self) -> None:
        """Compare with the model's own forward once, on five tokens.

        Raises:
            UserError: The architecture makes its logits in a way that crosstune does not know.
        """
        tokens = [t for t in range(self.geometry.vocabulary) if t != self.model.config.pad_token_id][:5]
        ids = torch.tensor([tokens], device=self.device)
        with torch.inference_mode():
            logits = self.logits(self.hidden(ids, source=Source(ids, None))[0])
            out = self.model(input_ids=ids, decoder_input_ids=ids, use_cache=False)
            expected = out.logits[0].float().to(logits.device)
        if not torch.allclose(logits, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max())):
            raise UserError(
                f"{self.name}: {type(self.model).__name__} computes its logits in a way crosstune does not "
                "know; choose another model or report it"
            )
