"""Texts behind one another in one line, on a GPU: PyTorch's flash kernel for texts of many lengths.

The same line as `crosstune.models.attention.cpu_line`, for the same reason: nothing is computed for padding,
and no mask is made. The kernel (`torch.nn.attention.varlen`) takes queries and keys of all texts and where
each begins. Where there are more keys than queries, causal order is aligned at the lower right: what a text
follows (keys and values of a prefix, a soft prompt's tokens) is put in front of its own. A sliding window is
counted from there as well, which a prefix that every token sees does not fit: with a window shorter than the
texts that is left to padded lines.

Texts that are only read may be trees: questions on a passage, choices behind a prompt
(`crosstune.models.attention.flash.cascade`).

Before the first use, the kernel is compared with the text-by-text computation in fp32, on small random
numbers, forward and backward, in the shape of the model's heads. Where it fails then or later, or is not
there, that is said in one line and batches are padded.
"""

import inspect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from crosstune.models.attention import cpu_line
from crosstune.models.attention.cpu_line import PaddingFreeBatch
from crosstune.models.attention.flash import cascade
from crosstune.models.attention.flash.kernel import IN_PLACE, compared_in_place
from crosstune.models.attention.trees import grow
from crosstune.models.proof import FastWay, Note

KERNEL = FastWay(
    fast="packed",
    plain="training batches are padded",
    tolerance=0.05,
    because="16 bits and another order of sums; a wrong mask differs by as much as the numbers themselves",
    part="packing",
)
READING = FastWay(
    fast="packed",
    plain="prompts are read in padded rows",
    tolerance=0.05,
    because="as in training",
    part="packing",
)
Shape = tuple[torch.device, torch.dtype, int, int, int, bool]


@dataclass(frozen=True, slots=True)
class VarlenBatch(PaddingFreeBatch):
    """A `PaddingFreeBatch` line that the flash kernel reads."""

    calls: dict[tuple[Any, ...], list[cascade.Call]] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """Where the kernel finds what, made once for all layers."""

    # ``[keys]``: of each key of each text, its place among those in front and then the line's; empty where
    # no text follows anything.
    columns: Tensor
    home: Tensor  # ``[line]``: of each of the line's tokens, its place among ``columns`` in its own text
    of_front: Tensor  # ``[texts, front]``: places among ``columns`` of what stands in front of all
    of_shared_prefix: Tensor  # ``[texts, shared prefix]``: the same of the shared prefix
    ends_q: Tensor  # ``[texts + 1]`` int32: where each text's queries begin, and the last one's end
    ends_k: Tensor  # the same of keys
    longest_q: int  # queries of the longest text
    longest_k: int  # the most keys


@lru_cache(maxsize=4)
def plan(lengths: tuple[int, ...], shared_prefix: int, front: int, device: torch.device) -> KernelPlan:
    """The plan of a line with ``front`` keys before every text."""
    columns: list[int] = []
    home: list[int] = []
    of_front: list[range] = []
    of_shared_prefix: list[range] = []
    ends_q, ends_k = [0], [0]
    for start, n, seen in PaddingFreeBatch(lengths, shared_prefix).pieces():
        at = len(columns)
        columns += [*range(front + seen), *range(front + start, front + start + n)]
        home += range(at + front + seen, len(columns))
        of_front.append(range(at, at + front))
        if seen:
            of_shared_prefix.append(range(at + front, at + front + seen))
        ends_q.append(len(home))
        ends_k.append(len(columns))
    if not (front or shared_prefix):
        columns, home = [], []  # keys stay where they are

    def places(rows: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor([list(row) for row in rows], dtype=torch.long, device=device)

    with torch.inference_mode(False):
        return KernelPlan(
            torch.tensor(columns, device=device),
            torch.tensor(home, device=device),
            places(of_front),
            places(of_shared_prefix),
            torch.tensor(ends_q, dtype=torch.int32, device=device),
            torch.tensor(ends_k, dtype=torch.int32, device=device),
            *(max(b - a for a, b in itertools.pairwise(ends)) for ends in (ends_q, ends_k)),
        )


def kernel(q: Tensor, k: Tensor, v: Tensor, plan: KernelPlan, scaling: float, window: int | None) -> Tensor:
    """PyTorch's flash kernel over ``[tokens, heads, head_dim]``; 16 bits, on a GPU.

    It is called by the signature that this PyTorch has. From 2.12 on it groups heads by itself; in 2.10 and
    before it knows causal order in place of windows, and no factor but ``head_dim ** -0.5``.

    Raises:
        NotImplementedError: This PyTorch's kernel has no windows, and one is asked for.
    """
    from torch.nn.attention.varlen import varlen_attn

    run: Any = varlen_attn
    known = inspect.signature(run).parameters
    options: dict[str, Any] = {}
    if "window_size" in known:
        options["window_size"] = (-1 if window is None else window - 1, 0)
    elif window is None:
        options["is_causal"] = True
    else:
        raise NotImplementedError("this PyTorch's kernel has no sliding windows")
    if "scale" in known:
        options["scale"] = scaling
    else:
        q = q * (scaling * q.shape[-1] ** 0.5)
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    out: Tensor = run(q, k, v, plan.ends_q, plan.ends_k, plan.longest_q, plan.longest_k, **options)
    return out


def attend(
    layout: VarlenBatch,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None = None,
    front: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """As `crosstune.models.attention.cpu_line.attend`: arguments, shapes and result as there."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    n = 0 if front is None else front[0].shape[1]
    text = layout.shared_prefix + max(layout.lengths)
    window = None if layout.window is None or layout.window >= text else layout.window
    if n and window is not None:
        return cpu_line.attend(layout, query, key, value, scaling, front)
    # Squeezed: the gradient of an index is a copy into zeros, by heads, which is copied once more.
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    if layout.ends is not None or torch.is_inference_mode_enabled():
        in_front = None if not n or front is None else (front[0].transpose(0, 1), front[1].transpose(0, 1))
        return cascade.attend(_calls(layout, window, q.device), q, k, v, scaling, in_front, window)[None]
    where = plan(layout.lengths, layout.shared_prefix, n, q.device)
    if n or layout.shared_prefix:
        gather: Any = _Gather.apply
        # New, as a piece of `k` would have a gradient of its size.
        nothing = [x.new_empty(0, *x.shape[1:]) for x in (k, v)]
        front_k, front_v = nothing if front is None else (x.transpose(0, 1) for x in front)
        k, v = gather(front_k, k, where), gather(front_v, v, where)
    return kernel(q, k, v, where, scaling, window)[None]


def _calls(layout: VarlenBatch, window: int | None, device: torch.device) -> list[cascade.Call]:
    """What a line that is only read asks of the kernel, made once for all layers."""
    key = (layout.shared_prefix, window is not None, device)
    if key not in layout.calls:
        n = layout.shared_prefix
        plain = [length - 1 for length in layout.lengths for _ in range(length)]
        ends_of_texts = iter(plain if layout.ends is None else layout.ends.tolist())
        ends = [n + sum(layout.lengths) - 1] * n
        for start, length, _ in layout.pieces():
            if start >= n:
                ends += [start + end for end in itertools.islice(ends_of_texts, length)]
        layout.calls[key] = cascade.calls_of(ends, window is not None, device)
    return layout.calls[key]


class _Gather(torch.autograd.Function):
    """Keys (or values) as the kernel takes them: of each text, what it follows and its own.

    The gradient of what many texts follow is summed in fp32 and in their order: the same bits every time.
    """

    @staticmethod
    def forward(ctx: Any, front: Tensor, line: Tensor, where: KernelPlan) -> Tensor:
        """``[front, kv_heads, d]`` and ``[line, kv_heads, d]`` to ``[keys, kv_heads, d]``."""
        ctx.where = where
        return torch.cat([front, line]).index_select(0, where.columns)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """To those in front, and to the line."""
        where: KernelPlan = ctx.where
        line = grad.index_select(0, where.home)
        if where.of_shared_prefix.numel():
            n = where.of_shared_prefix.shape[1]
            line[:n] = (line[:n].float() + grad[where.of_shared_prefix].float().sum(0)).to(line.dtype)
        return grad[where.of_front].float().sum(0).to(grad.dtype), line, None


# --- whether to ------------------------------------------------------------------------------------


def suits(lm: Any, longest: int, note: Note | None = None, reading: bool = False) -> bool:
    """Whether texts of up to ``longest`` tokens (soft prompt included) are packed in training this model.

    ``note`` logs one line if the kernel is wanted and not used. With ``reading``, texts or trees of them that
    are only read.
    """
    if lm.device.type != "cuda" or lm.dtype not in (torch.float16, torch.bfloat16):
        return False
    if drops_attention(lm) and not reading:
        return False
    if {lm.layer_device(i) for i in range(lm.geometry.layers)} != {lm.device}:
        return False
    window = getattr(lm.decoder.config, "sliding_window", None)
    # A first position that is not 0 says that a prefix stands in front.
    if lm.adaptation.first_position and window is not None and window < longest:
        return False
    shape = kernel_shape(lm)
    if reading:
        return READING.trusted(shape, lambda: compared_reading(*shape), note)
    return KERNEL.trusted(shape, lambda: compared(*shape), note)


def reads_in_place(lm: Any, note: Note | None = None) -> bool:
    """Whether steps of writing read a cache in place (`attend_in_place`)."""
    if lm.device.type != "cuda" or lm.dtype not in (torch.float16, torch.bfloat16):
        return False
    if {lm.layer_device(i) for i in range(lm.geometry.layers)} != {lm.device}:
        return False
    shape = kernel_shape(lm)
    return IN_PLACE.trusted(shape, lambda: compared_in_place(*shape), note)


def drops_attention(lm: Any) -> bool:
    """Whether training drops attention probabilities, by the names that families have for the rate."""
    config = lm.decoder.config
    names = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")
    return any(getattr(config, name, 0.0) for name in names)


def kernel_shape(lm: Any) -> Shape:
    """What the kernel is tried for: where, in which dtype, heads and their size, and whether with windows."""
    g, window = lm.geometry, getattr(lm.decoder.config, "sliding_window", None)
    return lm.device, lm.dtype, g.heads, g.kv_heads, g.head_dim, window is not None


def compared(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, windows: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Results and gradients on small random numbers, each with the plain computation's in fp32."""
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(device, dtype).requires_grad_()

    lengths = (5, 130, 64, 1)
    cases: tuple[tuple[int, int, int | None], ...] = ((0, 0, None), (3, 0, None), (0, 10, None))
    for shared_prefix, n, window in (*cases, (0, 0, 7), (3, 0, 7)) if windows else cases:
        line = VarlenBatch(lengths, shared_prefix, device, window=window)
        tokens = shared_prefix + sum(lengths)
        q, up = some(1, heads, tokens, head_dim), some(1, tokens, heads, head_dim).detach()
        k, v = some(1, kv_heads, tokens, head_dim), some(1, kv_heads, tokens, head_dim)
        front = (some(kv_heads, n, head_dim), some(kv_heads, n, head_dim)) if n else ()
        inputs = (q, k, v, *front)
        out = attend(line, q, k, v, None, front or None)
        fast = (out, *torch.autograd.grad(out, inputs, up))
        exact = [x.detach().float().requires_grad_() for x in inputs]
        true = cpu_line.attend(line, exact[0], exact[1], exact[2], None, (exact[3], exact[4]) if n else None)
        yield from zip(fast, (true, *torch.autograd.grad(true, exact, up.float())), strict=True)


@torch.inference_mode()
def compared_reading(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, windows: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Results for texts and trees of small random numbers, each with the plain computation's in fp32."""
    draw = torch.Generator().manual_seed(0)
    passage = list(range(70))
    texts = [[*passage, 100, 101], [*passage, 102, 103, 104], [*passage, 102, 105], [*passage, 106] * 2]
    trees = [grow(texts), grow([passage[:5]]), grow([passage[:9], passage[:4]])]
    lengths = tuple(len(tree.tokens) for tree in trees)
    ends = torch.tensor([end for tree in trees for end in tree.ends], device=device)
    places = torch.tensor([place for tree in trees for place in tree.positions], device=device)
    cases = ((0, 0, None), (3, 0, None), (0, 10, None), (3, 0, 7))
    for (shared_prefix, n, window), grown in itertools.product(cases if windows else cases[:-1], (1, 0)):
        line = VarlenBatch(lengths, shared_prefix, device, window=window)
        line = replace(line, places=places, ends=ends) if grown else line
        tokens = shared_prefix + sum(lengths)
        shapes: list[tuple[int, ...]] = [(1, h, tokens, head_dim) for h in (heads, kv_heads, kv_heads)]
        shapes += [(kv_heads, n, head_dim)] * 2 if n else []
        numbers = [torch.randn(*shape, generator=draw).to(device, dtype) for shape in shapes]
        exact = [x.float() for x in numbers]
        fast, true = (
            run(kind, x[0], x[1], x[2], None, (x[3], x[4]) if n else None)
            for run, kind, x in (
                (attend, line, numbers),
                (cpu_line.attend, replace(line, _plans={}), exact),
            )
        )
        yield fast, true
