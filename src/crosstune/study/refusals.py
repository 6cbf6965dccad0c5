"""What the models of a study refuse, told before any is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from crosstune.config.mistakes import Loc, invalid
from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.models.geometry import Geometry
from crosstune.models.loading.known import cheap_geometry, check_model
from crosstune.outputs.fits import OF_SOME_ANSWERS, check_fits, heeded, kind_on
from crosstune.outputs.settings import EvaluateSettings
from crosstune.study.combination import Combination
from crosstune.study.entries import MethodEntry


@dataclass
class Refusals:
    """Why runs of a study cannot be made; those of other models can."""

    models: dict[str, str] = field(default_factory=dict)  # that cannot be loaded, by model
    # A method or task that does not fit a model, by model and place in the study's combinations.
    combinations: dict[tuple[str, int], str] = field(default_factory=dict)

    def of(self, model: str, place: int) -> str | None:
        """Why a model's run of a combination cannot be made."""
        return self.models.get(model) or self.combinations.get((model, place))


def refusals(
    models: Sequence[str], methods: Sequence[MethodEntry], combinations: Sequence[Combination]
) -> Refusals:
    """What configs of folders, and the table of known models, tell of a study's models.

    Raises:
        ValidationError: A name that is none; or every model refuses to be loaded; or a method fits no task on
            any model; or a setting of evaluation has no effect on any answer.
    """
    refused = Refusals()
    shapes: dict[str, Geometry | None] = {}
    for place, model in enumerate(models):
        try:
            check_model(model)
        except UserError as error:
            raise invalid(("models", place), str(error)) from error
        try:
            geometry = cheap_geometry(model)
        except UserError as error:
            refused.models[model] = str(error)
            continue
        shapes[model] = geometry
        for i, combination in enumerate(combinations):
            task, entry = combination.task, combination.method
            method = entry.make()
            if (method.trains or method.shots) and not task.task_class.has_training:
                refused.combinations[model, i] = (
                    f"{entry.name}: task {task.name} has no training data, so only none can be run on it; "
                    'add "train:" to its file'
                )
            if geometry is None or (model, i) in refused.combinations:
                continue
            subject = f"method {entry.name} on {model}"
            try:
                METHODS[entry.name].count(entry.config, geometry)
                subject = model
                kind = kind_on(task.task_class, geometry)
                check_fits(task.name, kind, method, geometry, combination.evaluate)
            except UserError as error:
                refused.combinations[model, i] = f"{subject}: {error}"
    loaded = [model for model in models if model not in refused.models]
    if not loaded:
        raise invalid(("models", 0), refused.models[models[0]])
    places: dict[int, list[int]] = {}  # of each method's combinations
    for i, combination in enumerate(combinations):
        places.setdefault(id(combination.method), []).append(i)
    for number, entry in enumerate(methods):
        reasons = [
            refused.combinations.get((model, i)) for model in loaded for i in places.get(id(entry), ())
        ]
        if reasons and reasons[0] and all(reasons):
            raise invalid(("methods", number), reasons[0])
    if None not in shapes.values():
        _refuse_without_effect([shape for shape in shapes.values() if shape], combinations)
    return refused


def _refuse_without_effect(shapes: Sequence[Geometry], combinations: Sequence[Combination]) -> None:
    """Refuse settings of evaluation that change no answer: of all tasks, or of the task that has them."""
    tasks = list(dict.fromkeys(id(combination.task) for combination in combinations))
    for name, what in OF_SOME_ANSWERS.items():
        default = EvaluateSettings.model_fields[name].default
        effective: dict[Loc, bool] = {}  # by the setting's place in the file
        for combination in combinations:
            task, settings = combination.task, combination.evaluate
            if getattr(settings, name) == default:
                continue
            place: Loc = ("tasks", tasks.index(id(task))) if name in task.evaluate else ()
            kinds = [(kind_on(task.task_class, shape), shape) for shape in shapes]
            has_effect = any(name in heeded(kind, shape, settings) for kind, shape in kinds)
            effective[place] = effective.get(place, False) or has_effect
        for place, has_effect in effective.items():
            if not has_effect:
                message = f"evaluate.{name} has no effect here: it is for {what}; take it out"
                raise invalid((*place, "evaluate", name), message)
