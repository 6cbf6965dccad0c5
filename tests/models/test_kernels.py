"""Norms, rotation and gates in one kernel each: transformers' numbers, and fewer tensors kept."""

import logging
import sys
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from crosstune.config.environment import GPU_OFF
from crosstune.methods.adapters import lora_kernel
from crosstune.models.fast import kernels, products, remade
from crosstune.models.fast.kernels import FUSED, fused_kernels
from crosstune.outputs.rows import TrainingRow
from crosstune.training.objectives import answer_loss
from tiny_models import DEVICE, attach, collated, make_lm, near, random_ids

COMPILED = kernels.compiled
ROWS = [TrainingRow(tuple(random_ids(9 + i, i)), 2) for i in range(4)]


@pytest.fixture(autouse=True)
def _not_compiled(monkeypatch):
    """Compiling takes a minute on a CPU; `test_compiled` does it."""
    monkeypatch.setattr(FUSED, "verdicts", {})
    monkeypatch.setattr(FUSED, "_said", set())
    monkeypatch.setattr(kernels, "compiled", lambda function: function)


def replaced_in(lm):
    """Modules that something stands for, linear layers left out."""
    return [m for m in lm.model.modules() if "forward" in vars(m) and type(m) is not torch.nn.Linear]


def step(lm, method):
    """Loss, gradients, and bytes kept for the backward pass that are not the model's."""
    own = {p.untyped_storage().data_ptr() for p in lm.model.parameters()}
    kept = {}

    def keep(x):
        packed = remade._pack(x)
        for saved in [x] if isinstance(packed[0], torch.Tensor) else packed[0].args:  # made again from those
            if isinstance(saved, torch.Tensor) and saved.untyped_storage().data_ptr() not in own:
                kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return packed

    with torch.autograd.graph.saved_tensors_hooks(keep, remade._unpack):
        loss = answer_loss(lm, collated(ROWS, torch.device(DEVICE)))
    loss.backward()
    method.after_backward()
    gradients = {name: p.grad.clone() for name, p in method.parameters().items()}
    for p in method.parameters().values():
        p.grad = None
    return loss, gradients, sum(kept.values())


def test_what_was_written_to_is_kept_or_refused():
    """Its recipe would give what it was before, or of other inputs; PyTorch does not look inside of hooks."""
    x = torch.randn(4, 8)
    y = x * 2
    remade.made_by(y, partial(torch.mul, x, 2))
    part = y.view(2, 16)[:, :8]
    again = remade._pack(part)
    assert remade._unpack(again).equal(part)
    assert remade._unpack(again) is not part
    y.detach().add_(1)
    kept = remade._pack(part)
    assert remade._unpack(kept) is part
    for written, packed in ((y, kept), (x, again)):
        written.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            remade._unpack(packed)


def test_what_a_model_may_do_with_a_norm():
    """Change what it gave in place; checkpoint it. A second derivative, which it has not, is refused."""
    weight, other = torch.randn(8), torch.randn(8, 8).requires_grad_()
    x = torch.randn(5, 8).requires_grad_()

    def norm(x):
        return kernels._Norm.apply(x, weight, 1e-6, False)

    def gradients(y):
        return torch.autograd.grad((y @ other).square().sum(), (x, other))

    with remade.made_again():
        want = gradients(norm(x) * 3)
        in_place = gradients(norm(x).mul_(3))
        again = gradients(checkpoint(lambda x: norm(x) * 3, x, use_reentrant=False))
        assert all(map(torch.equal, want, in_place))
        assert all(map(torch.equal, want, again))
        (slope,) = torch.autograd.grad(norm(x).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError):
            torch.autograd.grad(slope.sum(), x)


def test_products_add_their_gradients_to_one_sum(monkeypatch):
    """Of each backward pass, whatever reads the tensor besides, changes it, or is asked for alone."""
    draw = torch.Generator().manual_seed(0)
    weight, x = torch.randn(8, generator=draw), torch.randn(2, 5, 8, generator=draw).requires_grad_()
    a, b = (torch.randn(shape, generator=draw).requires_grad_() for shape in ((2, 8), (6, 2)))
    layers = [torch.nn.Linear(8, 6) for _ in range(3)]
    torch.nn.ModuleList(layers[:2]).requires_grad_(False)
    run = lora_kernel._NarrowUpdate.apply

    def losses(first, second, trained, sum_of):
        y = kernels._Norm.apply(x, weight, 1e-6, False)
        outs = [run(first(y), y, a, b, 0.5, sum_of(y)), second(y), trained(y), y * 2]
        yield sum(out.square().sum() for out in outs)
        yield outs[0].square().sum()
        yield second(y.mul_(3)).square().sum()

    wanted = losses(*layers, lambda y: None)
    added = losses(*map(products.adding, layers), products.sum_of)
    for want, got in zip(wanted, added, strict=True):
        torch.testing.assert_close(got, want)
        for inputs in ([a], [x], [x, a, b], [x]):  # the first leaves a sum that nothing takes up
            slopes = [
                torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
                for loss in (want, got)
            ]
            for slope, exact in zip(*slopes, strict=True):
                assert (slope is None) == (exact is None)
                assert slope is None or torch.allclose(slope, exact, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert products.sum_of(kernels._Norm.apply(x, weight, 1e-6, False)) is None
    norm = kernels._norms(make_lm("llama").layers[0].input_layernorm)[0]
    compare = lambda: products.compared(norm, 64, torch.device("cpu"), torch.float32)  # noqa: E731
    assert FUSED.fault(compare) == ""
    monkeypatch.setattr(products.Sum, "add", lambda self, left, right: setattr(self, "_rows", left @ right))
    assert FUSED.fault(compare) != ""


@pytest.mark.parametrize("case", ["lora-all", "full"])
def test_losses_and_gradients_of_a_model(family, case, monkeypatch):
    """Gradients are as near to those of fp32 as those of transformers' own operations in bf16."""
    exact = make_lm(family)
    _, wanted, _ = step(exact, attach(exact, case))
    lm = make_lm(family, torch.bfloat16)
    method = attach(lm, case)
    plain_loss, plain, plain_bytes = step(lm, method)
    with fused_kernels(lm.model, lm.dtype):
        replaced = replaced_in(lm)
        loss, gradients, nbytes = step(lm, method)
        # What is made again are the same bits, and what is kept in its place is kept anyway.
        monkeypatch.setattr(kernels, "made_by", lambda *args: None)
        same_loss, same, more_bytes = step(lm, method)
    kinds = [type(m).__name__ for m in lm.model.modules() if type(m) is not torch.nn.Linear]
    assert len(replaced) == sum(kind.endswith(("RMSNorm", "MLP")) for kind in kinds)
    assert not any("forward" in vars(m) for m in lm.model.modules())
    assert same_loss == loss
    assert all(same[name].equal(gradient) for name, gradient in gradients.items())
    assert nbytes < 0.92 * more_bytes < 0.8 * plain_bytes, (nbytes, more_bytes, plain_bytes)
    near("loss of a model with fused kernels, bf16", loss, plain_loss, 0.02)
    for name, gradient in gradients.items():
        off, plain_off = ((x.float() - wanted[name]).norm() for x in (gradient, plain[name]))
        assert off <= 1.3 * plain_off + 0.01 * wanted[name].norm(), name


@pytest.mark.parametrize("part", ["norm", "norm_gradient", "turn", "turn_gradient", "gate", "gate_gradient"])
def test_a_wrong_kernel_is_not_used(monkeypatch, caplog, part):
    """One that gives other numbers, forward or backward, in one line each."""
    lm = make_lm("llama", torch.bfloat16)
    right = getattr(kernels, part)

    def wrong(*args):
        out = right(*args)
        return (1.1 * out[0], *out[1:]) if isinstance(out, tuple) else 1.1 * out

    monkeypatch.setattr(kernels, part, wrong)
    turned = vars(sys.modules[type(lm.layers[0].self_attn).__module__])
    before = turned["apply_rotary_pos_emb"]
    with caplog.at_level(logging.INFO, "crosstune"), fused_kernels(lm.model, lm.dtype):
        kinds = {type(m).__name__ for m in replaced_in(lm)}
        kinds |= {"turn"} if turned["apply_rotary_pos_emb"] is not before else set()
    lost = {"norm": "LlamaRMSNorm", "gate": "LlamaMLP", "turn": "turn"}[part.partition("_")[0]]
    assert kinds == {"LlamaRMSNorm", "LlamaMLP", "turn"} - {lost}
    assert "norms, rotation and gates are transformers' own" in caplog.text
    assert turned["apply_rotary_pos_emb"] is before


def test_what_cannot_be_compiled_is_computed_all_the_same(monkeypatch, caplog):
    def fails(function, **options):
        def run(*args):
            raise RuntimeError("Cannot find a working triton installation\nand more")

        return run

    monkeypatch.setattr(kernels.torch, "compile", fails)
    monkeypatch.setattr(kernels, "compiled", COMPILED.__wrapped__)
    monkeypatch.setattr(kernels.COMPILED, "_said", set())
    lm = make_lm("llama", torch.bfloat16)
    with caplog.at_level(logging.INFO, "crosstune"), fused_kernels(lm.model, lm.dtype):
        assert len(replaced_in(lm)) == 10
    assert "operation by operation, not in one kernel (gate: Cannot find a working triton" in caplog.text


def test_switched_off_and_in_fp32(monkeypatch):
    lm = make_lm("llama")
    with fused_kernels(lm.model, lm.dtype):
        assert not any("forward" in vars(m) for m in lm.model.modules())
    lm = make_lm("llama", torch.bfloat16)
    monkeypatch.setenv(GPU_OFF, "fusing")
    with fused_kernels(lm.model, lm.dtype):
        assert not any("forward" in vars(m) for m in lm.model.modules())


def test_lora_in_16_bits(monkeypatch):
    """In a model on a GPU, here on a CPU: trusted there, and gradients as near to fp32's as before."""
    assert lora_kernel.NARROW.fault(lambda: lora_kernel.compared(torch.device("cpu"), torch.bfloat16)) == ""
    exact = make_lm("llama")
    _, wanted, _ = step(exact, attach(exact, "lora-all"))
    lm = make_lm("llama", torch.bfloat16)
    method = attach(lm, "lora-all")
    _, plain, _ = step(lm, method)
    monkeypatch.setattr(lora_kernel, "_narrow", lambda x, result: True)
    _, gradients, _ = step(lm, method)
    for name, gradient in gradients.items():
        off, plain_off = ((x - wanted[name]).norm() for x in (gradient, plain[name]))
        assert off <= 1.3 * plain_off + 0.01 * wanted[name].norm(), name
    for slip in ("forward", "backward"):
        right = getattr(lora_kernel._NarrowUpdate, slip)

        def wrong(ctx, *args, right=right):
            out = right(ctx, *args)
            return (
                1.1 * out if isinstance(out, torch.Tensor) else (out[0], *(1.1 * x for x in out[1:4]), None)
            )

        with monkeypatch.context() as patch:
            patch.setattr(lora_kernel._NarrowUpdate, slip, staticmethod(wrong))
            compare = lambda: lora_kernel.compared(torch.device("cpu"), torch.bfloat16)  # noqa: E731
            assert lora_kernel.NARROW.fault(compare) == "it gives other numbers"


def test_all_layers_and_batches_take_the_same_kernels(monkeypatch):
    """A function is compiled anew for tensors of another rank, another width, or with gradients: in vain."""
    kinds = set()

    def record(function):
        def run(*args):
            tensors = [x for x in map(kernels._for_any_rows, args) if isinstance(x, torch.Tensor)]
            assert not any(x.requires_grad for x in tensors)
            assert all(x._dynamo_weak_dynamic_indices == {0} for x in tensors if x.dim() > 1)
            kinds.add((function.__name__, *((x.shape[1:] if x.dim() > 1 else x.shape) for x in tensors)))
            return function(*args)

        return run

    monkeypatch.setattr(kernels, "compiled", record)
    lm = make_lm("qwen3", torch.bfloat16)
    with fused_kernels(lm.model, lm.dtype):
        kinds.clear()
        step(lm, attach(lm, "full"))
        # Hidden states, queries and keys have norms of two widths, and are turned as two numbers of heads.
        functions = ("gate", "gate_gradient", "norm", "norm_gradient", "norm_slopes", "turn", "turn_gradient")
        of = {name: sum(kind[0] == name for kind in kinds) for name in functions}
        assert list(of.values()) == [1, 1, 2, 2, 2, 2, 2]
        with torch.inference_mode():
            lm.hidden(torch.tensor([random_ids(7), random_ids(7, 1)]))
        assert len(kinds) == sum(of.values())


@pytest.mark.slow
def test_each_function_is_compiled_a_few_times_at_most(monkeypatch):
    """By PyTorch's own count, without the time that making the kernels takes."""
    monkeypatch.setattr(kernels.torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(kernels, "compiled", COMPILED)
    COMPILED.cache_clear()
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters["stats"]
    counted.clear()
    lm = make_lm("llama", torch.bfloat16)
    method = attach(lm, "full")
    with fused_kernels(lm.model, lm.dtype):
        for rows in (ROWS, ROWS[:3], ROWS[:2]):
            answer_loss(lm, collated(rows, torch.device("cpu"))).backward()
            method.after_backward()
    COMPILED.cache_clear()
    assert counted["unique_graphs"] == 9
    assert not kernels.COMPILED._said


@pytest.mark.slow
def test_compiled(monkeypatch):
    """The gate, by PyTorch's compiler for CPUs."""
    monkeypatch.undo()
    monkeypatch.setattr(FUSED, "verdicts", {})
    lm = make_lm("llama", torch.bfloat16)
    mlp = lm.layers[0].mlp
    assert kernels._fast(mlp, lm.dtype) is not None
