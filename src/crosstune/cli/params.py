"""The verb that counts what a method trains."""

from typing import Annotated

import typer

from crosstune.cli.printing import print_counts, print_sizes
from crosstune.errors import UserError


def params(
    method: Annotated[
        str | None, typer.Argument(help="One method; all with their defaults when left out.")
    ] = None,
    model: Annotated[str, typer.Option(help="A known model's name, a hub id or a folder.")] = "llama-3.1-8b",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; repeatable."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Find each method's size for so many parameters, such as 1.23M.")
    ] = None,
) -> None:
    """Count what a method trains on a model, or find its size for a number of parameters.

    Only the model's shape is needed, not its weights.

    Example: crosstune params prefix --model llama-3.1-8b --set length=10 --set layers=30

    Example: crosstune params --budget 1.23M --model llama-3.1-8b
    """
    from crosstune.models.loading.known import geometry_for

    geometry = geometry_for(model)
    from crosstune.methods.budget import count_parameters, solve_budget

    if method is None and settings:
        raise UserError("--set needs a method: crosstune params prefix --set length=10")
    if budget is not None:
        print_sizes(solve_budget(geometry, budget, method, settings or []), budget, geometry)
        return
    counts = count_parameters(geometry, method, settings or [])
    print_counts(counts, method, model, geometry.parameters)
