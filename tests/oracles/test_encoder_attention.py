"""The hook in encoders and encoder-decoders, against attention written out in fp64.

Self-attention of encoders, causal self-attention and cross-attention, with and without padding, with T5's
position biases: no prompt, a joint and a gated one. The modules are transformers' own, with random weights.
"""

from contextlib import nullcontext

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    MBartConfig,
    T5Config,
    XLMRobertaConfig,
)

from crosstune.errors import UserError
from crosstune.models.adaptation import Adaptation, Part, Prompt
from crosstune.models.attention import hook
from crosstune.models.attention.cpu_line import PaddingFreeBatch
from crosstune.models.attention.layout import Layout, laid_out
from tiny_models import near

HEADS, DIM, HIDDEN, N = 4, 8, 32, 3
SMALL = {"vocab_size": 60, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": HEADS}
SMALL |= {"intermediate_size": 40}
SEQ2SEQ = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": HEADS}
SEQ2SEQ |= {"decoder_attention_heads": HEADS, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
CONFIGS = {
    "bert": lambda: BertConfig(**SMALL),
    "xlm-roberta": lambda: XLMRobertaConfig(**SMALL),
    "mbart": lambda: MBartConfig(vocab_size=60, d_model=HIDDEN, **SEQ2SEQ),
    "t5": lambda: T5Config(
        vocab_size=60,
        d_model=HIDDEN,
        d_kv=DIM,
        num_heads=HEADS,
        d_ff=40,
        num_layers=2,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=10,
    ),
}
WHERE = [
    *(("bert", "self"), ("xlm-roberta", "self")),
    *((family, part) for family in ("mbart", "t5") for part in ("self", "causal", "cross")),
]


def make(family):
    model = AutoModel.from_config(CONFIGS[family](), attn_implementation=hook.IMPLEMENTATION).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if "norm" in name.lower():
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(noise * (1.0 if "bias" in name and "relative" in name else 0.35))
    return model


def modules(family, model):
    """Attention modules by the part they play."""
    if family in ("bert", "xlm-roberta"):
        return {"self": [layer.attention.self for layer in model.encoder.layer]}
    if family == "mbart":
        return {
            "self": [layer.self_attn for layer in model.encoder.layers],
            "causal": [layer.self_attn for layer in model.decoder.layers],
            "cross": [layer.encoder_attn for layer in model.decoder.layers],
        }
    return {
        "self": [block.layer[0].SelfAttention for block in model.encoder.block],
        "causal": [block.layer[0].SelfAttention for block in model.decoder.block],
        "cross": [block.layer[1].EncDecAttention for block in model.decoder.block],
    }


def inputs(family, padded, text=7, source=9):
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (2, source), generator=draw)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 5:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if family in ("mbart", "t5"):
        target = torch.randint(5, 60, (2, text), generator=draw)
        batch |= {"decoder_input_ids": target, "decoder_attention_mask": torch.ones_like(target)}
        if padded:
            batch["decoder_attention_mask"][0, 4:] = 0
    return batch


def put(module, prompt):
    """Make a prompt part of what an attention module sees, for as long as the module is."""
    module.adaptation = Adaptation([module])
    module.adaptation.parts.append(Part("test", prompts={0: prompt}))


def prompt(form, seed=0):
    draw = torch.Generator().manual_seed(seed)
    keys, values = (torch.randn(HEADS, N, DIM, generator=draw) for _ in range(2))
    gate = torch.tensor([0.7, -1.3, 0.4, 2.0]) if form == "gated" else None
    return Prompt(lambda: (keys, values), None if gate is None else lambda: gate), keys, values


def by_hand(query, key, value, seen, bias, scaling, form, prompt_keys, prompt_values):
    """In fp64, head by head and row by row, over the columns that a row sees."""
    q, k, v, pk, pv = (x.double() for x in (query, key, value, prompt_keys, prompt_values))
    out = torch.zeros(q.shape[0], q.shape[2], HEADS, DIM, dtype=torch.float64)
    for b in range(q.shape[0]):
        for h in range(HEADS):
            for i in range(q.shape[2]):
                at = seen[b, i].nonzero()[:, 0]
                scores = scaling * k[b, h, at] @ q[b, h, i]
                if bias is not None:
                    scores = scores + bias.double()[min(b, len(bias) - 1), h, i, at]
                ours, values = scaling * pk[h] @ q[b, h, i], v[b, h, at]
                if form == "joint":
                    # A prompt is at no distance from anything: no bias.
                    scores, values = torch.cat([ours, scores]), torch.cat([pv[h], values])
                out[b, i, h] = scores.softmax(0) @ values
                if form == "gated":
                    out[b, i, h] += (0.7, -1.3, 0.4, 2.0)[h] * (ours.softmax(0) @ pv[h])
    return out


def seen_by(part, given):
    """``[batch, rows, columns]``: what the two-dimensional masks say, and causal order where it is."""
    source = given["attention_mask"].bool()
    target = given.get("decoder_attention_mask", source).bool()
    rows, columns = (source if part == "self" else target), (target if part == "causal" else source)
    seen = columns[:, None].expand(-1, rows.shape[1], -1)
    return seen & torch.ones_like(seen[0]).tril() if part == "causal" else seen


def watched(monkeypatch, module):
    """What a module hands the hook, and what it gets back."""
    calls, real = [], hook.attention

    def watch(called, query, key, value, mask, **more):
        out = real(called, query, key, value, mask, **more)
        if called is module:
            calls.append((query, key, value, more.get("position_bias"), more["scaling"], out[0], mask))
        return out

    monkeypatch.setitem(hook.AttentionInterface._global_mapping, hook.IMPLEMENTATION, watch)
    return calls


@pytest.mark.parametrize("form", ["none", "joint", "gated"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("family", "part"), WHERE)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_prompt_beside_any_attention_equals_it_written_out(monkeypatch, family, part, padded, form, layer):
    model = make(family)
    module = modules(family, model)[part][layer]
    placed, keys, values = prompt(form)
    if form != "none":
        put(module, placed)
    batch, calls = inputs(family, padded), watched(monkeypatch, module)
    with torch.no_grad():
        model(**batch)
    ((query, key, value, bias, scaling, ours, mask),) = calls
    assert (mask is None) == (not padded)
    assert (bias is not None) == (family == "t5")
    if family == "t5" and part != "cross":
        assert float(bias.std()) > 0.3
    seen = seen_by(part, batch)
    wanted = by_hand(query, key, value, seen, bias, scaling, form, keys, values)
    # A padding token of the text sees what its row's mask lets it: no one reads it.
    real = batch["attention_mask" if part == "self" else "decoder_attention_mask"].bool()
    near(f"{form} prompt in {part}-attention = fp64", ours[real], wanted[real], 1e-5)
    # And the comparison can fail: the same taken for causal, or with a bias for the prompt's columns.
    if part == "self" and form != "gated" and not padded:
        wrong = seen & torch.ones_like(seen[0]).tril()
        other = by_hand(query, key, value, wrong, bias, scaling, form, keys, values)
        assert float((ours - other).abs().max()) > 0.1


@pytest.mark.parametrize("form", ["joint", "gated"])
@pytest.mark.parametrize(("family", "part"), WHERE)
def test_gradients_reach_the_prompt(family, part, form):
    model = make(family)
    draw = torch.Generator().manual_seed(4)
    keys, values = (torch.randn(HEADS, N, DIM, generator=draw).requires_grad_() for _ in range(2))
    gate = torch.ones(HEADS, requires_grad=True)
    leaves = [keys, values] + [gate] * (form == "gated")
    put(
        modules(family, model)[part][1],
        Prompt(lambda: (keys, values), (lambda: gate) if form == "gated" else None),
    )
    model(**inputs(family, padded=True)).last_hidden_state.square().sum().backward()
    assert all(float(leaf.grad.abs().max()) > 1e-3 for leaf in leaves)


@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "mbart", "t5"])
def test_without_a_prompt_models_are_transformers_own(family):
    hooked = make(family)
    eager = AutoModel.from_config(CONFIGS[family](), attn_implementation="eager").eval()
    eager.load_state_dict(hooked.state_dict())
    for padded in (False, True):
        batch = inputs(family, padded)
        real = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
        with torch.no_grad():
            ours, wanted = (model(**batch).last_hidden_state for model in (hooked, eager))
        near("hooked encoder = eager", ours[real], wanted[real], 1e-5)


# --- what is causal only ----------------------------------------------------------------------------

PATTERNS = {
    "packed": lambda n: Layout(torch.tensor([[3] * 4 + [n - 1] * (n - 4)] * 2), torch.arange(n).repeat(2, 1)),
    "line": lambda n: PaddingFreeBatch((4, n - 4)),
}


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
@pytest.mark.parametrize("family", ["bert", "xlm-roberta", "mbart", "t5"])
def test_attention_patterns_are_refused_in_an_encoder(family, pattern):
    model = make(family)
    with laid_out(PATTERNS[pattern](9)), pytest.raises(UserError, match="is not causal") as raised:
        model(**inputs(family, padded=False))
    assert "\n" not in str(raised.value)


def decode(model, given, encoded, layout):
    with torch.no_grad(), laid_out(layout) if layout is not None else nullcontext():
        return model.decoder(
            input_ids=given["decoder_input_ids"],
            encoder_hidden_states=encoded,
            encoder_attention_mask=given["attention_mask"],
            use_cache=False,
        ).last_hidden_state


def test_cross_attention_keeps_its_own_mask_beside_a_pattern():
    """Two texts in each row of a decoder, all of a row about one source: each as it is alone."""
    model, batch = make("mbart"), inputs("mbart", padded=True)
    for place in modules("mbart", model)["cross"]:
        put(place, prompt("joint")[0])
    # The second text of a row stands at the positions that it would have alone.
    layout = Layout(torch.tensor([[3] * 4 + [6] * 3] * 2), torch.arange(7).repeat(2, 1))
    with torch.no_grad():
        encoded = model.encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    both = decode(model, batch, encoded, layout)
    first = decode(model, batch | {"decoder_input_ids": batch["decoder_input_ids"][:, :4]}, encoded, None)
    near("packed decoder = alone", both[:, :4], first, 1e-5)
    # The second one: nothing that the first says reaches it.
    other = batch["decoder_input_ids"].clone()
    other[:, :4] = 7
    again = decode(model, batch | {"decoder_input_ids": other}, encoded, layout)
    near("packed decoder: apart", again[:, 4:], both[:, 4:], 1e-6)
    assert float((decode(model, batch, encoded, None)[:, 4:] - both[:, 4:]).abs().max()) > 0.01


def test_a_padding_free_line_does_not_meet_several_sources():
    model, batch = make("mbart"), inputs("mbart", padded=False)
    with torch.no_grad():
        encoded = model.encoder(batch["input_ids"]).last_hidden_state
    line = batch | {"decoder_input_ids": batch["decoder_input_ids"].reshape(1, -1)}
    with pytest.raises(UserError, match="1 rows of queries and 2 of keys"):
        decode(model, line, encoded, PaddingFreeBatch((7, 7)))


def test_position_biases_are_refused_beside_a_pattern():
    model, batch = make("t5"), inputs("t5", padded=False)
    with torch.no_grad():
        encoded = model.encoder(batch["input_ids"]).last_hidden_state
    with pytest.raises(UserError, match="position biases"):
        decode(model, batch, encoded, PATTERNS["packed"](7))
