"""Trained parameters of methods on a model's shape, for the command line."""

from collections.abc import Sequence

from pydantic import ValidationError

from crosstune.errors import UserError, did_you_mean
from crosstune.methods import METHODS
from crosstune.methods.base import MethodConfig
from crosstune.methods.budget import Solved, parse_budget, solve
from crosstune.models.geometry import Geometry
from crosstune.problems import known_keys, read_settings, reworded
from crosstune.yaml_lines import parse_value


def count_parameters(
    geometry: Geometry, method: str | None = None, settings: Sequence[str] = ()
) -> dict[str, int]:
    """Trained parameters by method.

    Args:
        geometry: The model's shape.
        method: One method's name, or None for all with their default settings.
        settings: Of the one method, each ``key=value`` with the value as a study file has it.

    Raises:
        UserError: Unknown method or setting, or a value that does not fit.
    """
    if method is None:
        return {name: each.count(each.Config(), geometry) for name, each in METHODS.items()}
    config = _config(method, settings)
    return {method: METHODS[method].count(config, geometry)}


def solve_budget(
    geometry: Geometry, budget: str, method: str | None = None, settings: Sequence[str] = ()
) -> dict[str, Solved | None]:
    """The size of each method that comes nearest to a budget; None for methods without a size.

    Args:
        geometry: The model's shape.
        budget: Trained parameters, such as "1.23M".
        method: One method's name, or None for all with their default settings.
        settings: Of the one method.

    Raises:
        UserError: Unknown method or setting, a value that does not fit, or no budget.
    """
    wanted = parse_budget(budget)
    configs = (
        {name: each.Config() for name, each in METHODS.items()}
        if method is None
        else {method: _config(method, settings)}
    )
    return {name: solve(name, config, geometry, wanted) for name, config in configs.items()}


def _config(method: str, settings: Sequence[str]) -> MethodConfig:
    if method not in METHODS:
        raise UserError(f'unknown method "{method}"{did_you_mean(method, METHODS)}')
    given = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f'--set "{setting}": give KEY=VALUE, such as length=10')
        given[key.strip()] = parse_value(value)
    config = METHODS[method].Config
    try:
        known_keys(given, config.model_fields, f"method {method}")
        return read_settings(config, given, f"method {method}")
    except ValidationError as error:
        raise UserError(f"--set: {reworded(error, given)[0][1]}") from None
