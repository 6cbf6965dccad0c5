"""States of frozen lower layers, computed once a text: the same training, the same bits whatever is kept."""

import gc
import random
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig

from crosstune.config.environment import CHECKPOINT_SECONDS, STATES_GB
from crosstune.errors import UserError
from crosstune.models.attention import choose
from crosstune.models.attention.choose import BatchForm
from crosstune.models.fast.activation_cache import ActivationCache
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.outputs.rows import TrainingRow
from crosstune.training.checkpoint import Checkpoint
from crosstune.training.loop import _training_mode, train
from crosstune.training.objectives import answer_loss
from crosstune.training.reuse import SIZES, Reuse, _read, drops, may_share, states_of
from crosstune.training.settings import TrainSettings
from tiny_models import DEVICE, FAMILIES, WINDOW, attach, collated, make_method, near, random_ids

LAYOUTS = ("lines", "alone", "checkpointed")
Weights = dict[str, torch.Tensor]
ON_A_CPU = pytest.mark.skipif(DEVICE != "cpu", reason="bits are promised on a CPU")

# Longer than the window, of like and unlike lengths, and two with the same prompt.
ROWS = [TrainingRow(tuple(random_ids(4 + 3 * i % 19, seed=i)), 1 + i % 3) for i in range(21)]
ROWS.append(TrainingRow((*ROWS[0].ids[:-1], 7), 1))
# Three batches an epoch: two epochs.
SIX = TrainSettings(
    steps=6, batch_size=8, warmup_steps=1, learning_rate=0.01, weight_decay=0.1, reuse_frozen_layers=True
)
# Every method that can be put into upper layers, and the layers below that are reused.
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "lora": ("lora-all", {}, 1),
    "lora-dropout": ("lora-all", {"dropout": 0.3, "layers": 1}, 2),
    "prefix-kv": ("prefix-kv", {"layers": 1}, 2),
    "prefix-mlp": ("prefix-hidden-mlp", {}, 1),
    "llama-adapter": ("llama-adapter-plain", {}, 1),
}


def on(lm: Any, case: str) -> Any:
    name, changes, _ = CASES[case]
    return attach(lm, name, **changes)


def go(
    lm: Any, case: str, settings: TrainSettings = SIX, seed: int = 3, **given: Any
) -> tuple[Weights, dict[str, Any], list[Any]]:
    """Train; the weights, what was reused, and the losses."""
    method = on(lm, case)
    try:
        result = train(method, ROWS, settings, seed, **given)
        weights = {name: x.detach().clone() for name, x in method.state().items()}
        return weights, result.reuse or {}, result.curve
    finally:
        method.detach()


def same(a: tuple[Weights, Any, list[Any]], b: tuple[Weights, Any, list[Any]]) -> None:
    assert a[2] == b[2]
    assert set(a[0]) == set(b[0])
    assert all(torch.equal(a[0][name], b[0][name]) for name in a[0])


@contextmanager
def calls_of(layer: Any) -> Iterator[list[int]]:
    """Tokens of each call of a layer's MLP, which does not run where the layer stands aside."""
    seen: list[int] = []
    hook = layer.mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:-1].numel()))
    try:
        yield seen
    finally:
        hook.remove()


# --- the same numbers as all the way through --------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "case", "layout"),
    [
        *((family, case, "ragged") for family in FAMILIES for case in CASES),
        *(("gemma3", case, layout) for case in ("lora", "prefix-kv") for layout in LAYOUTS),
    ],
)
def test_loss_and_gradients_are_those_of_the_whole_model(
    tiny_lm: Callable[..., Any], family: str, case: str, layout: str
) -> None:
    lm = tiny_lm(family)
    method = on(lm, case)
    lm.model.eval()  # PEFT's dropout comes switched on
    below = Reuse(method, ROWS[0]).below([row.ids[:-1] for row in ROWS])
    assert below is not None
    assert below[0] == CASES[case][2]
    assert max(len(row.ids) for row in ROWS) > WINDOW
    settings = TrainSettings(gradient_checkpointing=layout == "checkpointed")
    balance, ragged = (50.0 if layout == "lines" else None), layout in ("ragged", "checkpointed")
    results = []
    for options in (None, below):
        batch = collated(
            ROWS, DEVICE, balance, form=BatchForm.PADDING_FREE if ragged else None, below=options
        )
        if layout == "lines":
            assert 1 < len(batch.ids) < len(ROWS)
        with _training_mode(method, settings, seed=0), calls_of(lm.decoder.layers[0]) as calls:
            loss = answer_loss(lm, batch)
            loss.backward()
        assert bool(calls) == (options is None)
        results.append((loss.detach(), {name: p.grad.clone() for name, p in method.parameters().items()}))
        for p in method.parameters().values():
            p.grad = None
    (loss, grads), (again, reused_grads) = results
    near("loss from reused states", again, loss, 1e-4)
    for name, grad in grads.items():
        near("gradients from reused states", reused_grads[name], grad, 1e-4)


@pytest.mark.parametrize(("family", "case"), [*zip((*FAMILIES, "gemma3"), CASES, strict=True)])
def test_two_epochs_end_in_the_weights_of_a_plain_training(
    tiny_lm: Callable[..., Any], family: str, case: str
) -> None:
    weights, reuse, curve = go(tiny_lm(family), case)
    plain, nothing, wanted = go(tiny_lm(family), case, SIX.model_copy(update={"reuse_frozen_layers": False}))
    assert nothing == {}
    assert (reuse["layers"], reuse["texts_read"]) == (CASES[case][2], 2 * len(ROWS))
    # In the second epoch every text, and in the first the prompt that two of them share, if in two batches.
    assert reuse["texts_kept"] in (len(ROWS), len(ROWS) + 1)
    for name, x in plain.items():
        near("weights from reused states", weights[name], x, 1e-4)
    for ours, other in zip(curve, wanted, strict=True):
        assert ours["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_on_a_gpu_texts_go_through_together(
    tiny_lm: Callable[..., Any], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, texts = tiny_lm(family), [row.ids for row in ROWS]
    monkeypatch.setattr(choose, "reading_form", lambda *args: BatchForm.PADDED)
    together = _read(lm, 2, texts, fill=False)
    for text, states in zip(texts, together, strict=True):
        assert states.shape == (len(text), lm.geometry.hidden)
        alone = lm.entry_states(2, torch.tensor([text], device=DEVICE))[0]
        near("texts that go through together", states, alone)


# --- the same bits, however they are kept -----------------------------------------------------------


@ON_A_CPU
@pytest.mark.parametrize(
    ("case", "dtype"),
    [("lora-dropout", torch.float32), ("prefix-kv", torch.float32), ("llama-adapter", torch.bfloat16)],
)
def test_the_same_bits_whatever_is_kept(tiny_lm: Callable[..., Any], case: str, dtype: torch.dtype) -> None:
    wanted = go(tiny_lm("gemma3", dtype), case)
    assert wanted[1]["texts_kept"] >= len(ROWS)
    # Nothing fits, or a third of it.
    for limit, least in ((0, 0), (wanted[1]["bytes"] // 3, 3)):
        lm = tiny_lm("gemma3", dtype)
        lm.activation_cache = ActivationCache(limit)
        outcome = go(lm, case)
        assert least <= outcome[1]["texts_kept"] < len(ROWS) - 5
        assert outcome[1]["bytes"] <= limit
        same(outcome, wanted)
    # After a run with another seed, and so with another order, and after one of other positions or layers.
    lm = tiny_lm("gemma3", dtype)
    go(lm, case, seed=4)
    second = go(lm, case)
    assert second[1]["texts_kept"] == second[1]["texts_read"]
    same(second, wanted)
    for other in set(CASES) - {case}:
        go(lm, other, SIX.model_copy(update={"steps": 3}))
    same(go(lm, case), wanted)


@ON_A_CPU
@pytest.mark.parametrize("case", ["lora-dropout", "prefix-kv"])
def test_the_same_bits_after_a_kill(
    tiny_lm: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setenv(CHECKPOINT_SECONDS, "0")
    wanted = go(tiny_lm("mistral"), case)

    class Killed(Exception):  # noqa: N818 - nothing went wrong
        pass

    for step in (2, 4):

        def tell(progress: Any, last: int = step) -> None:
            if progress.step == last + 1:
                raise Killed

        folder = tmp_path / str(step)
        folder.mkdir()
        with pytest.raises(Killed):
            go(tiny_lm("mistral"), case, tell=tell, checkpoint=Checkpoint(folder, "x", print))
        # A new process has kept nothing.
        outcome = go(tiny_lm("mistral"), case, checkpoint=Checkpoint(folder, "x", print))
        same(outcome, wanted)
        assert outcome[1]["texts_read"] == wanted[1]["texts_read"]


@ON_A_CPU
def test_the_same_bits_when_memory_runs_out(tiny_lm: Callable[..., Any]) -> None:
    """The states give their memory back, and the step goes on in smaller parts."""
    wanted = go(tiny_lm("llama"), "lora", SIX.model_copy(update={"tokens_per_pass": 64}))
    lm, calls = tiny_lm("llama"), []
    go(lm, "lora")
    held = lm.activation_cache.held

    def small(module: Any, args: Any, kwargs: Any) -> None:
        calls.append(kwargs["inputs_embeds"].shape[1])
        if torch.is_grad_enabled() and calls[-1] > 64:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = lm.decoder.register_forward_pre_hook(small, with_kwargs=True)
    passes = TokenLimit(128)
    outcome = go(lm, "lora", passes=passes)
    hook.remove()
    assert (passes.limit, passes.halvings) == (64, 1)
    assert lm.activation_cache.limit is not None
    assert lm.activation_cache.limit <= held // 2
    assert outcome[1]["texts_read"] == 2 * len(ROWS)
    same(outcome, wanted)


@ON_A_CPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_whatever_shares_a_line(tiny_lm: Callable[..., Any], dtype: torch.dtype) -> None:
    lm = tiny_lm("qwen3", dtype)
    # The long ones fill lines; those of like length would attend together in any other line.
    lengths = (SIZES[-1], 1, SIZES[-1] + 1, 100, 156, 17, 65, 64, 2, 3, *range(20, 60))
    texts = [tuple(random_ids(n, seed=n)) for n in lengths]
    shared = may_share(lm, 2)
    wanted = [states_of(lm, 2, [text], shared)[0] for text in texts]
    draw = random.Random(0)
    for _ in range(4):
        mixed = draw.sample(texts, draw.randint(10, len(texts)))
        for text, states in zip(mixed, states_of(lm, 2, mixed, shared), strict=True):
            assert torch.equal(states, wanted[texts.index(text)])
            assert states.untyped_storage().nbytes() == states.nbytes
    for text, states in zip(texts, wanted, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        near("a text in a line of others", states, states_of(lm, 2, [text], False)[0], tolerance)


@ON_A_CPU
def test_lines_are_not_shared_where_bits_depend_on_them(tiny_lm: Callable[..., Any]) -> None:
    """A product that rounds otherwise from some number of rows on, or in some places, is found out."""
    for where in ("rows", "place"):
        lm = tiny_lm("llama")
        linear = lm.decoder.layers[1].mlp.down_proj
        plain = linear.forward

        def forward(x: Any, plain: Any = plain, where: str = where) -> Any:
            out = plain(x)
            some = x.shape[1] >= 192 if where == "rows" else slice(120, 124)
            if some is not False:
                out[:, some if where == "place" else slice(None)] *= 1 + 2**-22
            return out

        assert may_share(lm, 2)
        linear.forward = forward
        assert not may_share(lm, 2)
        assert may_share(lm, 1)
        outcome = go(lm, "lora-dropout")
        assert outcome[1]["texts_kept"] >= len(ROWS)


# --- what is not run again --------------------------------------------------------------------------


@ON_A_CPU
def test_the_bottom_runs_once_for_each_text(tiny_lm: Callable[..., Any]) -> None:
    lm = tiny_lm("gemma3")
    go(lm, "lora", SIX.model_copy(update={"steps": 1}))  # tries the model, and reads one batch
    one = len(lm.activation_cache._kept)
    with calls_of(lm.decoder.layers[0]) as calls:
        go(lm, "lora")
    texts = {row.ids[:-1] for row in ROWS}
    assert len(lm.activation_cache._kept) == len(texts)
    # One row is tried again, alone, all the way through, and in a line; the others come in lines.
    trial = 2 * (len(ROWS[0].ids) - 1) + SIZES[0]
    new = sum(len(text) for text in texts)
    assert 0 < one < len(texts)
    assert sum(calls) <= trial + new + SIZES[0] * 3
    with calls_of(lm.decoder.layers[0]) as calls:
        go(lm, "lora", seed=5)
    assert sum(calls) == trial


def test_states_go_with_the_model(tiny_lm: Callable[..., Any]) -> None:
    lm = tiny_lm("llama")
    go(lm, "lora")
    states = weakref.ref(next(iter(lm.activation_cache._kept.values()))[1])
    assert states() is not None
    del lm
    gc.collect()
    assert states() is None


# --- where nothing is reused ------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["soft-prompt", "full", "prefix-hidden", "llama-adapter", "lora"])
def test_methods_of_all_layers_are_trained_as_ever(tiny_lm: Callable[..., Any], case: str) -> None:
    trainings = []
    for settings in (SIX, SIX.model_copy(update={"reuse_frozen_layers": False})):
        lm, method = tiny_lm("llama"), make_method(case)
        method.attach(lm, seed=1)
        result = train(method, ROWS, settings, 3)
        trainings.append(
            ({name: x.detach().clone() for name, x in method.state().items()}, None, result.curve)
        )
        if settings.reuse_frozen_layers:
            assert result.reuse == {
                "layers": 0, "texts_read": 0, "texts_kept": 0, "why_not": "adapted from the lowest layer up"
            }  # fmt: skip
    same(*trainings)


def test_a_model_with_dropout_is_not_reused(tiny_lm: Callable[..., Any]) -> None:
    _, reuse, _ = go(tiny_lm("llama", attention_dropout=0.1), "lora")
    assert (reuse["layers"], reuse["why_not"]) == (0, "the model has dropout")


def test_layers_that_tell_each_other_more_are_not_reused(tiny_lm: Callable[..., Any]) -> None:
    """A model whose upper layer looks at what the lowest one has left for it beside its states."""
    trainings = []
    for settings in (SIX, SIX.model_copy(update={"reuse_frozen_layers": False})):
        lm, left = tiny_lm("llama"), []
        first, last = lm.decoder.layers[0], lm.decoder.layers[2]
        whole, upper = first.forward, last.forward

        def leave(states: Any, *args: Any, whole: Any = whole, left: Any = left, **kwargs: Any) -> Any:
            left.append(states)
            return whole(states, *args, **kwargs)

        def look(states: Any, *args: Any, upper: Any = upper, left: Any = left, **kwargs: Any) -> Any:
            extra = left.pop() if left else states * 0
            return upper(states + 3 * extra, *args, **kwargs)

        first.forward, last.forward = leave, look
        lm.decoder.register_forward_pre_hook(lambda *args, left=left: left.clear())
        lm.skips_unread_rows = False
        trainings.append(go(lm, "lora", settings))
    assert trainings[0][1]["why_not"] == "the model cannot start at an upper layer"
    same(*trainings)


def test_a_model_that_was_changed_in_between_is_noticed(tiny_lm: Callable[..., Any]) -> None:
    def change(lm: Any) -> None:
        with torch.no_grad():
            lm.decoder.layers[0].mlp.down_proj.weight.data.mul_(1.1)

    lm, fresh = tiny_lm("llama"), tiny_lm("llama")
    go(lm, "lora")
    change(lm)
    change(fresh)
    if DEVICE == "cpu":
        same(go(lm, "lora"), go(fresh, "lora"))


# --- how much is kept -------------------------------------------------------------------------------


def test_what_earlier_trainings_left_makes_room() -> None:
    kept, ten = ActivationCache(100), torch.zeros(10)
    kept.begin()
    for key in "ab":
        kept.put(key, ten.clone())
    kept.put("c", ten.clone())  # 120 bytes: no room beside those of the same training
    assert (kept.get("c"), kept.held) == (None, 80)
    kept.begin()
    assert kept.get("a") is not None
    kept.put("c", ten.clone())
    assert (kept.get("b"), kept.held) == (None, 80)
    assert kept.get("a") is not None
    kept.put("d", torch.zeros(100))
    assert kept.get("d") is None
    kept.give_way()
    assert (kept.limit, kept.held, kept.get("a")) == (40, 0, None)


def test_the_limit_that_a_person_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    def limit() -> int | None:
        kept = ActivationCache()
        kept.begin()
        return kept.limit

    monkeypatch.delenv(STATES_GB, raising=False)
    some = limit()
    assert some is not None
    assert some > 0
    monkeypatch.setenv(STATES_GB, "1.5")
    assert limit() == 1_500_000_000
    for wrong in ("much", "-1", "inf"):
        monkeypatch.setenv(STATES_GB, wrong)
        with pytest.raises(UserError, match="not a number of gigabytes"):
            limit()


def test_only_where_it_is_asked_for_does_it_enter_an_id() -> None:
    assert "reuse_frozen_layers" not in TrainSettings(steps=3).identity()
    assert "reuse_frozen_layers" not in TrainSettings(steps=3).facts()
    assert SIX.identity()["reuse_frozen_layers"] is SIX.facts()["reuse_frozen_layers"] is True


def test_dropout_by_a_function_is_found_in_the_config(tiny_lm):
    """OPT's layers drop without a dropout module: kept states would lose it."""
    config = OPTConfig(
        vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64,
        max_position_embeddings=64, word_embed_proj_dim=32,
    )  # fmt: skip
    assert config.dropout == 0.1
    for rate, wanted in ((0.1, True), (0.0, False)):
        config.dropout = rate
        decoder = AutoModelForCausalLM.from_config(config).get_decoder()
        assert not any(isinstance(module, torch.nn.Dropout) for module in decoder.modules())
        assert drops(SimpleNamespace(decoder=decoder, layers=list(decoder.layers)), 1) is wanted
    assert not drops(tiny_lm("llama"), 1)
