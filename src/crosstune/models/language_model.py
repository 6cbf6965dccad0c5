"""A loaded decoder or encoder: hidden states of a batch, logits of chosen rows, and a cache for decoding.

`crosstune.models.encoder_decoder` has the model that is both.
"""

import inspect
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from crosstune.errors import UserError
from crosstune.models.adaptation import Adaptation
from crosstune.models.attention.apart import one_per_row
from crosstune.models.attention.cache import LENGTHS, DecodingCache, OwnCache, OwnCaches
from crosstune.models.attention.choose import Source
from crosstune.models.attention.cpu_line import PaddingFreeBatch
from crosstune.models.attention.layout import Layout, TwoWayLayout, laid_out
from crosstune.models.attention.own_keys import calls_of, keys_values
from crosstune.models.family import stack_of, uncached
from crosstune.models.fast.activation_cache import ActivationCache
from crosstune.models.fast.layers import EntryStates, entered_at, in_place_of, left_at, unhooked
from crosstune.models.fast.top_rows import TOP_ROWS, has_top_rows, take, top_rows
from crosstune.models.fast.vocabulary import likeliest
from crosstune.models.geometry import Geometry
from crosstune.models.parts import Parts
from crosstune.models.tokens import Tokens

TextLayout = Layout | TwoWayLayout | PaddingFreeBatch
"""Who sees whom in a batch of texts."""


@dataclass
class LanguageModel:
    """One Hugging Face causal language model or encoder, frozen, with what methods left on it.

    Attributes:
        model: The transformers model, loaded with ``attn_implementation="crosstune"``.
        tokenizer: Its tokenizer.
        name: Hub id, folder or ``demo:`` name.
        revision: Commit or fingerprint of the weights.
        geometry: Its shape.
        parts: Where its architecture keeps what.
        adaptation: What methods left on it.
        tokens: Its token ids of prompts and answers.
        skips_unread_rows: Whether the top layer can compute some rows alone (`fast.top_rows`).
        head: What makes scores of states, while one is trained or used; None for the model's own words.
        remarks: What a person should know of the model before any result: a line each, most often none.
        activation_cache: Of training texts, for as long as the model lives (`crosstune.training.reuse`).
        steps, engine: What writes answers, until its memory is needed: recorded steps (`fast.graphs`), vLLM.
    """

    model: PreTrainedModel
    tokenizer: Any
    name: str
    revision: str
    geometry: Geometry
    parts: Parts = field(init=False, repr=False)
    adaptation: Adaptation = field(init=False, repr=False)
    tokens: Tokens = field(init=False, repr=False)
    skips_unread_rows: bool = field(init=False, repr=False)
    head: nn.Module | None = field(default=None, repr=False)
    remarks: list[str] = field(default_factory=list, repr=False)
    activation_cache: ActivationCache = field(default_factory=ActivationCache, repr=False)
    steps: Any = field(default=None, repr=False)
    engine: Any = field(default=None, repr=False)
    _calls: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.parts = Parts(self.model)
        self.adaptation = Adaptation(self.attentions)
        two_way = self.geometry.encoder or self.geometry.encoder_layers
        self.skips_unread_rows = has_top_rows(self.parts) and not two_way
        if self.tokenizer is None:  # a copy that is tried
            return
        # An encoder reads closed texts.
        self.tokens = Tokens(self.tokenizer, self.geometry.vocabulary, None if two_way else self.stop_ids)
        self.remarks += [] if self.geometry.encoder else self.tokens.remarks

    @property
    def decoder(self) -> Any:
        """The embedding and the layers, without the output embedding; an encoder's too."""
        return stack_of(self.model)

    @property
    def embedding(self) -> nn.Module:
        """Input embedding (scaled where the architecture scales it)."""
        return self.model.get_input_embeddings()

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings as the first layer receives them, positions left out."""
        return cast(Tensor, self.embedding(ids))

    @property
    def attentions(self) -> list[nn.Module]:
        """Self-attention of each layer that has one, lowest first; then a decoder's to an encoder's text."""
        crosses = [layer.cross for layer in self.parts.layers if layer.cross is not None]
        return [layer.attention for layer in (*self.parts.layers, *crosses) if layer.attends]

    @property
    def layers(self) -> list[Any]:
        """The layers, lowest first."""
        return [layer.module for layer in self.parts.layers]

    @cached_property
    def cache_argument(self) -> str:
        """Name under which the decoder takes a cache: ``cache`` from transformers 5.24 on."""
        new = "cache" in inspect.signature(type(self.decoder).forward).parameters
        return "cache" if new else "past_key_values"

    @cached_property
    def _all_rows(self) -> dict[str, None]:
        """Keeps Gemma 4 from cutting rows off its masks, which would no longer say what they are of."""
        cuts = "logits_to_keep" in inspect.signature(type(self.decoder).forward).parameters
        return {"logits_to_keep": None} if cuts else {}

    @property
    def device(self) -> torch.device:
        """Where the model's input goes."""
        return self.embedding.weight.device  # type: ignore[return-value]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the frozen weights."""
        return self.embedding.weight.dtype  # type: ignore[return-value]

    @property
    def quantized(self) -> bool:
        """Whether linear layers hold packed bits in place of weights."""
        return bool(getattr(self.model, "is_quantized", False))

    def layer_device(self, i: int) -> torch.device:
        """Where layer ``i`` computes; one and the same for all unless the model is spread over GPUs."""
        return cast(torch.device, next(self.layers[i].parameters()).device)

    @property
    def pad_id(self) -> int:
        """A token id to fill batches with; what it is never matters, as nothing attends to it."""
        tokens = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(int(token) for token in tokens if token is not None)

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end an answer."""
        configured = getattr(self.model.generation_config, "eos_token_id", None)
        ids = [self.tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
        return frozenset(int(i) for i in ids if i is not None)

    def hidden(
        self,
        ids: Tensor,
        layout: TextLayout | None = None,
        read: DynamicCache | OwnCache | None = None,
        rows: Tensor | None = None,
        entry: EntryStates | None = None,
        source: Source | None = None,
    ) -> Tensor:
        """Final hidden states of right-padded rows, those of the text alone.

        Padding stands behind the text, and a token sees only what is before it: no mask is needed. Of an
        encoder's rows, those with padding have a layout.

        Args:
            ids: ``[batch, length]`` token ids.
            layout: Who sees whom, when rows hold branches.
            read: Keeps the keys and values of all layers, a soft prompt's in front of the text's.
            rows: ``[n]``: the tokens whose states are wanted, counted through ``ids.flatten()``; the top
                layer leaves the others out behind its attention. None for all.
            entry: What the layers below one hand to it, so that they need not run; of a soft prompt there
                is nothing in it.
            source: What the encoder of an encoder-decoder reads, a text for each row; None for other models.

        Returns:
            ``[batch, length, hidden]``, or ``[n, hidden]`` of the rows, after the final norm.
        """
        embeds = self.embedding(ids) if entry is None else entry.states
        n, prompt = 0, self.adaptation.soft_prompt
        if prompt is not None:
            assert entry is None, "a soft prompt changes what every layer receives"
            n = prompt.shape[0]
            front = prompt.to(embeds.dtype).expand(ids.shape[0], -1, -1)
            embeds = torch.cat([front, embeds], dim=1)
        layout = None if layout is None else layout.behind(n)
        home = None  # where a token's states will be
        by_rotation = isinstance(layout, Layout) and layout.by_rotation
        if isinstance(layout, Layout | PaddingFreeBatch) and self.geometry.apart:
            (embeds, home), layout = one_per_row(embeds, layout), None
        if rows is not None:
            length = ids.shape[1]
            rows = rows + n * (rows // length + 1)  # as counted with the soft prompts in front
        # A checkpointed layer runs again in the backward pass, when this no longer leaves rows out.
        checkpointed = self.decoder.training and self.layers[-1].gradient_checkpointing
        skips_unread_rows = self.skips_unread_rows and not (home is not None or by_rotation or checkpointed)
        narrow = top_rows(self.parts, rows) if rows is not None and skips_unread_rows else None
        entered = nullcontext() if entry is None else entered_at(self.layers, entry)

        def run(embeds: Tensor, layout: TextLayout | None) -> Tensor:
            with laid_out(layout), narrow or nullcontext(), entered:
                out = self.decoder(
                    inputs_embeds=embeds,
                    position_ids=self._positions(embeds.shape[1], layout),
                    **self._caching(read),
                )
            if isinstance(read, OwnCache):
                read.cache, read.ids = getattr(out, self.cache_argument), ids
            return cast(Tensor, out.last_hidden_state)

        if by_rotation:
            most = self.geometry.same_rotation - self.adaptation.first_position
            states = cast(Layout, layout).apart(run, embeds, most)
        else:
            states = run(embeds, layout)
        if home is not None:
            states = states[home]
        if rows is None:
            return states[:, n:].to(ids.device)
        return (take(states, rows) if narrow is None else states)[0].to(ids.device)

    def _caching(self, read: DynamicCache | OwnCache | None) -> dict[str, Any]:
        """Arguments of a forward that keeps keys and values in ``read``."""
        if self.geometry.encoder:
            assert read is None, "an encoder keeps no keys"
            return uncached(self.decoder.config)
        kept = {} if isinstance(read, OwnCache) else {self.cache_argument: read}
        return {"use_cache": read is not None} | kept | self._all_rows

    @property
    def first_position(self) -> int:
        """Position of the first token of a text, or of a soft prompt in front of it."""
        return self.geometry.first_position + self.adaptation.first_position

    @property
    def room(self) -> int | None:
        """The most tokens of a text that there are positions for; None where the config does not say."""
        positions = getattr(self.decoder.config, "max_position_embeddings", None)
        room = self.first_position + self.adaptation.front
        return positions - room if isinstance(positions, int) else None

    def _positions(self, length: int, layout: TextLayout | None) -> Tensor:
        positions = torch.arange(length, device=self.device)[None] if layout is None else layout.positions
        return self._rotated_alike(positions + self.first_position)

    def _rotated_alike(self, positions: Tensor) -> Tensor:
        """Positions, none so far back that a text's rotation would depend on the texts beside it.

        Raises:
            UserError: A text is too long for that.
        """
        most = 0 if self.geometry.long_rotation else self.geometry.same_rotation
        if most and int(positions.max()) >= most:
            raise UserError(
                f"{self.name}: a text of {int(positions.max()) + 1} tokens, and beyond {most} this model's "
                "rotary frequencies depend on the longest text read with it; shorten prompts or answers"
            )
        return positions

    def entry_states(self, layer: int, ids: Tensor, layout: TextLayout | None = None) -> Tensor:
        """What a layer receives of right-padded rows, ``[batch, length, hidden]``; no layer from it up runs.

        ``ids`` are ``[batch, length]``; the layout says who sees whom if a row holds several texts.
        """
        assert self.adaptation.front == 0, "a soft prompt stands in front of the text"
        with torch.no_grad(), laid_out(layout), left_at(self.layers, layer) as reached:
            self.decoder(
                inputs_embeds=self.embedding(ids),
                position_ids=self._positions(ids.shape[1], layout),
                **uncached(self.decoder.config),
                **self._all_rows,
            )
        return reached[0]

    def step(self, ids: Tensor, slots: DecodingCache | OwnCaches) -> Tensor:
        """Read one more token, ``[live]``, of each text: ``[live, hidden]``, after the final norm."""
        if isinstance(slots, OwnCaches):
            texts = zip(ids.split(1), slots.state[LENGTHS].split(1), slots.caches, strict=True)
            hidden = torch.cat([self.read_next(*text) for text in texts])
        else:
            hidden = self.read_next(ids, slots.begin((len(ids), *slots.shape[1:])), slots)
        slots.state[LENGTHS, : len(ids)] += 1
        slots.end()
        return hidden

    def read_next(self, ids: Tensor, lengths: Tensor, slots: DecodingCache | OwnCache) -> Tensor:
        """A step's arithmetic alone: ``ids`` behind texts of ``lengths``; ``slots`` was made ready for it."""
        if isinstance(slots, OwnCache):
            assert slots.ids is not None
            slots.ids = torch.cat([slots.ids, ids[:, None]], dim=1)
            at = int(lengths) + self.adaptation.first_position
            if self.geometry.long_rotation and at == self.geometry.same_rotation:
                return self.hidden(slots.ids, read=slots)[:, -1]
        with laid_out(None if isinstance(slots, OwnCache) else slots):
            out = self.decoder(
                inputs_embeds=self.embedding(ids[:, None]),
                position_ids=self._rotated_alike(lengths[:, None] + self.adaptation.first_position),
                use_cache=True,
                **{self.cache_argument: slots.cache if isinstance(slots, OwnCache) else slots},
            )
        if isinstance(slots, OwnCache):
            slots.cache = getattr(out, self.cache_argument)
        return cast(Tensor, out.last_hidden_state[:, -1].to(ids.device))

    def logits(self, rows: Tensor, columns: Tensor | None = None) -> Tensor:
        """Scores ``[n, vocabulary]`` in fp32 of states ``[n, hidden]``, or of some token ids ``[n, m]``."""
        if self.geometry.encoder:
            words = self._words(rows)
            return words if columns is None else words[:, columns.to(words.device)]
        head: Any = self.model.get_output_embeddings()
        inputs = rows.to(head.weight.device)
        if columns is None:
            scores: Tensor = head(inputs)
        else:
            columns = columns.to(inputs.device)
            bias = None if head.bias is None else head.bias[columns]
            scores = nn.functional.linear(inputs, head.weight[columns], bias)
        return self.parts.scores(scores.float().to(rows.device))

    def _words(self, rows: Tensor) -> Tensor:
        """What an encoder's masked language model makes of states: its whole head, whatever it is made of.

        One that was saved without it has the products with its embedding, which nobody trained for that.
        """
        if self.geometry.encoder != "masked":
            return nn.functional.linear(rows, self.embedding.weight).float()  # type: ignore[arg-type]

        def states(*args: Any, **kwargs: Any) -> BaseModelOutput:
            return BaseModelOutput(last_hidden_state=rows[None])

        with in_place_of([self.decoder], [states]), unhooked(self.decoder):
            token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            scores: Tensor = self.model(input_ids=token).logits[0]
        return scores.float().to(rows.device)

    @property
    def plain_table(self) -> Tensor | None:
        """``[vocabulary, hidden]`` where the scores are products with it and nothing else; None elsewhere."""
        if self.geometry.encoder:
            return None if self.geometry.encoder == "masked" else cast(Tensor, self.embedding.weight)
        head: Any = self.model.get_output_embeddings()
        # Not a subclass: one with adapters or packed bits computes something else.
        plain = type(head) is nn.Linear and head.bias is None and self.parts.plain_scores
        return cast(Tensor, head.weight) if plain else None

    def best(self, rows: Tensor) -> Tensor:
        """The likeliest token at each row, ``[n]``, the first of those that are level; no scores in fp32."""
        if self.geometry.encoder or not self.parts.plain_scores:
            return self.logits(rows).argmax(-1)
        head: Any = self.model.get_output_embeddings()
        return likeliest(head(rows.to(head.weight.device))).to(rows.device)

    def check(self) -> None:
        """Compare with the model's own forward once, on five tokens.

        Raises:
            UserError: The architecture scales or caps its logits, or masks its attention, in a way
                that crosstune does not know.
        """
        # RoBERTa's own positions pass over padding.
        pad = self.model.config.pad_token_id if self.geometry.encoder else None
        ids = torch.tensor([[i for i in range(self.geometry.vocabulary) if i != pad][:5]], device=self.device)
        bare = self.geometry.encoder == "bare"
        with torch.inference_mode():
            hidden = self.hidden(ids)[0]
            logits = hidden.float() if bare else self.logits(hidden)
            out = self.model(input_ids=ids, **uncached(self.model.config))
            expected = (out.last_hidden_state if bare else out.logits)[0].float().to(logits.device)
            some = torch.tensor([1, 4], device=self.device)
            if self.skips_unread_rows and (
                why := TOP_ROWS.fault(lambda: [(self.hidden(ids, rows=some), self.hidden(ids)[0, some])])
            ):
                TOP_ROWS.tell(f"{self.name}: {why}")
                self.skips_unread_rows = False
        if not torch.allclose(logits, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max())):
            raise UserError(
                f"{self.name}: {type(self.model).__name__} computes its logits in a way crosstune does not "
                "know; choose another model or report it"
            )

    def read_alone(self, ids: Tensor) -> None:
        """Let every layer read a text ``[n]``, for what looks on."""
        self.hidden(ids[None])

    def learn_calls(self) -> None:
        """Make ready for `keys_values`; not while the model computes."""
        if not self._calls:
            token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            read = partial(self.decoder, position_ids=token, **uncached(self.decoder.config))
            self._calls = calls_of(read, self.attentions, token)

    def keys_values(self, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, not rotated, and values ``[kv_heads, n, size]`` that a layer makes of states ``[n, hidden]``.

        Raises:
            UserError: The architecture makes them in a way that crosstune does not know.
        """
        return keys_values(self.attentions[layer], states, self._calls[layer])
