"""Learning rates chosen on source-language development data: what is searched, and what the search says.

A search trains a method once for each rate, with the first of the study's seeds, and scores it on
source-language development data. No target language and no test split takes part.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    pass


class SearchSettings(BaseModel):
    """What a study file says of a search.

    Attributes:
        learning_rates: To choose from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rates: tuple[Annotated[float, Field(gt=0)], ...]

    @field_validator("learning_rates")
    @classmethod
    def _several(cls, given: tuple[float, ...]) -> tuple[float, ...]:
        if len(given) < 2:
            raise ValueError("should be two rates or more; for one, give train: {learning_rate: ...}")
        for i, rate in enumerate(given):
            if rate in given[:i]:
                raise ValueError(f"should be rates that differ: {rate:g} is listed twice")
        return given
