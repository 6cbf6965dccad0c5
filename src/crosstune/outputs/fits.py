"""What goes together: a model, a task's form of answer and a method; and the head that the answers need.

Nothing here needs PyTorch: a study is checked by it before a model is loaded.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from crosstune.data.example import Example
from crosstune.data.forms import Kind, form_of
from crosstune.errors import UserError
from crosstune.methods.base import Method
from crosstune.methods.head import HeadShape
from crosstune.methods.staged.stage import Staged
from crosstune.models.geometry import Geometry
from crosstune.outputs.settings import VLLM_RANK, EvaluateSettings
from crosstune.tasks.base import Task

VLLM = ("none", "few-shot", "full", "lora", "soft-prompt")
"""Methods whose models vLLM runs (`crosstune.outputs.decoding.vllm_engine`)."""

OF_SOME_ANSWERS = {
    "head": "choices and tags",
    "pooling": "retrieval, and choices told by a head",
    "piece": "tags told by a head",
    "choices": "choices and tags",
    "beams": "written answers",
}
"""Settings of evaluation that have an effect on some answers alone, and on which."""


def kind_on(task: Task | type[Task], geometry: Geometry) -> Kind:
    """The form of a task's answers on a model: an encoder points at what others write."""
    return "spans" if task.extractive and geometry.encoder else task.kind


def _check_encoder_decoder(name: str, kind: Kind, method: Method, settings: EvaluateSettings) -> None:
    """Refuse what an encoder-decoder cannot do."""
    if kind not in ("choice", "generation") or settings.head or method.needs_head:
        raise UserError(
            f"task {name}: an encoder-decoder answers with its decoder's words, without a head; choose tasks "
            "with choices or written answers, and take head out"
        )
    if isinstance(method, Staged):
        raise UserError(
            f"{method.name}: an encoder-decoder does not learn from text token by token; choose bottleneck"
        )


def _check_vllm(
    name: str, kind: Kind, method: Method, geometry: Geometry, settings: EvaluateSettings
) -> None:
    """Refuse what vLLM is not asked to write."""
    if settings.engine != "vllm":
        return
    if kind != "generation" or geometry.encoder or geometry.encoder_layers:
        raise UserError(
            f"task {name}: evaluate.engine: vllm is for answers that a causal model writes; take it out"
        )
    if method.name not in VLLM:
        raise UserError(
            f"{method.name}: evaluate.engine: vllm runs {', '.join(VLLM[:-1])} and {VLLM[-1]}; take it out"
        )
    if getattr(method.config, "rank", 0) > VLLM_RANK:
        raise UserError(f"{method.name}: evaluate.engine: vllm takes ranks up to {VLLM_RANK}; take it out")
    if settings.search is not None:
        raise UserError("evaluate.engine: vllm writes greedy answers here; take engine or beams out")
    if find_spec("vllm") is None:
        raise UserError(
            "evaluate.engine: vllm: the library is not installed here; pip install vllm, or take engine out"
        )


def uses_head(kind: Kind, geometry: Geometry, settings: EvaluateSettings) -> bool:
    """Whether answers are told by a trained head."""
    if geometry.encoder_layers:
        return False
    wanted = bool(geometry.encoder) if settings.head is None else settings.head
    tagged = form_of(kind).tags and (bool(geometry.encoder) or settings.head is not False)
    return kind == "spans" or tagged or (form_of(kind).has_choices and wanted)


def heeded(kind: Kind, geometry: Geometry, settings: EvaluateSettings) -> frozenset[str]:
    """Those of `OF_SOME_ANSWERS` that change something of answers of this form on this model."""
    form = form_of(kind)
    if form.searched:
        return frozenset({"pooling"})
    if kind == "generation":
        return frozenset({"beams"})
    if kind == "spans":
        return frozenset()
    if not uses_head(kind, geometry, settings):
        return frozenset({"head", "choices"})
    return frozenset({"head", "choices", "piece" if form.tags else "pooling"})


def head_shape(
    task: Task, geometry: Geometry, settings: EvaluateSettings, examples: Sequence[Example]
) -> HeadShape | None:
    """The head that a task's answers need on a model; None where they need none.

    Args:
        task: The task.
        geometry: Of the model.
        settings: Of evaluation.
        examples: Some of the task's. Their choices are the classes; where those differ from example to
            example, the head gives one score, of a prompt with one choice.
    """
    kind = kind_on(task, geometry)
    if not uses_head(kind, geometry, settings):
        return None
    if kind == "spans":
        return HeadShape(2)
    choices = {example.choices for example in examples}
    classes = len(choices.pop()) if len(choices) == 1 else 1
    tagged, two_way = form_of(task.kind).tags, settings.two_way or ()
    if two_way and (geometry.encoder or geometry.apart or max(two_way) >= geometry.layers or not tagged):
        raise UserError(
            f"task {task.name}: evaluate.two_way is for tags on a causal model of attention layers alone, "
            f"which are counted from 0 to {geometry.layers - 1} here"
        )
    return HeadShape(classes, dense=not tagged, two_way=two_way)


def check_fits(name: str, kind: Kind, method: Method, geometry: Geometry, settings: EvaluateSettings) -> None:
    """Refuse what a model cannot do of a task with a method, before it costs anything.

    Args:
        name: Of the task.
        kind: Of its answers on this model, as of `kind_on`.
        method: Not attached yet.
        geometry: Of the model.
        settings: Of evaluation.

    Raises:
        UserError: What does not go together, and what to choose.
    """
    _check_vllm(name, kind, method, geometry, settings)
    if method.shots and (form_of(kind).searched or form_of(kind).tags):
        raise UserError(f"task {name}: exemplars are not put in front of its texts; choose another method")
    if method.turns and settings.chat_template is False:
        raise UserError(
            f"{method.name}: turns are those of a chat; set evaluate.chat_template: true, or take turns out"
        )
    if geometry.encoder_layers:
        _check_encoder_decoder(name, kind, method, settings)
    elif settings.target_language_token is not None:
        raise UserError(f"task {name}: evaluate.target_language_token is for encoder-decoders; take it out")
    if geometry.encoder:
        if kind == "generation":
            raise UserError(f"task {name}: an encoder writes no answers; choose tasks with choices")
        if method.shots:
            raise UserError(
                "few-shot: an encoder learns nothing from exemplars; choose probe, or a trained method"
            )
        if settings.head is False and geometry.encoder != "masked":
            raise UserError(
                f"task {name}, evaluate.head: false: this encoder was saved without its masked language "
                "model and predicts no words; take head: false out"
            )
    if settings.system_prompt is not None and settings.chat_template is False:
        raise UserError(
            f"task {name}: evaluate.system_prompt is a turn of a chat; set chat_template: true or auto"
        )
    head = uses_head(kind, geometry, settings)
    if settings.two_way and not head:
        raise UserError(f"task {name}: evaluate.two_way is for tags told by a head; take it out")
    if head and not method.trains:
        raise UserError(
            f"task {name}: its answers are told by a head, which method {method.name} does not train; choose "
            "probe, or evaluate.head: false on a model that predicts words"
        )
    if method.needs_head and not head:
        raise UserError(
            f"{method.name}: task {name} has no head to train; set evaluate.head: true, or choose none"
        )
