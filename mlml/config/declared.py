"""What every config is made of."""

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

C = TypeVar("C", bound="Declared")
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
LabelFraction = Annotated[float, Field(gt=0, le=1)]
"""Share of the train split of which a probe may know the labels, of each class the same; drawn from the seed."""


class Declared(BaseModel):
    """Base of every config: a key that is not declared is an error, and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def unless_named(name: str) -> BeforeValidator:
    """Let a mapping without a name be that of `name`."""
    return BeforeValidator(lambda value: {"name": name, **value} if isinstance(value, Mapping) else value)


OR_NAME = BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)
"""A name alone stands for the mapping that says no more."""
