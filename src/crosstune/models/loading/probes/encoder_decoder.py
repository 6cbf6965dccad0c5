"""Whether crosstune computes what an encoder-decoder computes, as `probe` asks of a causal model.

The same two small copies, one left to transformers' eager attention. Held against each pair of a source and a
target by itself:

* padded batches, and targets written token by token behind the keys and values of a source read once;
* keys and values planted on every attention, the encoder's, the decoder's and the one between them, against
  attention written out in `probes.independent`; hidden vectors become the keys and values that a module
  makes of them, and each is asked for exactly once in a forward;
* embeddings in front of the source.

The encoder's first token has to see its last, and no token of the decoder those behind it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from crosstune.errors import UserError
from crosstune.models.attention.choose import Source
from crosstune.models.loading.probes import planted
from crosstune.models.loading.probes.independent import PROMPT, keys_of, near, written_out
from crosstune.models.loading.probes.planted import first_fault, refuse_unknown

if TYPE_CHECKING:
    from crosstune.models.encoder_decoder import EncoderDecoder
    from crosstune.models.geometry import Geometry

# No token is 0, the copies' padding. Sources and targets of three lengths each.
SOURCES = tuple(tuple(1 + (7 * i * i + 5 * i + n) % 63 for i in range(n)) for n in (13, 19, 6))
TARGETS = tuple(tuple(1 + (5 * i * i + 3 * i + n) % 63 for i in range(n)) for n in (4, 9, 7))


def examine_encoder_decoder(shape: Geometry, eager: Any, lm: EncoderDecoder) -> Geometry:
    """The shape, with what cannot be used on the model.

    Raises:
        UserError: crosstune would compute something else, or cannot compute it.
    """
    refuse_unknown(eager, check_forms(eager, lm), "encoder-decoder")
    return replace(shape, no_prompts=check_prompts(eager, lm), no_soft_prompt=check_soft_prompt(eager, lm))


def check_forms(eager: Any, lm: EncoderDecoder) -> str:
    """Which form gives something else than each pair alone, or fails; empty if none does."""
    name = type(eager).__name__
    wanted = [_eager(eager, *pair) for pair in zip(SOURCES, TARGETS, strict=True)]
    target = TARGETS[0]
    if near(_eager(eager, (5, 9, 12), target), _eager(eager, (5, 9, 13), target)):
        raise UserError(f"{name}: its decoder does not see what its encoder reads")
    changed = _eager(eager, SOURCES[0], (*target[:-1], (target[-1] + 1) % 63))
    if not near(changed[:-1], wanted[0][:-1]):
        raise UserError(f"{name}: a token of its decoder sees those behind it; choose another model")
    return first_fault({what: functools.partial(form, lm) for what, form in FORMS.items()}, wanted)


def check_prompts(eager: Any, lm: EncoderDecoder) -> str:
    """Why methods that plant keys and values cannot be used; empty where they can."""

    def plain(modules: Sequence[nn.Module], states: Sequence[Tensor]) -> Tensor:
        pairs = keys_of(
            eager, modules, states, lambda ids: eager(input_ids=ids, decoder_input_ids=ids, use_cache=False)
        )
        with written_out(eager) as attended:
            attended.update(zip(modules, pairs, strict=True))
            return _eager(eager, SOURCES[2], TARGETS[2])

    return planted.check_prompts(eager, lm, plain, lambda: _read(lm, [SOURCES[2]], [TARGETS[2]])[0])


def check_soft_prompt(eager: Any, lm: EncoderDecoder) -> str:
    """Why a soft prompt cannot be used; empty where it can."""

    def plain(prompt: Tensor) -> Tensor:
        encoder = eager.get_encoder()
        front = prompt[None] / getattr(encoder, "embed_scale", 1.0)
        handle = encoder.get_input_embeddings().register_forward_hook(
            lambda module, args, embeds: torch.cat([front, embeds[:, PROMPT:]], dim=1)
        )
        try:
            # Of the source alone: the decoder may share the table.
            read = encoder(input_ids=torch.tensor([[1] * PROMPT + list(SOURCES[2])]))
        finally:
            handle.remove()
        target = torch.tensor([TARGETS[2]])
        logits: Tensor = eager(encoder_outputs=read, decoder_input_ids=target, use_cache=False).logits[0]
        return logits

    return planted.check_soft_prompt(eager, lm, plain, lambda: _padded(lm)[2])


# --- the independent side ---------------------------------------------------------------------------


def _eager(model: Any, source: Sequence[int], target: Sequence[int]) -> Tensor:
    ids, written = torch.tensor([list(source)]), torch.tensor([list(target)])
    logits: Tensor = model(input_ids=ids, decoder_input_ids=written, use_cache=False).logits[0]
    return logits


# --- forms ------------------------------------------------------------------------------------------


def _read(
    lm: EncoderDecoder, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
) -> list[Tensor]:
    """Logits of targets behind their sources, in one padded batch."""
    width = max(map(len, targets))
    ids = torch.tensor([[*target, *[0] * (width - len(target))] for target in targets])
    states = lm.hidden(ids, source=Source.of(sources, 0, "cpu"))
    return [lm.logits(row[: len(target)]) for row, target in zip(states, targets, strict=True)]


def _alone(lm: EncoderDecoder) -> list[Tensor]:
    return [_read(lm, [source], [target])[0] for source, target in zip(SOURCES, TARGETS, strict=True)]


def _padded(lm: EncoderDecoder) -> list[Tensor]:
    return _read(lm, SOURCES, TARGETS)


def _steps(lm: EncoderDecoder) -> list[Tensor]:
    """Two tokens together, then one after the other, of sources that were read once."""
    logits = []
    for source, target in zip(SOURCES, TARGETS, strict=True):
        encoded, cache = lm.encode(Source.of([source], 0, "cpu")), lm.new_cache()
        parts = [target[:2], *([token] for token in target[2:])]
        states = [lm.decode(torch.tensor([list(part)]), encoded, cache)[0] for part in parts]
        logits.append(lm.logits(torch.cat(states)))
    return logits


FORMS = {"texts": _alone, "padded rows": _padded, "decoding steps": _steps}
