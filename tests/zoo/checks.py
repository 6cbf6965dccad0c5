"""One architecture through every method: right against the independent computation, or refused in a line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import encoder_decoders
import encoders
import independent
import torch
from architectures import eager_model
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.methods.stack import Stack
from crosstune.methods.staged.stage import Staged
from crosstune.models.attention.choose import BatchForm, for_writing, lay_out
from crosstune.models.attention.trees import grow
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.load import load
from crosstune.outputs.generation import _read
from eager_pairs import wanted as wanted_of_pairs
from saved_model import byte_tokenizer

NEAR = 1e-4
"""Of the largest logit: fp32 in another order of sums comes to a few millionths."""
GRADIENTS_NEAR = 2e-3
"""Of a tensor's largest gradient: a sum over all logits, most of which cancel."""
PROMPT = 3
# Every way a method reaches a model: name -> (method, settings).
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("none", {}),
    "soft-prompt": ("soft-prompt", {"length": PROMPT}),
    "prefix-hidden": ("prefix", {"length": PROMPT}),
    "prefix-kv": ("prefix", {"length": PROMPT, "space": "kv"}),
    "llama-adapter": ("llama-adapter", {"length": PROMPT}),
    "lora": ("lora", {"rank": 2}),
    "peft-loha": ("peft", {"type": "LOHA", "r": 2, "alpha": 4}),
    "bottleneck": ("bottleneck", {"width": 5, "sublayers": "both"}),
    "bottleneck-parallel": ("bottleneck", {"width": 5, "placement": "parallel"}),
    "compacter": ("compacter", {"width": 8, "placement": "pfeiffer"}),
    "ia3": ("ia3", {}),
    "full": ("full", {}),
    "full-biases": ("full", {"only": "biases"}),
    "full-norms": ("full", {"only": "norms", "layers": 1}),
    "sparse": ("sparse", {"keep": 100}),
    "lora-prefix": ("stack", {"stack": ["lora", {"name": "prefix", "length": PROMPT, "space": "kv"}]}),
}


def own_way(name: str) -> bool:
    """Whether a method changes what the model computes, and is more than its stage's method."""
    method = METHODS[name]
    return method.learning_rate is not None and not method.needs_head and not issubclass(method, Staged)


# A method without a case here has one of its default settings.
_WITH_A_CASE = {name for name, _ in CASES.values()}
CASES |= {name: (name, {}) for name in METHODS if own_way(name) and name not in _WITH_A_CASE}
# What changes weights, or what a token is by itself, knows of no other token: `none` is read in every form,
# and so is all that has keys of its own.
OF_ONE_TOKEN = {"lora", "peft-loha", "bottleneck", "bottleneck-parallel", "compacter", "ia3"}
WITHOUT_KEYS = {"a text alone", "texts in one line", "last rows alone", "decoding steps"}
RIGHT, SLOW, REFUSED, WRONG = "right", "right one text per row", "refused", "WRONG"


def save(model: Any, folder: Path) -> Path:
    """The model and a tokenizer in a folder, as a hub repository holds them."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def check(name: str, folder: Path, cases: Sequence[str] = tuple(CASES)) -> dict[str, str]:
    """What becomes of an architecture, by case: `RIGHT` or `SLOW`, or "refused: ..." or "WRONG: ...".

    Args:
        name: Of `architectures.ARCHITECTURES`, `encoders.ENCODERS` or `encoder_decoders.ENCODER_DECODERS`.
        folder: Empty, for the saved model.
        cases: Of `CASES`.
    """
    eager = eager_model(name)
    save(eager, folder)
    try:
        lm = load(str(folder), device="cpu", dtype="float32")
    except UserError as error:
        said = one_line(error).replace(str(folder), "MODEL")
        return dict.fromkeys(cases, said)
    except Exception as error:
        return dict.fromkeys(cases, f"{WRONG}: load ends in {type(error).__name__}: {error}"[:200])
    outcomes = {case: _outcome(case, lm, eager) for case in cases}
    slow = {RIGHT: SLOW} if lm.geometry.apart else {}
    return {case: slow.get(said, said) for case, said in outcomes.items()}


def one_line(error: UserError) -> str:
    """A refusal as the table has it."""
    said = str(error)
    return f"{REFUSED}: {said}" if "\n" not in said else f"{WRONG}: a refusal of several lines: {said}"


def _outcome(case: str, lm: LanguageModel, eager: Any) -> str:
    name, settings = CASES[case]
    if "target_modules" in METHODS[name].Config.model_fields:
        settings = settings | {"target_modules": targets(lm) if name == "peft" else "all-linear"}
    if name == "stack":
        lora = {"name": "lora", "rank": 2, "target_modules": "all-linear"}
        settings = {"stack": [lora if part == "lora" else part for part in settings["stack"]]}
    kind = METHODS[name]
    method = kind(kind.Config(**settings))
    before = [id(module) for module in lm.model.modules()]
    try:
        counted = kind.count(method.config, lm.geometry)
        method.attach(lm, seed=3)
    except UserError as error:
        found = one_line(error)
        after = [id(module) for module in lm.model.modules()]
        return found if before == after else f"{WRONG}: a refused method leaves modules behind"
    except Exception as error:
        return f"{WRONG}: attach ends in {type(error).__name__}: {error}"[:200]
    try:
        shake(method)
        real = method.trained_parameters()
        if counted != real:
            return f"{WRONG}: counts {counted} parameters and trains {real}"
        with _wanted(case, method, lm, eager) as logits:
            return _compare(case, method, lm, logits)
    except Exception as error:
        return f"{WRONG}: {type(error).__name__}: {error}".replace("\n", " ")[:200]
    finally:
        method.detach()


def shake(method: Any) -> None:
    """Move every trained parameter away from where it starts: no gate, no B is zero after this."""
    for part in getattr(method, "methods", {}).values():
        shake(part)
    if isinstance(method, Stack):
        return
    generator = torch.Generator().manual_seed(1)
    scale = 0.02 if method.trains_weights else 0.1 if hasattr(method.config, "target_modules") else 0.3
    with torch.no_grad():
        for parameter in method.parameters().values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    method.after_step()


def targets(lm: LanguageModel) -> tuple[str, ...]:
    """Names of the linear layers of attention and MLP."""
    found = {
        name.rpartition(".")[2]
        for layer in lm.layers
        for name, module in layer.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    }
    usual = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    return tuple(sorted(found & usual or found))


@contextmanager
def _wanted(case: str, method: Any, lm: LanguageModel, eager: Any) -> Iterator[independent.Logits]:
    """The logits that a case has to give, by the independent computation."""
    p = method.parameters()
    name = method.name
    names = {id(module): name for name, module in lm.model.named_modules()}
    stack = [eager.get_submodule(names[id(module)]) for module in lm.layers]
    attentions = [eager.get_submodule(names[id(module)]) for module in lm.attentions]
    layers = range(len(attentions))
    if lm.geometry.encoder or lm.geometry.encoder_layers:
        lora = _lora_weights(method.methods["0.lora"], eager) if case == "lora-prefix" else None
        method = method if lora is None else method.methods["1.prefix"]
        weights = lora or _weights(case, method, lm, eager, stack)
        if lm.geometry.encoder:
            with encoders.wanted(method, weights, lm, eager) as out:
                yield out
        else:
            with wanted_of_pairs(method, weights, eager) as logits:
                yield lambda pair: logits(*pair)
    elif (weights := _weights(case, method, lm, eager, stack)) is not None:
        yield independent.with_weights(eager, weights)
    elif case == "none":
        yield independent.plain(eager)
    elif case == "soft-prompt":
        yield independent.with_soft_prompt(eager, p["prompt"])
    elif case == "prefix-hidden":
        states = [p[f"layers.{i}"] for i in layers]
        yield independent.with_prefix(eager, independent.keys_of(eager, attentions, states))
    elif case == "prefix-kv":
        yield independent.with_prefix(eager, _pairs(p, lm, eager, attentions))
    elif case == "lora-prefix":
        pairs = _pairs(method.methods["1.prefix"].parameters(), lm, eager, attentions)
        lora = method.methods["0.lora"]
        read = functools.partial(independent.with_prefix, pairs=pairs)
        yield independent.with_weights(eager, _lora_weights(lora, eager), read)
    elif case == "llama-adapter":
        pairs = independent.keys_of(eager, attentions, [p[f"layers.{i}.prompt"] for i in layers])
        prompts = [(*pairs[i], torch.tanh(p[f"layers.{i}.gate"])) for i in layers]
        if eager.config.model_type in independent.OWN:
            projections = [layer.output.module for layer in lm.parts.layers]
            outputs = [eager.get_submodule(names[id(module)]) for module in projections]
            gated = independent.gated_by_hand(eager, attentions, outputs, prompts)
        else:
            gated = independent.gated(eager, attentions, prompts)
        with gated as logits:
            yield logits
    elif name in ("bottleneck", "compacter"):
        with independent.adapted(eager, stack, dict(p), method.config.placement) as logits:
            yield logits
    else:  # has no equation here: all forms against a text alone
        yield lambda text: lm.logits(lm.hidden(torch.tensor([text]))[0])


def _weights(
    case: str, method: Any, lm: LanguageModel, eager: Any, stack: Sequence[torch.nn.Module]
) -> dict[str, Tensor] | None:
    """The weights that a method changes, as they have to be; None of one that changes none."""
    p = method.parameters()
    if case == "lora":
        return _lora_weights(method, eager)
    if method.name == "peft":
        weights = {}
        names = {id(module): name for name, module in lm.model.named_modules()}
        a, b, c, d = (f".hada_{factor}.default" for factor in ("w1_a", "w1_b", "w2_a", "w2_b"))
        for name in (key.removesuffix(a) for key in p if key.endswith(a)):
            _, layer, rest = name.split(".", 2)
            at = f"{names[id(lm.layers[int(layer)])]}.{rest}.weight"
            update = method.config.model_extra["alpha"] / method.config.model_extra["r"]
            update = update * (p[name + a] @ p[name + b]) * (p[name + c] @ p[name + d])
            weights[at] = eager.get_parameter(at) + update
        return weights
    if method.name == "ia3" and not lm.geometry.encoder_layers:
        scaled = encoders.scaled if lm.geometry.encoder else independent.scaled
        return scaled(eager, stack, dict(p))
    if method.name == "sparse":  # all may change while there is no mask
        return {key: eager.get_parameter(key) + x for key, x in p.items()}
    return dict(p) if method.trains_weights else None


def _pairs(p: Any, lm: LanguageModel, eager: Any, attentions: Any) -> list[independent.Pair]:
    """Of a key-value prefix's parameters, in the shape of the keys and values that each attention makes."""
    layers = range(len(attentions))
    shapes = independent.keys_of(eager, attentions, [torch.zeros(1, lm.geometry.hidden)] * len(layers))
    return [
        tuple(  # type: ignore[misc]
            x.view(PROMPT, like.shape[0], -1).transpose(0, 1)
            for x, like in zip(p[f"layers.{i}"], shapes[i], strict=True)
        )
        for i in layers
    ]


def _lora_weights(method: Any, eager: Any) -> dict[str, Tensor]:
    """The changed weights."""
    p, scale, weights = method.parameters(), method.config.alpha / method.config.rank, {}
    for name in (key.removesuffix(".A") for key in p if key.endswith(".A")):
        update = scale * p[f"{name}.B"] @ p[f"{name}.A"]
        module = eager.get_submodule(name)
        weights[f"{name}.weight"] = module.weight + (update.T if isinstance(module, Conv1D) else update)
    return weights


def _compare(case: str, method: Any, lm: LanguageModel, logits: Callable[[Any], Tensor]) -> str:
    """All the forms in which texts are read, and the gradients, against the texts by themselves."""
    generator = torch.Generator().manual_seed(2)
    # A prefix stays visible beyond a sliding window (of 8), an ordinary cache forgets it.
    long, short, shared_prefix = (5, 4, 3) if "prefix" in case else (21, 6, 9)
    draws = torch.randint(3, lm.geometry.vocabulary, (3, 30), generator=generator).tolist()
    one, other = draws[0][:long], draws[1][:short]
    branch = one[:shared_prefix] + draws[2][: long - shared_prefix - 1]
    texts = [one, branch, other]
    if lm.geometry.encoder_layers:
        texts = [(text, target[:n]) for text, target, n in zip(texts, draws, (4, 8, 6), strict=True)]
    forms = _forms(lm)
    if (case in OF_ONE_TOKEN or method.trains_weights) and not lm.geometry.encoder_layers:
        forms = {form: read for form, read in forms.items() if form in WITHOUT_KEYS}
    # Masters of weights are stepped, not computed with; the forms see them in the weights.
    learns = method.trains and not method.trains_weights
    with torch.set_grad_enabled(learns):
        wanted = [logits(text) for text in texts]
    with torch.no_grad(), method.evaluating():
        for form, read in forms.items():
            try:
                found = read(lm, texts)
            except Exception as error:
                return f"{WRONG}: {form}: {type(error).__name__}: {error}".replace("\n", " ")[:200]
            for ours, theirs in zip(found, wanted, strict=True):
                if gap := apart(ours, theirs[-len(ours) :]):
                    return f"{WRONG}: {form}: logits are off by {gap:.2g} of the largest"
    if method.trains:
        with torch.set_grad_enabled(learns):
            found = forms["padded rows" if lm.geometry.encoder_layers else "texts in one line"](lm, texts)
        for ours, theirs in zip(found, wanted, strict=True):
            if gap := apart(ours, theirs):
                return f"{WRONG}: in training logits are off by {gap:.2g} of the largest"
        if learns and (gap := _gradients(method, found, wanted)):
            return f"{WRONG}: gradients are off by {gap:.2g} of the largest"
    return RIGHT


def apart(ours: Tensor, theirs: Tensor, near: float = NEAR) -> float:
    """The largest difference, of the largest entry; 0 where that is noise."""
    ours, theirs = ours.detach(), theirs.detach()
    if not (ours.isfinite().all() and theirs.isfinite().all()):
        return float("inf")
    gap = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
    return gap if gap > near else 0.0


def _gradients(method: Any, found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """How far the gradients of a batch are from those of its texts one by one.

    Args:
        method: Of which all parameters are compared.
        found: Logits of each text, of the batch.
        wanted: The same, of each text by itself.
    """
    parameters = list(method.parameters().values())

    def gradients(rows: Sequence[Tensor]) -> Iterator[Tensor]:
        flat = torch.cat([row.flatten() for row in rows])
        loss = (flat.float() * torch.linspace(-1, 1, len(flat))).sum()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        return (torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True))

    pairs = zip(gradients(found), gradients(wanted), strict=True)
    return max(apart(ours, theirs, near=GRADIENTS_NEAR) for ours, theirs in pairs)


# --- forms ------------------------------------------------------------------------------------------


def _forms(lm: Any) -> dict[str, Any]:
    """The ways in which a model of its family reads texts."""
    if lm.geometry.encoder_layers:
        return encoder_decoders.FORMS
    return encoders.FORMS if lm.geometry.encoder else FORMS


def _alone(lm: LanguageModel, texts: list[list[int]]) -> list[Tensor]:
    return [lm.logits(lm.hidden(torch.tensor([text]))[0]) for text in texts]


def _padded(lm: LanguageModel, texts: list[list[int]]) -> list[Tensor]:
    placed = lay_out(BatchForm.PADDED, [grow([text]) for text in texts], lm.pad_id, lm.device)
    hidden = lm.hidden(placed.ids, placed.layout)
    return [lm.logits(row[: len(text)]) for row, text in zip(hidden, texts, strict=True)]


def _in_line(lm: LanguageModel, texts: list[list[int]], branched: bool = False) -> list[Tensor]:
    trees = [grow(texts[:2]), grow(texts[2:])] if branched else [grow([text]) for text in texts]
    placed = lay_out(BatchForm.PADDING_FREE, trees, lm.pad_id, lm.device)
    hidden = lm.hidden(placed.ids, placed.layout)[0]
    out, start = [], 0
    for tree in trees:
        out += [lm.logits(hidden[[start + at for at in path]]) for path in tree.paths]
        start += len(tree.tokens)
    return out


def _masked(lm: LanguageModel, texts: list[list[int]]) -> list[Tensor]:
    trees = [grow(texts[:2]), grow(texts[2:])]
    placed = lay_out(BatchForm.PADDED, trees, lm.pad_id, lm.device)
    hidden = lm.hidden(placed.ids, placed.layout)
    return [lm.logits(row[path]) for row, tree in zip(hidden, trees, strict=True) for path in tree.paths]


def _few_rows(lm: LanguageModel, texts: list[list[int]]) -> list[Tensor]:
    placed = lay_out(BatchForm.PADDED, [grow([text]) for text in texts], lm.pad_id, lm.device)
    rows = torch.tensor([start + len(text) - 1 for start, text in zip(placed.starts, texts, strict=True)])
    return list(lm.logits(lm.hidden(placed.ids, placed.layout, rows=rows))[:, None])


def _decoding(lm: LanguageModel, texts: list[list[int]]) -> list[Tensor]:
    """The last two tokens as steps behind the prompts, which are read in one line."""
    slots = for_writing(lm, len(texts), max(map(len, texts)))
    states = [_read(lm, [grow([text[:-2]]) for text in texts], slots, form=BatchForm.PADDING_FREE)[0]]
    states += [lm.step(torch.tensor([text[at] for text in texts]), slots) for at in (-2, -1)]
    return list(torch.stack([lm.logits(state) for state in states], dim=1))


FORMS: dict[str, Callable[[LanguageModel, list[list[int]]], list[Tensor]]] = {
    "a text alone": _alone,
    "padded rows": _padded,
    "texts in one line": _in_line,
    "branches in one line": functools.partial(_in_line, branched=True),
    "branches by a mask": _masked,
    "last rows alone": _few_rows,
    "decoding steps": _decoding,
}
