"""Methods at equal trained parameters: a budget such as 1.23M, and the size that comes nearest to it."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import ValidationError

from crosstune.config.counts import parse_count, written
from crosstune.config.mistakes import known_keys, read_settings, reworded
from crosstune.config.yaml_file import parse_value
from crosstune.errors import UserError, did_you_mean
from crosstune.methods import METHODS
from crosstune.methods.config import Layered, MethodConfig
from crosstune.methods.stack import StackConfig
from crosstune.models.geometry import Geometry

T = TypeVar("T")
NEAR = 0.02
"""Share of a budget that a size may be off before it is said what would come nearer."""


@dataclass(frozen=True)
class Solved:
    """A method's settings for a budget, which setting was solved, its value and the exact count.

    Of a stack ``setting`` names those of all its methods, and ``size`` is the last one's.
    """

    config: MethodConfig
    setting: str
    size: int
    count: int
    budget: int

    @property
    def off(self) -> float:
        """How far the count is from the budget, as a share of it; negative below."""
        return self.count / self.budget - 1

    @property
    def share_off(self) -> str:
        """Such as "-4.1%"."""
        return f"{round(self.off, 3) + 0.0:+.1%}"  # no -0.0%

    def __str__(self) -> str:
        """Such as "length 9 is 1,179,648 (-4.1%)"."""
        return f"{self.setting} {self.size} is {self.count:,} ({self.share_off})"


def solve(name: str, config: MethodConfig, geometry: Geometry, budget: int) -> Solved | None:
    """The size whose count is nearest to a budget, the smaller of two as near; None for a method without.

    All other settings, the layers among them, stay as they are. A budget is 1 at least. The methods of a
    stack share it evenly: each gets what is left of it by the number of those left.

    Raises:
        UserError: The settings do not fit the model.
    """
    method = METHODS[name]
    if isinstance(config, StackConfig):
        return _solve_stack(config, geometry, budget)
    if method.size is None:
        method.count(config, geometry)
        return None
    setting = method.size

    def sized(size: int) -> MethodConfig:
        return config.model_copy(update={setting: size})

    def count(size: int) -> int:
        return method.count(sized(size), geometry)

    # Counts rise with the size: the last one within the budget, and the first beyond it.
    high = 1
    while count(high) < budget:
        high *= 2
    beyond = 1 + bisect_left(range(1, high), budget, key=count)
    size = min(range(max(1, beyond - 1), beyond + 1), key=lambda size: abs(count(size) - budget))
    try:
        type(config).model_validate(sized(size).model_dump())
    except ValidationError as error:
        limit = error.errors()[0]["msg"].lower()
        raise UserError(f"{name}: a budget of {written(budget)} needs {setting} {size}; {limit}") from None
    return Solved(sized(size), setting, size, count(size), budget)


def _solve_stack(config: StackConfig, geometry: Geometry, budget: int) -> Solved | None:
    """Sizes of those methods of a stack whose settings give none; None where there is no such method."""
    parts, texts = list(config.stack), list[str]()
    free = [i for i, part in enumerate(parts) if METHODS[part.name].open_size(part.config)]
    if not free:
        return None
    left = budget - sum(
        METHODS[part.name].count(part.config, geometry) for i, part in enumerate(parts) if i not in free
    )
    for place, i in enumerate(free):
        solved = solve(parts[i].name, parts[i].config, geometry, max(1, left // (len(free) - place)))
        assert solved is not None, "it has a size"
        left -= solved.count
        parts[i] = parts[i].model_copy(update={"config": solved.config})
        texts += [f"{parts[i].name} {solved.setting}", str(solved.size)]
    whole = config.model_copy(update={"stack": tuple(parts)})
    return Solved(
        whole, " ".join(texts[:-1]), int(texts[-1]), METHODS["stack"].count(whole, geometry), budget
    )


def hint(name: str, solved: Solved, geometry: Geometry) -> str | None:
    """What else there is, of a method whose nearest size is more than `NEAR` off its budget.

    The nearest sizes on both sides, and the number of layers nearest to that asked for with which some size
    is near; None where nothing needs to be said.
    """
    if abs(solved.off) <= NEAR:
        return None
    if isinstance(solved.config, StackConfig):
        return str(solved)
    other = solved.size + (1 if solved.off < 0 else -1)
    sizes = [solved]
    if other >= 1:
        config = solved.config.model_copy(update={solved.setting: other})
        sizes.append(replace(solved, config=config, size=other, count=METHODS[name].count(config, geometry)))
    text = ", ".join(str(near) for near in sorted(sizes, key=lambda near: near.size))
    if not isinstance(solved.config, Layered) or isinstance(solved.config.layers, list):
        return text
    wanted = solved.config.layers or geometry.layers
    for layers in sorted(range(1, geometry.layers + 1), key=lambda k: (abs(k - wanted), -k)):
        config = solved.config.model_copy(update={"layers": layers})
        near = solve(name, config, geometry, solved.budget)
        if near is not None and abs(near.off) <= NEAR:
            return f"{text}; with layers: {layers}, {near}"
    return f"{text}; no number of layers comes within {NEAR:.0%}"


def count_parameters(
    geometry: Geometry, method: str | None = None, settings: Sequence[str] = ()
) -> dict[str, int | UserError]:
    """Trained parameters of one method with settings ``key=value`` as in a study file, or of all by default.

    Of all, those that do not fit the model give their error.

    Raises:
        UserError: Unknown method or setting, or a value that does not fit.
    """
    return _of_each(_configs(method, settings), lambda name, config: METHODS[name].count(config, geometry))


def solve_budget(
    geometry: Geometry, budget: str, method: str | None = None, settings: Sequence[str] = ()
) -> dict[str, Solved | UserError | None]:
    """The size nearest to a budget such as "1.23M" of one method, or of all; None where there is no size.

    Of all, those that do not fit the model give their error.

    Raises:
        UserError: Unknown method or setting, a value that does not fit, or no budget.
    """
    parameters = parse_count(budget, "budget")
    return _of_each(
        _configs(method, settings), lambda name, config: solve(name, config, geometry, parameters)
    )


def _of_each(
    configs: Mapping[str, MethodConfig], compute: Callable[[str, MethodConfig], T]
) -> dict[str, T | UserError]:
    """By method; the error of one that does not fit the model, unless it is the only one."""
    results: dict[str, T | UserError] = {}
    for name, config in configs.items():
        try:
            results[name] = compute(name, config)
        except UserError as error:
            if len(configs) == 1:
                raise
            results[name] = error
    return results


def _configs(method: str | None, settings: Sequence[str]) -> dict[str, MethodConfig]:
    """One method's settings, or the defaults of all."""
    if method is None:
        return {name: METHODS[name].Config() for name in METHODS}
    if method not in METHODS:
        raise UserError(f'unknown method "{method}"{did_you_mean(method, METHODS)}')
    values = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f'--set "{setting}": give KEY=VALUE, such as length=10')
        values[key.strip()] = parse_value(value)
    config = METHODS[method].Config
    try:
        if not config.open_ended():
            known_keys(values, config.model_fields, f"method {method}")
        return {method: read_settings(config, values, f"method {method}")}
    except ValidationError as error:
        raise UserError(f"--set: {reworded(error, values)[0][1]}") from None
