"""Encoder-decoders through every way that a method reaches them, against transformers' eager attention.

Nothing of crosstune is on the other side (`eager_pairs`), and PEFT itself is where it has the method.
"""

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSeq2SeqLM, T5Config

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.full import Full
from crosstune.models.attention.choose import Source
from eager_pairs import attentions, last, layers, wanted
from tiny_encoder_decoders import CONFIGS, SOURCES, T5, TARGETS, make_seq2seq, seq2seq_model
from tiny_models import attach, near

E, D = 2, 3
CASES: dict[str, dict] = {
    "none": {},
    "soft-prompt": {},
    "prefix-hidden": {},
    "prefix-kv": {"layers": None, "where": ("decoder", "cross")},
    "prefix-kv-mlp": {"where": ("cross",)},
    "llama-adapter": {"where": ("encoder", "cross")},
    "lora": {},
    "bottleneck": {"where": ("encoder", "decoder", "cross")},
    "ia3": {"layers": None},
    "full": {},
}


def read(lm, sources=SOURCES, targets=TARGETS) -> list[Tensor]:
    """Logits of the targets, in one padded batch."""
    width = max(map(len, targets))
    ids = torch.tensor([[*target, *[lm.pad_id] * (width - len(target))] for target in targets])
    states = lm.hidden(ids.to(lm.device), source=Source.of(sources, lm.pad_id, lm.device))
    return [lm.logits(row[: len(target)]) for row, target in zip(states, targets, strict=True)]


def weights_of(method, eager) -> dict[str, Tensor] | None:
    """The weights that a method changes, as they have to be."""
    p = method.parameters()
    if method.name != "lora":
        return dict(p) if method.trains_weights else None
    scale = method.config.alpha / method.config.rank
    names = {key.removesuffix(".A") for key in p if key.endswith(".A")}
    assert len(names) == 2 * len(attentions(eager))
    return {f"{n}.weight": eager.get_submodule(n).weight + scale * p[f"{n}.B"] @ p[f"{n}.A"] for n in names}


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_each_pair_alone(family, case):
    lm, eager = make_seq2seq(family), seq2seq_model(family, torch.float32, "eager")
    method = attach(lm, case, **CASES[case])
    kind = METHODS[method.name]
    assert kind.count(method.config, lm.geometry) == sum(p.numel() for p in method.parameters().values())
    weights = [*method.parameters().values()]
    with wanted(method, weights_of(method, eager), eager) as logits:
        theirs = [logits(*texts) for texts in zip(SOURCES, TARGETS, strict=True)]
        together = read(lm)
        alone = [read(lm, [s], [t])[0] for s, t in zip(SOURCES, TARGETS, strict=True)]
        for batch in (together, alone):
            for ours, expected in zip(batch, theirs, strict=True):
                near(f"encoder-decoder {case}", ours, expected, 2e-5)
        if weights and not isinstance(method, Full) and not case.endswith("mlp"):
            draws = [torch.randn(x.shape, generator=torch.Generator().manual_seed(5)) for x in theirs]
            grads = [
                torch.autograd.grad(sum((x * d).sum() for x, d in zip(some, draws, strict=True)), weights)
                for some in (together, theirs)
            ]
            for ours, expected in zip(*grads, strict=True):
                near(f"encoder-decoder gradients {case}", ours, expected, 2e-4)
    with torch.no_grad(), method.evaluating():
        for ours, expected in zip(read(lm), theirs, strict=True):
            near(f"encoder-decoder evaluated {case}", ours, expected, 2e-5)
        # Written token by token, the source read once.
        encoded, cache = lm.encode(Source.of(SOURCES[:1], 0, "cpu")), lm.new_cache()
        steps = [TARGETS[0][:2], *([token] for token in TARGETS[0][2:])]
        states = [lm.decode(torch.tensor([list(ids)]), encoded, cache)[0] for ids in steps]
        near(f"encoder-decoder steps {case}", lm.logits(torch.cat(states)), theirs[0], 2e-5)
    method.detach()
    with torch.no_grad():
        for ours, clean in zip(read(lm), read(make_seq2seq(family)), strict=True):
            assert torch.equal(ours, clean)


@pytest.mark.parametrize("case", ["prefix-hidden", "lora", "bottleneck", "soft-prompt"])
@pytest.mark.parametrize("family", ["mt5", "nllb"])
def test_sixteen_bits(family, case):
    half, whole = make_seq2seq(family, torch.bfloat16), make_seq2seq(family)
    method, twin = attach(half, case), attach(whole, case)
    twin.set_parameters(method.parameters())
    with torch.no_grad():
        for ours, expected in zip(read(half), read(whole), strict=True):
            near(f"encoder-decoder {case}, bf16", ours, expected, 0.2 if case == "lora" else 0.1)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
@pytest.mark.parametrize("family", ["t5", "mbart"])
def test_placements_start_as_the_model_and_train(family, placement):
    lm = make_seq2seq(family)
    kind = METHODS["bottleneck"]
    before = read(lm)
    method = kind(kind.Config(placement=placement, width=4))
    method.attach(lm)
    for ours, expected in zip(read(lm), before, strict=True):
        assert torch.equal(ours, expected)
    sum(x.square().sum() for x in read(lm)).backward()
    ups = [p.grad.abs().sum() for name, p in method.parameters().items() if name.endswith("up.weight")]
    assert len(ups) == (2 if placement == "houlsby" else 1) * (E + D)
    assert all(grad > 0 for grad in ups)
    method.detach()


# --- PEFT -------------------------------------------------------------------------------------------


def peft_reads(model, sources=SOURCES, targets=TARGETS) -> list[Tensor]:
    """Logits of the targets in one padded batch; of one pair nothing is padded, and there is no mask."""

    def padded(texts):
        return pad_sequence([torch.tensor(text) for text in texts], batch_first=True)

    ids = padded(sources)
    out = model(input_ids=ids, attention_mask=(ids > 0).long(), decoder_input_ids=padded(targets)).logits
    return [row[: len(target)] for row, target in zip(out, targets, strict=True)]


def peft_lora(method, model):
    names = ["q", "v"] if hasattr(model.get_encoder(), "block") else ["q_proj", "v_proj"]
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, lora_alpha=8, target_modules=names)
    theirs = get_peft_model(model, config)
    for name, value in method.parameters().items():
        module, _, matrix = name.rpartition(".")
        at = theirs.get_submodule(f"base_model.model.{module}")
        getattr(at, f"lora_{matrix}")["default"].weight.copy_(value)
    return theirs


def peft_ia3(method, model):
    t5 = hasattr(model.get_encoder(), "block")
    key, value, inner = ("k", "v", "wo") if t5 else ("k_proj", "v_proj", "fc2")
    config = IA3Config(
        task_type="SEQ_2_SEQ_LM", target_modules=[key, value, inner], feedforward_modules=[inner]
    )
    theirs = get_peft_model(model, config)
    base, p = theirs.base_model.model, method.parameters()
    for i, layer in enumerate(layers(base)):
        last(layer).ia3_l["default"].copy_(p[f"layers.{i}.inner"].view(1, -1))
    for i, attention in enumerate(attentions(base)):
        at = f"layers.{i}" if i < E + D else f"layers.{i - D}.cross"
        for end, module in (("key", key), ("value", value)):
            getattr(attention, module).ia3_l["default"].copy_(p[f"{at}.{end}"].view(-1, 1))
    return theirs


def peft_soft_prompt(method, model):
    config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, num_transformer_submodules=1)
    theirs = get_peft_model(model, config)
    theirs.prompt_encoder["default"].embedding.weight.copy_(method.parameters()["prompt"])
    return theirs


def peft_prefix(method, model):
    """Of PEFT's prefix only the decoder's own attention sees something, and layers are out of order.

    PEFT puts keys and values of all D layers in a row, twice, and gives each layer the next four, of which
    the last two are for the attention to the source. Those it drops with that attention's cache. So layer i
    has the pair 2 i mod D: with an even D, half of what is trained is never read.
    """
    p = method.parameters()
    _, length, width = p[f"layers.{E}"].shape
    config = PrefixTuningConfig(
        task_type="SEQ_2_SEQ_LM",
        num_virtual_tokens=length,
        num_transformer_submodules=2,
        num_layers=D,
        token_dim=width,
        num_attention_heads=4,
    )
    theirs = get_peft_model(model, config)
    pairs = {2 * i % D: p[f"layers.{E + i}"] for i in range(D)}
    rows = [x for at in range(D) for x in pairs[at]]
    theirs.prompt_encoder["default"].embedding.weight.copy_(torch.cat(rows, dim=1))
    return theirs


def without_positions(model):
    """The decoder's are all alike: PEFT's prefix stands in front of the text, ours at no distance from it."""
    decoder = model.get_decoder()
    with torch.no_grad():
        if hasattr(decoder, "block"):
            decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()
        else:
            decoder.embed_positions.weight.copy_(
                decoder.embed_positions.weight[:1].clone().expand_as(decoder.embed_positions.weight)
            )
    return model


PEFT = {
    "lora": (peft_lora, {}),
    "ia3": (peft_ia3, {"layers": None}),
    "soft-prompt": (peft_soft_prompt, {}),
    "prefix-kv": (peft_prefix, {"layers": None, "where": ("decoder",)}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("case", PEFT)
def test_methods_of_peft(case, family, dtype):
    build, settings = PEFT[case]
    if case == "soft-prompt" and family == "marian":
        pytest.skip("its encoder does not scale embeddings that PEFT hands it")
    if case == "prefix-kv" and family in ("nllb", "marian"):
        pytest.skip("its positions are sines: the text stands behind PEFT's prefix, and not behind ours")
    lm, model = make_seq2seq(family, dtype), seq2seq_model(family, dtype, "eager")
    if case == "prefix-kv":
        without_positions(lm.model), without_positions(model)
    method = attach(lm, case, **settings)
    with torch.no_grad():
        theirs = build(method, model).eval()
        alone = [
            peft_reads(theirs, [source], [target])[0] for source, target in zip(SOURCES, TARGETS, strict=True)
        ]
        near_enough = 1e-4 if dtype == torch.float32 else 0.2 if case == "lora" else 0.1
        for ours, expected, padded in zip(read(lm), alone, peft_reads(theirs), strict=True):
            near(f"{case} of PEFT on {family}, {dtype}", ours, expected, near_enough)
            near(f"{case} of PEFT on {family}, {dtype}, padded", ours, padded, near_enough)


def test_half_of_pefts_prefix_is_read_by_no_layer_of_an_even_number():
    """Of two layers both read the first pair of keys and values, and the second gets no gradient."""
    model = AutoModelForSeq2SeqLM.from_config(T5Config(**T5 | {"num_decoder_layers": 2}))
    sizes = {"num_layers": 2, "token_dim": 48, "num_attention_heads": 4, "num_transformer_submodules": 2}
    config = PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, **sizes)
    theirs = get_peft_model(model, config)
    sum(x.square().sum() for x in peft_reads(theirs)).backward()
    grads = theirs.prompt_encoder["default"].embedding.weight.grad.view(3, 2, 2, 48)
    assert grads[:, 0].abs().sum() > 0
    assert not grads[:, 1].any()


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("prefix", {"where": ["cross"], "layers": [0, 1]}, "are not in where: cross"),
        ("bottleneck", {"placement": "pfeiffer", "where": ["cross"]}, "take cross out of where"),
        ("bottleneck", {"invertible": True}, "set invertible: false"),
        ("bottleneck", {"ortho": 0.1}, "take it out for an encoder-decoder"),
        ("peft", {"type": "LN_TUNING", "where": ["encoder"]}, "take where out"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(name, settings, said):
    kind, lm = METHODS[name], make_seq2seq("mt5")
    with pytest.raises(UserError, match=said) as caught:
        kind.count(kind.Config(**settings), lm.geometry)
    assert "\n" not in str(caught.value)
    before = [id(module) for module in lm.model.modules()]
    with pytest.raises(UserError, match=said):
        kind(kind.Config(**settings)).attach(lm)
    assert before == [id(module) for module in lm.model.modules()]


def test_places_are_for_encoder_decoders_and_a_soft_prompt_for_the_encoder(tiny_lm):
    for name in ("prefix", "lora", "bottleneck", "ia3", "soft-prompt"):
        kind = METHODS[name]
        with pytest.raises(UserError, match="no encoder-decoder; take it out"):
            kind.count(kind.Config(where=["encoder"]), tiny_lm("llama").geometry)
    with pytest.raises(ValueError, match="cross is no place for this method"):
        METHODS["soft-prompt"].Config(where=["cross"])
