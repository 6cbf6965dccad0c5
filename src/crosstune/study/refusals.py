"""What the models of a study refuse, told before any is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from crosstune.config.mistakes import invalid
from crosstune.errors import UserError
from crosstune.methods import METHODS
from crosstune.models.loading.known import cheap_geometry, check_model
from crosstune.outputs.fits import check_fits, kind_on
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
        ValidationError: A name that is none; or every model refuses to be loaded, or a combination.
    """
    for combination in combinations:
        method = combination.method.make()
        if (method.trains or method.shots) and not combination.task.task_class.has_training:
            raise invalid(
                ("methods", methods.index(combination.method)),
                f"{method.name}: task {combination.task.name} has no training data, so only none can be run "
                'on it; add "train:" to its file',
            )
    refused = Refusals()
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
        if geometry is None:
            continue
        for i, combination in enumerate(combinations):
            task, entry = combination.task, combination.method
            subject = f"method {entry.name} on {model}"
            try:
                METHODS[entry.name].count(entry.config, geometry)
                subject = model
                kind = kind_on(task.task_class, geometry)
                check_fits(task.name, kind, entry.make(), geometry, combination.evaluate)
            except UserError as error:
                refused.combinations[model, i] = f"{subject}: {error}"
    loaded = [model for model in models if model not in refused.models]
    if not loaded:
        raise invalid(("models", 0), refused.models[models[0]])
    for i, combination in enumerate(combinations):
        if all((model, i) in refused.combinations for model in loaded):
            key = ("methods", methods.index(combination.method))
            raise invalid(key, refused.combinations[loaded[0], i])
    return refused
