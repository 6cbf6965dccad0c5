"""Lines for a GPU's flash kernel, a slow loop in its place: the same as text by text; kernels are proved."""

import importlib.util
import itertools
from types import SimpleNamespace

import pytest
import torch

from crosstune.config.environment import GPU_OFF
from crosstune.models.adaptation import Part
from crosstune.models.attention import cpu_line as ragged
from crosstune.models.attention import gpu_line as packed
from crosstune.models.attention.choose import BatchForm
from crosstune.models.attention.cpu_line import PaddingFreeBatch
from crosstune.models.attention.gpu_line import VarlenBatch
from crosstune.models.attention.layout import pattern_of
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.rows import TrainingRow
from crosstune.training.loop import train
from crosstune.training.objectives import answer_loss
from crosstune.training.settings import TrainSettings
from tiny_models import DEVICE, FAMILIES, TRAINED, WINDOW, attach, collated, make_lm, shake

LENGTHS = (4, 9, 1, 6)
WITH_THE_KERNEL = pytest.mark.skipif(
    importlib.util.find_spec("torch.nn.attention.varlen") is None,
    reason="PyTorch before 2.10 has no such kernel",
)


def slow(q, k, v, plan, scaling, window, align=0):
    """As FlashAttention's documentation has it: the last row sees the last column, windows begin there."""
    out = []
    ends_q, ends_k = plan.ends_q.tolist(), plan.ends_k.tolist()
    for i in range(len(ends_q) - 1):
        rows, columns = slice(*ends_q[i : i + 2]), slice(*ends_k[i : i + 2])
        group = q.shape[1] // k.shape[1]
        keys, values = (x[columns].repeat_interleave(group, 1).float() for x in (k, v))
        apart = (ends_q[i + 1] - ends_q[i]) - (ends_k[i + 1] - ends_k[i])
        distance = torch.arange(len(q[rows]))[:, None] - torch.arange(len(keys)) - apart + align
        seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        seen = seen.to(q.device)
        scores = torch.einsum("qhd,khd->hqk", q[rows].float(), keys) * scaling
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        out.append(torch.einsum("hqk,khd->qhd", weights, values).to(q.dtype))
    return torch.cat(out)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("shared_prefix", [0, 3])
@pytest.mark.parametrize("front", [0, 5])
@pytest.mark.parametrize("window", [None, 4, 100])
def test_equals_text_by_text(monkeypatch, shared_prefix, front, window):
    monkeypatch.setattr(packed, "kernel", slow)
    tokens = shared_prefix + sum(LENGTHS)
    q, k, v = (numbers(1, heads, tokens, 8, seed=heads) for heads in (4, 2, 2))
    stood = (numbers(2, front, 8, seed=7), numbers(2, front, 8, seed=8)) if front else None
    inputs = (q, k, v, *(stood or ()))
    up = numbers(1, tokens, 4, 8, seed=9).detach()
    wanted = ragged.attend(PaddingFreeBatch(LENGTHS, shared_prefix, window=window), q, k, v, 0.3, stood)
    line = pattern_of(VarlenBatch(LENGTHS).behind(shared_prefix).mask(window))
    assert isinstance(line, VarlenBatch)
    outputs = packed.attend(line, q, k, v, 0.3, stood)
    torch.testing.assert_close(outputs, wanted, rtol=1e-5, atol=1e-6)
    for ours, right in zip(
        torch.autograd.grad(outputs, inputs, up), torch.autograd.grad(wanted, inputs, up), strict=True
    ):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5)


def test_a_prefix_and_a_window_do_not_meet_the_kernel(monkeypatch):
    """Its window would hide the prefix from later tokens."""
    monkeypatch.setattr(packed, "kernel", None)
    q, k = numbers(1, 2, 9, 8), numbers(1, 2, 9, 8)
    packed.attend(VarlenBatch((9,), window=4), q, k, k, None, (k[0, :, :2], k[0, :, :2]))
    with pytest.raises(TypeError):
        packed.attend(VarlenBatch((9,), window=9), q, k, k, None, (k[0, :, :2], k[0, :, :2]))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("case", TRAINED)
@pytest.mark.parametrize("family", FAMILIES)
def test_training_on_packed_lines(monkeypatch, family, case, checkpointing):
    """Through the loop, against padded lines: the losses of two steps, and so the gradients of the first."""
    if checkpointing and case not in ("soft-prompt", "prefix-kv", "lora"):
        pytest.skip("as without")
    monkeypatch.setattr(packed, "kernel", slow)
    draw = torch.Generator().manual_seed(3)
    lengths = [(3, 1), (21, 4), (9, 2), (5, 1), (14, 1), (2, 1), (11, 3), (6, 5)]
    rows = [TrainingRow(tuple(torch.randint(3, 200, (n,), generator=draw).tolist()), a) for n, a in lengths]
    settings = TrainSettings(steps=3, batch_size=8, gradient_checkpointing=checkpointing, warmup_steps=0)
    lm = make_lm(family)
    curves = []
    for way in (False, True):
        method = attach(lm, case)
        shake(method)
        with monkeypatch.context() as patch:
            form = BatchForm.VARLEN if way else BatchForm.PACKED
            patch.setattr("crosstune.models.attention.choose.training_form", lambda *args, form=form: form)
            curves.append([point["loss"] for point in train(method, rows, settings).curve])
        method.detach()
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert len(set(curves[0])) == 3


def test_a_line_is_as_long_as_its_texts():
    rows = [TrainingRow((5,) * n, 1) for n in (3000, 2, 7)]
    batch = collated(rows, form=BatchForm.VARLEN)
    assert batch.ids.shape == (1, 2999 + 1 + 6)
    assert isinstance(batch.layout, VarlenBatch)
    assert batch.layout.mask(None).numel() == 1


# --- the proof --------------------------------------------------------------------------------------


SHAPE = (torch.device("cpu"), torch.bfloat16, 4, 2, 16, True)


def fault(shape=SHAPE):
    return packed.KERNEL.fault(lambda: packed.compared(*shape))


def test_a_right_kernel_is_trusted(monkeypatch):
    monkeypatch.setattr(packed, "kernel", slow)
    before = torch.get_rng_state()
    assert fault() == ""
    assert torch.equal(torch.get_rng_state(), before)


def upper_left(q, k, v, plan, scaling, window):
    """Causal order aligned at the other corner: right while no text follows anything."""
    ends_q, ends_k = plan.ends_q.tolist(), plan.ends_k.tolist()
    more = max(
        (k1 - k0) - (q1 - q0) for (k0, k1), (q0, q1) in zip(_pairs(ends_k), _pairs(ends_q), strict=True)
    )
    return slow(q, k, v, plan, scaling, window, align=-more)


def _pairs(ends):
    return list(itertools.pairwise(ends))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (upper_left, "gives other numbers"),
        (lambda q, k, v, plan, scaling, window: slow(q, k, v, plan, scaling, None), "gives other numbers"),
        (
            lambda q, k, v, plan, scaling, window: slow(q, k, v, plan, scaling, window and window + 1),
            "gives other",
        ),
        (lambda q, k, v, *rest: slow(q, k.detach(), v, *rest), "appears to not have been used"),
        (lambda q, k, v, *rest: slow(q, k, v, *rest) * torch.nan, "gives other numbers"),
        (lambda q, k, v, *rest: slow(q, k, v, *rest, enable_gqa=True), "unexpected keyword argument"),
    ],
)
def test_a_wrong_kernel_is_not(monkeypatch, wrong, why):
    monkeypatch.setattr(packed, "kernel", wrong)
    assert why in fault()


@pytest.mark.skipif(DEVICE != "cpu", reason="there is one")
def test_no_kernel_on_a_cpu():
    assert fault()


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_the_real_kernel():
    assert fault((torch.device(DEVICE, 0), *SHAPE[1:4], 64, True)) == ""


@WITH_THE_KERNEL
def test_pytorchs_own_checks_take_what_it_is_called_with():
    """Names, shapes and dtypes as this PyTorch wants them, there and back, on tensors without storage."""
    where = packed.plan((3, 4), 2, 1, torch.device("meta"))
    q, k, v = (
        torch.empty(n, heads, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
        for n, heads in ((9, 8), (14, 2), (14, 2))
    )
    out = packed.kernel(q, k, v, where, 0.125, 5)
    assert out.shape == q.shape
    assert [x.shape for x in torch.autograd.grad(out.sum(), (q, k, v))] == [q.shape, k.shape, v.shape]


def varlen_of(version):
    """The kernel as a PyTorch of some version has it: its signature, and slow arithmetic."""

    def compute(q, k, v, cu_q, cu_k, scale, window):
        plan = SimpleNamespace(ends_q=cu_q, ends_k=cu_k)
        return slow(q, k, v, plan, q.shape[-1] ** -0.5 if scale is None else scale, window)

    def same_heads(q, k):
        if q.shape[1] != k.shape[1]:
            raise RuntimeError("heads of queries and keys differ")

    def old(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None):
        same_heads(query, key)
        assert is_causal
        return compute(query, key, value, cu_seq_q, cu_seq_k, None, None)

    def windows(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
        same_heads(query, key)
        assert window_size[1] == 0
        window = None if window_size[0] < 0 else window_size[0] + 1
        return compute(query, key, value, cu_seq_q, cu_seq_k, scale, window)

    def new(
        query,
        key,
        value,
        cu_seq_q,
        cu_seq_k,
        max_q,
        max_k,
        *,
        scale=None,
        window_size=(-1, -1),
        enable_gqa=False,
    ):
        if not enable_gqa:
            same_heads(query, key)
        window = None if window_size[0] < 0 else window_size[0] + 1
        return compute(query, key, value, cu_seq_q, cu_seq_k, scale, window)

    return {"2.10": old, "2.11": windows, "2.12": new}[version]


@WITH_THE_KERNEL
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("version", ["2.10", "2.11", "2.12"])
def test_the_kernel_is_called_by_the_signature_that_this_pytorch_has(monkeypatch, version, window):
    """Grouped heads, a factor that is not the usual one, a prefix and a soft prompt: there and back."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_of(version))
    shared_prefix, tokens = 3, 3 + sum(LENGTHS)
    q, k, v = (numbers(1, heads, tokens, 8, seed=heads) for heads in (4, 2, 2))
    stood = None if window else (numbers(2, 5, 8, seed=7), numbers(2, 5, 8, seed=8))
    line = VarlenBatch(LENGTHS, shared_prefix, window=window)
    if version == "2.10" and window:
        with pytest.raises(NotImplementedError):
            packed.attend(line, q, k, v, 0.3, stood)
        return
    inputs = (q, k, v, *(stood or ()))
    up = numbers(1, tokens, 4, 8, seed=9).detach()
    wanted = ragged.attend(PaddingFreeBatch(LENGTHS, shared_prefix, window=window), q, k, v, 0.3, stood)
    outputs = packed.attend(line, q, k, v, 0.3, stood)
    torch.testing.assert_close(outputs, wanted, rtol=1e-5, atol=1e-6)
    for ours, right in zip(
        torch.autograd.grad(outputs, inputs, up), torch.autograd.grad(wanted, inputs, up), strict=True
    ):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5)


def test_where_texts_are_packed(monkeypatch):
    told = []
    lm = make_lm("mistral", torch.bfloat16)
    if DEVICE == "cpu":
        assert not packed.suits(lm, 5, told.append)
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(type(lm), "device", property(lambda self: cuda))
    monkeypatch.setattr(type(lm), "layer_device", lambda self, i: cuda)
    monkeypatch.setattr(packed.KERNEL, "verdicts", {})
    monkeypatch.setattr(packed, "compared", lambda *shape: [])
    assert packed.suits(lm, 50, told.append)
    prefix = Part("prefix", shift=4)
    lm.adaptation.parts.append(prefix)
    assert packed.suits(lm, WINDOW, told.append)
    assert not packed.suits(lm, WINDOW + 1, told.append)
    lm.adaptation.parts.remove(prefix)
    monkeypatch.setenv(GPU_OFF, "packing")
    assert not packed.suits(lm, 5, told.append)
    monkeypatch.delenv(GPU_OFF)
    monkeypatch.setattr(lm.decoder.config, "attention_dropout", 0.1)
    assert not packed.suits(lm, 5, told.append)
    monkeypatch.setattr(lm.decoder.config, "attention_dropout", 0.0)
    assert told == []
    monkeypatch.setattr(packed.KERNEL, "verdicts", {})

    def none(*shape):
        raise TypeError("no such kernel")

    monkeypatch.setattr(packed, "compared", none)
    assert not packed.suits(lm, 5, told.append)
    assert not packed.suits(lm, 5, told.append)
    assert len(told) == 1
    assert "padded, not packed (no such kernel); CROSSTUNE_GPU_OFF=packing does not try" in told[0]


def test_a_kernel_that_fails_later_gives_way(monkeypatch):
    """In the middle of a step, of which one part went through: its gradients must not count twice."""
    lm = make_lm("llama")
    rows = [TrainingRow(tuple(range(3, 3 + n)), 1) for n in (4, 20, 9, 5)]
    settings = TrainSettings(steps=3, batch_size=4, tokens_per_pass=20)
    told, calls, curves = [], [], []

    def failing(*args):
        calls.append(1)
        if len(calls) > 4:
            raise (RuntimeError, TypeError)[len(calls) % 2]("CUDA error: invalid configuration\nand more")
        return slow(*args)

    monkeypatch.setattr(packed, "kernel", failing)
    for trusted in (False, True):
        verdicts = {packed.kernel_shape(lm): "" if trusted else "no"}
        monkeypatch.setattr(packed.KERNEL, "verdicts", verdicts)
        monkeypatch.setattr(
            "crosstune.models.attention.choose.suits",
            lambda lm, *args, **_: not packed.KERNEL.verdicts[packed.kernel_shape(lm)],
        )
        method = attach(lm, "lora")
        passes = TokenLimit(20, "cpu", "training", told.append)
        curves.append([point["loss"] for point in train(method, rows, settings, passes=passes).curve])
        method.detach()
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert len(calls) == 5  # three layers went through, and one more in the second part
    assert len(told) == 1
    assert "(CUDA error: invalid configuration)" in told[0]


def test_answers_through_the_model_equal_one_at_a_time(monkeypatch):
    """A soft prompt as the shared prefix of many texts, against each alone."""
    monkeypatch.setattr(packed, "kernel", slow)
    lm = make_lm("gemma3")
    shake(attach(lm, "soft-prompt"))
    rows = [TrainingRow(tuple(range(3, 3 + n)), 2) for n in (4, 20, 9)]
    here = torch.device(DEVICE)
    alone = sum(float(answer_loss(lm, collated([row], here)).detach()) for row in rows)
    assert float(answer_loss(lm, collated(rows, here, form=BatchForm.VARLEN)).detach()) == pytest.approx(
        alone, rel=1e-5
    )
