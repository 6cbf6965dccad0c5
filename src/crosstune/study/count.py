"""Trained parameters of methods on a model's shape, for the command line."""

from collections.abc import Sequence

from pydantic import ValidationError

from crosstune.errors import UserError, did_you_mean
from crosstune.methods import METHODS
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
        read = read_settings(config, given, f"method {method}")
    except ValidationError as error:
        raise UserError(f"--set: {reworded(error, given)[0][1]}") from None
    return {method: METHODS[method].count(read, geometry)}
