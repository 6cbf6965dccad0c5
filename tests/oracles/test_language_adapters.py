"""MAD-X and invertible adapters: the base model at the start, and the published equations after that."""

from typing import Any

import pytest
import torch
from torch import Tensor

from crosstune.methods import METHODS
from crosstune.methods.adapters.orthogonal import term
from crosstune.methods.base import Pass
from crosstune.models.attention.choose import BatchForm
from crosstune.models.attention.trees import grow
from crosstune.models.language_model import LanguageModel
from crosstune.models.loading.known import KNOWN
from crosstune.outputs import generation
from crosstune.outputs.choices import ChoiceItem, score_choices
from crosstune.outputs.rows import TrainingRow
from crosstune.outputs.settings import EvaluateSettings
from crosstune.training.loop import train
from crosstune.training.objectives import answer_loss
from crosstune.training.settings import TrainSettings
from reference_decoder import Effect, bottlenecks, reference_logits
from tiny_models import WINDOW, all_logits, collated, near, random_ids, shake

IDS = random_ids(2 * WINDOW + 3)
SETTINGS = {"width": 4, "language_width": 8}


def couplings(state: dict[str, Tensor]) -> tuple[Any, Any]:
    """NICE and its way back, in float64, one vector at a time."""

    def coupling(name: str, x: Tensor) -> Tensor:
        down, b, up, c = (
            state[f"embeddings.{name}.{end}"] for end in ("down.weight", "down.bias", "up.weight", "up.bias")
        )
        return torch.stack([up @ (down @ row + b).clamp(min=0) + c for row in x])

    def forward(x: Tensor) -> Tensor:
        x1, x2 = x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]
        y1 = x1 + coupling("first", x2)
        return torch.cat([y1, x2 + coupling("second", y1)], 1)

    def inverse(y: Tensor) -> Tensor:
        y1, y2 = y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]
        x2 = y2 - coupling("second", y1)
        return torch.cat([y1 - coupling("first", x2), x2], 1)

    return forward, inverse


def trained(lm: LanguageModel, config: Any, seed: int) -> dict[str, Tensor]:
    """Weights that a stage might have."""
    adapter = METHODS["bottleneck"](config)
    adapter.attach(lm)
    shake(adapter, seed)
    weights = {name: tensor.clone() for name, tensor in adapter.state().items()}
    adapter.detach()
    return weights


def mad_x(lm: LanguageModel, **settings: Any) -> Any:
    """On a model: English and Swahili with adapters of their own, Zulu with Swahili's, Thai with none."""
    method: Any = METHODS["mad-x"](METHODS["mad-x"].Config(**SETTINGS | settings))
    method.uses = {"en": "en", "sw": "sw", "zu": "sw", "th": None}
    config = method.stage.config
    method.weights = {code: trained(lm, config, seed) for seed, code in enumerate(("en", "sw"), start=5)}
    method.attach(lm)
    shake(method)
    return method


def effect(method: Any, text: str | None) -> Effect:
    """Of the stack with the adapter of one language, by the equations."""
    top = bottlenecks(method.config, doubled(method.state()))
    if text is None:
        return Effect(adapters=top)
    state = doubled(method.weights[text])
    below = bottlenecks(method.config, {name: t for name, t in state.items() if name.startswith("layers")})
    stack: dict[Any, list[Any]] = {place: [*below[place], *top[place]] for place in top}
    if method.config.residual == "paper":
        stack = {
            place: [lambda x, low=below[place][0], high=top[place][0]: high(x + low(x))] for place in top
        }
    forward, inverse = couplings(state)
    return Effect(adapters=stack, embedded=forward, finished=inverse)


def doubled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().double().cpu() for name, tensor in state.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("placement", ["inside", "houlsby", "pfeiffer"])
@pytest.mark.parametrize("residual", ["library", "paper"])
def test_it_starts_as_the_base_model_and_leaves_no_trace(tiny_lm, kind, placement, residual, dtype):
    lm = tiny_lm(kind, dtype)
    plain = all_logits(lm, IDS)
    settings = SETTINGS | {"placement": placement, "residual": residual}
    method: Any = METHODS["mad-x"](METHODS["mad-x"].Config(**settings))
    method.uses = {"en": "en", "sw": "sw"}
    method.attach(lm)
    with lm.adaptation.for_language("sw"):
        assert torch.equal(all_logits(lm, IDS), plain)
    method.detach()
    hooks = [module for module in lm.model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert (lm.adaptation.parts, hooks) == ([], [])
    assert torch.equal(all_logits(lm, IDS), plain)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@pytest.mark.parametrize("placement", ["inside", "pfeiffer"])
@pytest.mark.parametrize("residual", ["library", "paper"])
def test_each_language_gets_its_own_by_the_equations(tiny_lm, kind, placement, residual):
    lm = tiny_lm(kind)
    method = mad_x(lm, placement=placement, residual=residual)
    assert lm.adaptation.groups(["th", "en", "sw", "zu"]) == [["th"], ["en"], ["sw", "zu"]]
    for language, text in method.uses.items():
        with lm.adaptation.for_language(language):
            near(
                "mad-x = slow fp64 decoder",
                all_logits(lm, IDS),
                reference_logits(lm, IDS, effect(method, text)),
            )


def test_an_invertible_adapter_is_undone(tiny_lm):
    lm = tiny_lm("gemma3")
    method: Any = METHODS["bottleneck"](METHODS["bottleneck"].Config(width=4, invertible=True))
    method.attach(lm)
    shake(method)
    x = 5 * torch.randn(2, 7, lm.geometry.hidden, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(method.ends.forward(x), x, atol=0.1)
    near("invertible, there and back", method.ends.inverse(method.ends.forward(x)), x, 1e-6)
    near("invertible, back and there", method.ends.forward(method.ends.inverse(x)), x, 1e-6)


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_every_way_of_scoring_and_training_sees_both_ends(tiny_lm, kind):
    """Few columns, branches behind a shared prompt, and the loss in each form of a batch."""
    lm = tiny_lm(kind)
    method = mad_x(lm)
    slow = effect(method, "sw")
    labels = ((3, 7), (4,), (3, 9, 5))
    prompts = [random_ids(9), random_ids(9)[:6] + random_ids(5, seed=2)]
    with lm.adaptation.for_language("zu"), method.evaluating():
        scores = score_choices(lm, [ChoiceItem(p, labels) for p in prompts], EvaluateSettings())
        for prompt, ours in zip(prompts, scores, strict=True):
            sums = []
            for label in labels:
                logp = reference_logits(lm, [*prompt, *label], slow).log_softmax(-1)
                sums.append(sum(logp[len(prompt) - 1 + i, token] for i, token in enumerate(label)))
            near("choices with both ends", torch.tensor(ours), torch.stack(sums).log_softmax(0))
    rows = [TrainingRow(tuple(random_ids(5 + i, seed=i)), 2) for i in range(3)]
    with lm.adaptation.for_language("sw"):
        losses = [answer_loss(lm, collated(rows, form=form)) for form in list(BatchForm)[:3]]
    expected = -sum(
        reference_logits(lm, list(row.ids), slow).log_softmax(-1)[at - 1, row.ids[at]]
        for row in rows
        for at in range(len(row.ids) - row.answer, len(row.ids))
    )
    for loss in losses:
        near("loss with both ends", loss[None], expected[None])


def test_written_answers_see_both_ends(tiny_lm):
    lm = tiny_lm("gemma3")
    method = mad_x(lm)
    slow, prompts = effect(method, "sw"), [random_ids(5), random_ids(12, seed=1)]
    wanted: list[list[int]] = []
    for prompt in prompts:
        wanted.append([])
        while len(wanted[-1]) < 6:
            wanted[-1].append(int(reference_logits(lm, prompt + wanted[-1], slow)[-1].argmax()))
    with lm.adaptation.for_language("zu"):
        trees = [grow([prompt]) for prompt in prompts]
        assert generation._generate(lm, trees, 6, (), 10_000) == wanted


def test_counts() -> None:
    """REFERENCE: of Llama 3.1 8B."""
    shape = KNOWN["llama-3.1-8b"]
    count, config = METHODS["bottleneck"].count, METHODS["bottleneck"].Config
    assert count(config(width="d/2"), shape) == 537_067_520
    assert count(config(width="d/2", invertible=True), shape) == 537_067_520 + 8_394_752
    assert METHODS["mad-x"].count(METHODS["mad-x"].Config(), shape) == 67_248_128


@pytest.mark.parametrize("form", list(BatchForm)[:3])
def test_the_orthogonality_term_is_that_of_the_equation(tiny_lm, form):
    lm = tiny_lm("llama")
    method: Any = METHODS["bottleneck"](METHODS["bottleneck"].Config(width=4, ortho=0.5, sublayers="both"))
    method.attach(lm)
    shake(method)
    rows = [TrainingRow(tuple(random_ids(5 + 2 * i, seed=i)), 1) for i in range(3)]
    batch = collated(rows, form=form)
    lm.model.train()
    loss = answer_loss(lm, batch)
    tokens = torch.tensor([place for text in batch.tokens for place in text])
    read = Pass(1, 1.0, tokens, *batch.ids.shape)
    pairs = dict(method.pairs)
    whole = method.objective(loss, read)
    lm.model.eval()
    adapters = bottlenecks(method.config, doubled(method.state()))
    cosines = []
    for name, (_, y) in pairs.items():
        layer, place = int(name.split(".")[1]), name.split(".")[2]
        flat = y.detach().double().flatten(0, -2)
        flat = flat[tokens] if len(flat) == batch.ids.numel() else flat
        a = adapters[layer, f"inside {place}"][0](flat)
        cosines.append(torch.nn.functional.cosine_similarity(a, flat).square().mean())
    assert len(cosines) == 2 * lm.geometry.layers
    near("loss and orthogonality term", whole[None], (loss.double() + 0.5 * sum(cosines))[None], 2e-5)


def test_alternating_steps_lower_the_term_and_start_at_zero_harmlessly(tiny_lm):
    lm = tiny_lm("llama")
    rows = [TrainingRow(tuple(random_ids(9, seed=i)), 4) for i in range(4)]
    settings = TrainSettings(steps=30, batch_size=4, warmup_steps=0, learning_rate=0.01, decay="constant")
    ends = {}
    for ortho in (None, "alternate"):
        method: Any = METHODS["bottleneck"](METHODS["bottleneck"].Config(width=4, ortho=ortho))
        method.attach(lm)
        train(method, rows, settings)
        method.config = method.config.model_copy(update={"ortho": "alternate"})
        lm.model.train()
        batch = collated(rows)
        answer_loss(lm, batch)
        tokens = torch.tensor([place for text in batch.tokens for place in text])
        ends[ortho] = float(term(method.pairs.values(), tokens, *batch.ids.shape))
        lm.model.eval()
        method.detach()
    assert ends["alternate"] < 0.5 * ends[None], ends
