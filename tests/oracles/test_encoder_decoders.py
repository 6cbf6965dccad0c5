"""Encoder-decoders through every way that a method reaches them, against transformers' eager attention.

Nothing of crosstune is on the other side: prompts stand in an attention written out here, made with the
layers' own projections called by name; LoRA, adapters and trained weights are put into the weights or
computed with hooks; and PEFT itself where it has the method.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.full import Full
from crosstune.models.attention.choose import Source
from tiny_encoder_decoders import CONFIGS, SOURCES, TARGETS, make_seq2seq, pair, seq2seq_model
from tiny_models import attach, near

WRITTEN_OUT = "test-encoder-decoders"
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


# --- plain transformers -----------------------------------------------------------------------------


def attend(module, query, key, value, mask, scaling, position_bias=None, **_):
    """Eager attention with what is planted on the module."""

    def mixed(k: Tensor, v: Tensor, added: Tensor) -> Tensor:
        return (query @ k.transpose(2, 3) * scaling + added).softmax(-1) @ v

    added = torch.zeros(1, 1, query.shape[2], key.shape[2]) if mask is None else mask
    if position_bias is not None:
        added = added + position_bias
    keys, values, gate = getattr(module, "test_prompt", (None, None, None))
    if keys is None:
        out = mixed(key, value, added)
    elif gate is None:
        front = (x[None].expand(len(key), -1, -1, -1) for x in (keys, values))
        k, v = (torch.cat(both, 2) for both in zip(front, (key, value), strict=True))
        out = mixed(k, v, pad(added, (keys.shape[1], 0)))
    else:
        out = mixed(key, value, added) + gate[:, None, None] * mixed(keys[None], values[None], torch.zeros(1))
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(WRITTEN_OUT, attend)
AttentionMaskInterface.register(WRITTEN_OUT, eager_mask)


@contextmanager
def planted(model, prompts: dict) -> Iterator[None]:
    """Inside, modules attend to ``(keys, values, gate)`` too."""
    configs = {id(x.config): x.config for x in model.modules() if hasattr(x, "config")}.values()
    for module, prompt in prompts.items():
        module.test_prompt = prompt
    for config in configs:
        config._attn_implementation = WRITTEN_OUT
    try:
        yield
    finally:
        for config in configs:
            config._attn_implementation = "eager"
        for module in prompts:
            del module.test_prompt


def attentions(model) -> list:
    """The encoder's, the decoder's, and those between them."""
    encoder, decoder = model.get_encoder(), model.get_decoder()
    if hasattr(encoder, "block"):
        return [
            *(block.layer[0].SelfAttention for block in encoder.block),
            *(block.layer[0].SelfAttention for block in decoder.block),
            *(block.layer[1].EncDecAttention for block in decoder.block),
        ]
    return [
        *(layer.self_attn for layer in encoder.layers),
        *(layer.self_attn for layer in decoder.layers),
        *(layer.encoder_attn for layer in decoder.layers),
    ]


def heads(x: Tensor) -> Tensor:
    """``[heads, n, size]`` of ``[n, heads * size]``; all models here have four heads."""
    return x.unflatten(-1, (4, -1)).transpose(0, 1)


def projected(attention, states: Tensor) -> tuple[Tensor, Tensor]:
    k, v = ("k", "v") if hasattr(attention, "k") else ("k_proj", "v_proj")
    return heads(getattr(attention, k)(states)), heads(getattr(attention, v)(states))


class Whole(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, source, target):
        return pair(self.model, source, target)


@contextmanager
def wanted(case: str, method, lm, eager) -> Iterator[Callable[[list[int], list[int]], Tensor]]:
    """The logits of a pair as the case has to give them."""
    p = method.parameters()
    places = attentions(eager)

    def plain(source, target):
        return pair(eager, source, target)

    with ExitStack() as inside:
        if case == "soft-prompt":
            encoder, prompt = eager.get_encoder(), p["prompt"]
            scale = getattr(encoder, "embed_scale", 1.0)

            def with_prompt(source, target):
                def instead(_, args, out):
                    return torch.cat([prompt[None] / scale, out[:, len(prompt) :]], 1)

                handle = encoder.get_input_embeddings().register_forward_hook(instead)
                out = encoder(input_ids=torch.tensor([[5] * len(prompt) + source]))
                handle.remove()
                ids = torch.tensor([target])
                return eager(encoder_outputs=out, decoder_input_ids=ids, use_cache=False).logits[0]

            yield with_prompt
        elif case in ("lora", "full"):
            changes = dict(p)
            if case == "lora":
                scale = method.config.alpha / method.config.rank
                names = {key.removesuffix(".A") for key in p if key.endswith(".A")}
                assert len(names) == 2 * len(places)
                changes = {
                    f"{n}.weight": eager.get_submodule(n).weight + scale * p[f"{n}.B"] @ p[f"{n}.A"]
                    for n in names
                }
            named = {f"model.{name}": x for name, x in changes.items()}
            yield lambda source, target: functional_call(Whole(eager), named, (source, target))
        elif case == "bottleneck":
            for i, layer in enumerate(layers(eager)):
                modules = {"attention": output(places[i]), "mlp": last(layer)}
                if i >= E:
                    modules["cross"] = output(places[i + D])
                for place, module in modules.items():
                    t = [p[f"layers.{i}.{place}.{end}"] for end in ("down.weight", "down.bias")]
                    u = [p[f"layers.{i}.{place}.{end}"] for end in ("up.weight", "up.bias")]

                    def add(_, args, out, t=t, u=u):
                        return out + torch.relu(out @ t[0].T + t[1]) @ u[0].T + u[1]

                    inside.callback(module.register_forward_hook(add).remove)
            yield plain
        elif case == "ia3":
            for i, layer in enumerate(layers(eager)):
                for name, attention in [("", places[i]), *([("cross.", places[i + D])] if i >= E else [])]:
                    k, v = ("k", "v") if hasattr(attention, "k") else ("k_proj", "v_proj")
                    for end, module in (("key", k), ("value", v)):
                        vector = p[f"layers.{i}.{name}{end}"]

                        def times(_, args, out, vector=vector):
                            return out * vector

                        handle = getattr(attention, module).register_forward_hook(times)
                        inside.callback(handle.remove)
                vector = p[f"layers.{i}.inner"]

                def inner(_, args, vector=vector):
                    return (args[0] * vector,)

                inside.callback(last(layer).register_forward_pre_hook(inner).remove)
            yield plain
        else:
            prompts = {}
            for i, attention in enumerate(places):
                if case == "llama-adapter" and f"layers.{i}.prompt" in p:
                    gate = torch.tanh(p[f"layers.{i}.gate"])
                    prompts[attention] = (*projected(attention, p[f"layers.{i}.prompt"]), gate)
                elif case == "prefix-hidden":
                    prompts[attention] = (*projected(attention, p[f"layers.{i}"]), None)
                elif case.startswith("prefix-kv") and i in method.layers:
                    value = method.state()[f"layers.{i}"] if case.endswith("mlp") else p[f"layers.{i}"]
                    prompts[attention] = (heads(value[0]), heads(value[1]), None)
            assert len(prompts) == len(getattr(method, "layers", []))
            inside.enter_context(planted(eager, prompts))
            yield plain


def layers(model) -> list:
    stacks = model.get_encoder(), model.get_decoder()
    return [layer for stack in stacks for layer in getattr(stack, "block", None) or stack.layers]


def output(attention):
    return attention.o if hasattr(attention, "o") else attention.out_proj


def last(layer):
    """The last projection of a layer's MLP."""
    return layer.layer[-1].DenseReluDense.wo if hasattr(layer, "layer") else layer.fc2


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_each_pair_alone(family, case):
    lm, eager = make_seq2seq(family), seq2seq_model(family, torch.float32, "eager")
    method = attach(lm, case, **CASES[case])
    kind = METHODS[method.name]
    assert kind.count(method.config, lm.geometry) == sum(p.numel() for p in method.parameters().values())
    weights = [*method.parameters().values()]
    with wanted(case, method, lm, eager) as logits:
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


def logits_of(model, source, target):
    ids, written = torch.tensor([source]), torch.tensor([target])
    mask = torch.ones_like(ids)
    return model(input_ids=ids, attention_mask=mask, decoder_input_ids=written).logits[0]


@pytest.mark.parametrize("family", CONFIGS)
def test_lora_and_soft_prompts_are_those_of_peft(family):
    lm = make_seq2seq(family)
    names = ["q", "v"] if "t5" in family else ["q_proj", "v_proj"]
    lora = attach(lm, "lora")
    config = LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, lora_alpha=8, target_modules=names)
    theirs = get_peft_model(seq2seq_model(family, torch.float32, "eager"), config).eval()
    with torch.no_grad():
        for name, value in lora.parameters().items():
            module, _, matrix = name.rpartition(".")
            at = theirs.get_submodule(f"base_model.model.{module}")
            getattr(at, f"lora_{matrix}")["default"].weight.copy_(value)
        for ours, texts in zip(read(lm), zip(SOURCES, TARGETS, strict=True), strict=True):
            near(f"LoRA of PEFT on {family}", ours, logits_of(theirs, *texts), 1e-4)
    lora.detach()
    if family == "marian":  # its encoder does not scale embeddings that PEFT hands it
        return
    soft = attach(lm, "soft-prompt")
    config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, num_transformer_submodules=1)
    theirs = get_peft_model(seq2seq_model(family, torch.float32, "eager"), config).eval()
    with torch.no_grad():
        theirs.prompt_encoder["default"].embedding.weight.copy_(soft.parameters()["prompt"])
        for ours, texts in zip(read(lm), zip(SOURCES, TARGETS, strict=True), strict=True):
            near(f"soft prompt of PEFT on {family}", ours, logits_of(theirs, *texts))


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
