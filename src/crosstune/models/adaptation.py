"""What methods leave on a model: one part each, in a stack.

A language adapter under a task adapter, or LoRA with a prefix: each method attaches one `Part`, for all
languages or for some. A stack computes what each part computes on the model as the parts before it left it:

* soft prompts A, then B: the input is ``[A; B; E(x)]``;
* prefixes A, then B, in one layer: ``softmax(q [A_k; B_k; K]^T) [A_v; B_v; V]``, and the text starts at
  position ``n_A + n_B``;
* gated prompts: ``softmax(q [A_k; K]^T) [A_v; V] + sum_i g_i softmax(q P_ik^T) P_iv``, a prefix A or none;
* a prefix of n tokens and a soft prompt of m, in either order: to the prefix a soft prompt is text. It stands
  at the positions n to n + m - 1, and the text behind it;
* changed weights: prompts made of hidden vectors are projected by the weights as they are changed.

What cannot be stacked is refused when it is attached.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from crosstune.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Stacking = Literal["freely", "once", "alone"]
"""Whether a part stands with any others, with any but one that wraps linear layers as it does, or alone."""


class Stackable(Protocol):
    """A method, or the part that it left."""

    @property
    def name(self) -> str:
        """Of the method."""

    @property
    def stacking(self) -> Stacking:
        """With what it can stand."""


def conflict(below: Stackable, above: Stackable) -> str | None:
    """Why one cannot be put on the other; None where it can."""
    if "alone" in (below.stacking, above.stacking):
        return f"{above.name} cannot be put on {below.name}: one of the two must be alone"
    if below.stacking == above.stacking == "once":
        return f"{above.name} cannot be put on {below.name}: both wrap linear layers, which one alone can"
    return None


@dataclass(frozen=True, slots=True)
class Prompt:
    """Trained keys and values for one layer's attention."""

    # Called in every forward; returns keys and values, each ``[kv_heads, n, head_dim]`` in the model's
    # dtype. Keys are used as they are, not rotated.
    keys_values: "Callable[[], tuple[Tensor, Tensor]]"
    # Called for the factor of the gated form, ``[heads]`` or ``[1]``; None for the joint form, in which the
    # prompt shares the text's softmax.
    gate: "Callable[[], Tensor] | None" = None


@dataclass(eq=False)
class Part:
    """What one method leaves on a model."""

    name: str  # of the method
    languages: frozenset[str] | None = None  # codes of the languages it is active for; None for all
    stacking: Stacking = "freely"  # with which other parts it can stand
    soft_prompt: "Tensor | None" = None  # ``[n, hidden]``, in front of the text's embeddings
    prompts: dict[int, Prompt] = field(default_factory=dict)  # by number of the layer
    shift: int = 0  # added to the position of the first token
    two_way: frozenset[int] = frozenset()  # layers of a causal model in which tokens see those behind them
    # Called with True or False to switch on or off what the part changed in the model's modules.
    switch: Callable[[bool], None] | None = None
    # Takes the part out of the model's modules again, however far attaching it came.
    undo: ExitStack = field(default_factory=ExitStack, repr=False)

    def active_for(self, language: str | None) -> bool:
        """Whether it is active for a language.

        Raises:
            RuntimeError: No language is chosen, and the part is not for all.
        """
        if self.languages is not None and language is None:
            raise RuntimeError(f"{self.name} is not for all languages: choose one with `for_language`")
        return self.languages is None or language in self.languages


class Adaptation:
    """The parts on one model.

    Args:
        attentions: The model's attention modules, lowest first; the hook asks for their prompts.

    Attributes:
        parts: In the order they were attached.
        language: The language that parts are active for; None where none is chosen.
    """

    def __init__(self, attentions: Sequence[Any]) -> None:
        self.parts: list[Part] = []
        self.language: str | None = None
        for layer, module in enumerate(attentions):
            _PLACES[module] = (weakref.ref(self), layer)

    @contextmanager
    def attaching(self, part: Part) -> Iterator[None]:
        """Attach a part that is made inside; of one that fails nothing stays.

        Raises:
            UserError: It cannot stand with a part that is attached.
        """
        for other in self.parts:
            if problem := conflict(other, part):
                raise UserError(problem)
        try:
            yield
        except BaseException:
            part.undo.close()
            raise
        self.parts.append(part)

    def detach(self, part: Part) -> None:
        """Take a part off, wherever it is in the stack."""
        self.parts.remove(part)
        part.undo.close()

    # --- languages ------------------------------------------------------------------------------

    @contextmanager
    def for_language(self, language: str) -> Iterator[None]:
        """Inside, those parts are active that are for all languages or for this one."""
        before, self.language = self.language, language
        self._switch()
        try:
            yield
        finally:
            self.language = before
            self._switch()

    def _switch(self) -> None:
        for part in self.parts:
            if part.switch is not None and part.languages is not None:
                part.switch(self.language is None or part.active_for(self.language))

    def groups(self, languages: Iterable[str]) -> list[list[str]]:
        """Languages for which the same parts are active, together, in order."""
        groups: dict[tuple[bool, ...], list[str]] = {}
        for language in languages:
            active = tuple(part.active_for(language) for part in self.parts)
            groups.setdefault(active, []).append(language)
        return list(groups.values())

    @property
    def active(self) -> list[Part]:
        """The parts that are active now.

        Raises:
            RuntimeError: No language is chosen, and some part is not for all.
        """
        return [part for part in self.parts if part.active_for(self.language)]

    # --- what the model computes with ------------------------------------------------------------

    @property
    def soft_prompt(self) -> "Tensor | None":
        """``[n, hidden]`` in front of the text's embeddings, if there is any."""
        return _joined([part.soft_prompt for part in self.active if part.soft_prompt is not None], 0)

    @property
    def front(self) -> int:
        """Length of `soft_prompt`."""
        return sum(len(part.soft_prompt) for part in self.active if part.soft_prompt is not None)

    @property
    def first_position(self) -> int:
        """Position of the first token, a soft prompt's or the text's."""
        return sum(part.shift for part in self.active)

    @property
    def two_way(self) -> frozenset[int]:
        """Layers of a causal model in which tokens see those behind them."""
        return frozenset().union(*(part.two_way for part in self.active if part.two_way))

    def prompts(self, layer: int) -> "Prompts":
        """What a layer's attention sees beside its text."""
        return Prompts([part.prompts[layer] for part in self.active if layer in part.prompts])


class Prompts(list[Prompt]):
    """The prompts of one layer."""

    def joint(self) -> "tuple[Tensor, Tensor] | None":
        """Keys and values ``[kv_heads, n, head_dim]`` in front of the text's own, if there are any."""
        pairs = [prompt.keys_values() for prompt in self if prompt.gate is None]
        keys, values = _joined([keys for keys, _ in pairs], 1), _joined([values for _, values in pairs], 1)
        return None if keys is None or values is None else (keys, values)

    def gated(self) -> list[Prompt]:
        """Those that are attended to by themselves."""
        return [prompt for prompt in self if prompt.gate is not None]


def _joined(tensors: "list[Tensor]", dim: int) -> "Tensor | None":
    if len(tensors) < 2:
        return tensors[0] if tensors else None
    import torch

    return torch.cat(tensors, dim)


_PLACES: "weakref.WeakKeyDictionary[Any, tuple[weakref.ref[Adaptation], int]]" = weakref.WeakKeyDictionary()


def prompts_of(module: Any) -> Prompts:
    """The prompts that are active on an attention module."""
    adaptation, layer = _place_of(module)
    return Prompts() if adaptation is None else adaptation.prompts(layer)


def sees_behind(module: Any) -> bool:
    """Whether tokens of a causal attention module see those behind them."""
    adaptation, layer = _place_of(module)
    return adaptation is not None and layer in adaptation.two_way


def _place_of(module: Any) -> tuple[Adaptation | None, int]:
    place = _PLACES.get(module)
    return (None, 0) if place is None else (place[0](), place[1])
