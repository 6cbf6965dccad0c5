"""Every method's forward, with gates and weights away from zero, against independent computations."""

import pytest
import torch

from crosstune.methods.prompts.start import init_ids
from crosstune.models.attention import hook as attention
from crosstune.models.attention.layout import Layout
from reference_decoder import effect_of, keys_values, reference_logits, weights_of
from tiny_models import (
    CASES,
    CONFIGS,
    WINDOW,
    all_logits,
    attach,
    make_lm,
    make_method,
    near,
    random_ids,
    row,
)

LONG = 3 * WINDOW + 1


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_hooked_model_equals_transformers_eager(tiny_lm, kind):
    hooked, eager = tiny_lm(kind), tiny_lm(kind, implementation="eager")
    ids = row(random_ids(LONG))
    with torch.no_grad():
        reference = eager.model(input_ids=ids, use_cache=False).logits[0]
    near("no method = transformers eager", all_logits(hooked, ids[0]), reference)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("case", sorted(CASES))
def test_method_equals_slow_computation(tiny_lm, kind, case):
    """Longer than the sliding window: a prompt stays visible to every token."""
    lm = tiny_lm(kind)
    plain = all_logits(lm, random_ids(LONG))
    method = attach(lm, case)
    ids = random_ids(LONG)
    ours = all_logits(lm, ids)
    near(f"{case} = slow fp64 decoder", ours, reference_logits(lm, ids, effect_of(method, lm)))
    if method.trains and not method.needs_head:
        assert (ours - plain).abs().max() > 0.05, "the method does something"


@pytest.mark.parametrize("case", ["prefix-hidden", "prefix-kv", "llama-adapter", "soft-prompt", "lora"])
def test_padding_behind_a_row_changes_nothing(tiny_lm, family, case):
    lm = tiny_lm(family)
    attach(lm, case)
    long, short = random_ids(LONG, 1), random_ids(5, 2)
    with torch.no_grad():
        both = lm.hidden(torch.cat([row(long), row(short + [0] * (LONG - 5))]))
        near("padded row = row alone", both[1, :5], lm.hidden(row(short))[0])
        near("padded row = row alone", both[0], lm.hidden(row(long))[0])


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_prefix_of_real_text_is_that_text_in_front(tiny_lm, kind):
    """Text and prefix together inside the window, so that the text too would be seen by all of it."""
    lm = tiny_lm(kind)
    sliding = kind in ("mistral", "gemma3")
    n, length = (3, WINDOW - 3) if sliding else (6, 20)
    text, front = "the tin in the hat: yes", None
    front = init_ids(lm, text, n).tolist()
    ids = random_ids(length)
    whole = all_logits(lm, front + ids)[n:]
    method = make_method("prefix-kv", length=n, layers=None, init_text=text)
    method.attach(lm)
    near("kv prefix from text = text in front", all_logits(lm, ids), whole, 1e-5)
    # And not by accident: text that starts at position 0 gives something else.
    method.part.shift = 0
    assert (all_logits(lm, ids) - whole).abs().max() > 0.01


def test_soft_prompt_of_real_text_is_that_text_in_front(tiny_lm, family):
    lm = tiny_lm(family)
    n = 6
    front = init_ids(lm, "the tin in the hat: yes", n).tolist()
    ids = random_ids(LONG)
    whole = all_logits(lm, front + ids)[n:]
    method = make_method("soft-prompt", length=n, init_text="the tin in the hat: yes")
    method.attach(lm)
    near("soft prompt from text = text in front", all_logits(lm, ids), whole, 1e-6)


@pytest.mark.parametrize("length", [4, 17])
def test_hidden_prefix_is_kv_prefix_of_its_projections(tiny_lm, family, length):
    lm = tiny_lm(family)
    hidden = attach(lm, "prefix-hidden", length=length)
    ids = random_ids(LONG)
    ours = all_logits(lm, ids)
    weights = weights_of(lm)
    state = {}
    for name, states in hidden.state().items():
        pair = keys_values(lm, weights, int(name.removeprefix("layers.")), states.double().cpu())
        state[name] = torch.stack([x.transpose(0, 1).flatten(1).float() for x in pair])
    hidden.detach()
    kv = make_method("prefix-kv", length=length, layers=None)
    kv.attach(lm)
    kv.load_state(state)
    near("hidden prefix = kv prefix of its projections", all_logits(lm, ids), ours)


@pytest.mark.parametrize("case", ["none", "soft-prompt", "prefix-hidden", "prefix-kv", "llama-adapter"])
def test_branches_behind_a_trunk_equal_texts_of_their_own(tiny_lm, family, case):
    """Trunk and branches longer than the window together."""
    lm = tiny_lm(family)
    attach(lm, case)
    shared_prefix, one, two = random_ids(10, 1), random_ids(4, 2), random_ids(3, 3)
    ends = [16] * 10 + [13] * 4 + [16] * 3 + [-1] * 2
    positions = [*range(10), *range(10, 14), *range(10, 13), 0, 0]
    with torch.no_grad():
        layout = Layout(row(ends), row(positions))
        laid = lm.hidden(row(shared_prefix + one + two + [0, 0]), layout)[0]
        first, second = lm.hidden(row(shared_prefix + one))[0], lm.hidden(row(shared_prefix + two))[0]
    near("branches = texts of their own", laid[:14], first)
    near("branches = texts of their own", laid[14:17], second[10:])


def test_rotary_positions_of_branches_matter(tiny_lm, family):
    """A branch laid out at the wrong positions is noticed: the comparison above can fail."""
    lm = tiny_lm(family)
    shared_prefix, one, two = random_ids(5, 1), random_ids(2, 2), random_ids(2, 3)
    with torch.no_grad():
        wrong = lm.hidden(
            row(shared_prefix + one + two), Layout(row([8] * 5 + [6] * 2 + [8] * 2), row(range(9)))
        )[0]
        right = lm.hidden(row(shared_prefix + two))[0]
    assert (wrong[7:] - right[5:]).abs().max() > 1e-3


@pytest.mark.parametrize("case", ["prefix-hidden", "llama-adapter"])
def test_bfloat16_stays_near_float32(tiny_lm, family, case):
    """Parameters stay fp32 over a bf16 model, and nothing in the hook overflows or loses its dtype."""
    full, half = tiny_lm(family), tiny_lm(family, dtype=torch.bfloat16)
    ids = random_ids(LONG)
    method = attach(full, case)
    other = make_method(case)
    other.attach(half)
    other.load_state(method.state())
    assert all(p.dtype == torch.float32 for p in other.parameters().values())
    with torch.no_grad():
        assert half.hidden(row(ids)).dtype == torch.bfloat16
    near(f"{case}: bf16 = fp32", all_logits(half, ids), all_logits(full, ids), 0.1)


# --- which kernel -----------------------------------------------------------------------------------


def loss_and_gradients(lm, method, ids, layout=None):
    """Of a loss that every position and every trained number takes part in."""
    hidden = lm.hidden(ids, layout)
    weights = torch.linspace(-1, 1, hidden.numel(), device=hidden.device).reshape(hidden.shape)
    loss = (hidden.float() * weights).sum()
    gradients = torch.autograd.grad(loss, list(method.parameters().values()))
    return hidden.detach(), gradients


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("case", ["prefix-hidden", "prefix-kv", "prefix-kv-mlp"])
def test_lower_right_order_without_a_mask_equals_the_mask(tiny_lm, monkeypatch, kind, case):
    """What a GPU does, made to happen here too; the mask, and repeated heads, are the slow side.

    Texts inside the sliding window (no mask of the model's own) and beyond it.
    """
    lm = tiny_lm(kind)
    method = attach(lm, case, layers=None)
    real, sizes = attention.causal_lower_right, []
    monkeypatch.setattr(attention, "causal_lower_right", lambda *size: sizes.append(size) or real(*size))
    for length in (1, WINDOW - 1, LONG):
        ids = torch.stack([row(random_ids(length, seed))[0] for seed in (1, 2)])
        monkeypatch.setattr(attention, "_flash", lambda *args: False)
        masked, gradients = loss_and_gradients(lm, method, ids)
        assert not sizes
        monkeypatch.setattr(attention, "_flash", lambda *args: True)
        free, ours = loss_and_gradients(lm, method, ids)
        near("lower right = mask", free, masked)
        for one, other in zip(ours, gradients, strict=True):
            near("lower right = mask, gradients", one, other)
        if length == WINDOW - 1:
            assert set(sizes) == {(length, length + 4)}
        assert bool(sizes) == (length > 1 and (length < WINDOW or kind != "mistral"))
        sizes.clear()


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("case", ["prefix-hidden", "lora", "soft-prompt"])
def test_grouped_heads_equal_repeated_ones(tiny_lm, monkeypatch, kind, case):
    """With masks of packed rows and of windows."""
    lm = tiny_lm(kind)
    method = attach(lm, case)
    ids = row(random_ids(LONG))
    layout = Layout(row([8] * 9 + [LONG - 1] * (LONG - 9)), row([*range(9), *range(LONG - 9)]))
    collected = []
    for repeated in (False, True):
        if repeated:
            sdpa = attention.scaled_dot_product_attention

            def repeat(query, k, v, *args, enable_gqa=False, sdpa=sdpa, **kwargs):
                times = query.shape[1] // k.shape[1]
                return sdpa(
                    query, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1), *args, **kwargs
                )

            monkeypatch.setattr(attention, "scaled_dot_product_attention", repeat)
        collected.append(loss_and_gradients(lm, method, ids, layout))
    assert (collected[0][0] - loss_and_gradients(lm, method, ids)[0]).abs().max() > 0.05, (
        "the layout does something"
    )
    near("grouped = repeated", collected[0][0], collected[1][0])
    for one, other in zip(collected[0][1], collected[1][1], strict=True):
        near("grouped = repeated, gradients", one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("case", ["prefix-hidden", "prefix-kv"])
def test_flash_on_a_gpu_equals_the_mask(monkeypatch, case):
    """In bfloat16, where the kernel is really taken."""
    lm = make_lm("llama", dtype=torch.bfloat16)
    lm.model.to("cuda")
    method = attach(lm, case)
    ids = torch.tensor([random_ids(LONG, 1), random_ids(LONG, 2)], device="cuda")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        free, ours = loss_and_gradients(lm, method, ids)
    monkeypatch.setattr(attention, "_flash", lambda *args: False)
    masked, gradients = loss_and_gradients(lm, method, ids)
    near("flash = mask", free, masked, 0.05)
    for one, other in zip(ours, gradients, strict=True):
        near("flash = mask, gradients", one, other, 0.05)
