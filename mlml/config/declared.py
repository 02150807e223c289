"""What every config is made of."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, model_validator

C = TypeVar("C", bound="Declared")
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
LabelFraction = Annotated[float, Field(gt=0, le=1)]
"""Share of the train split of which a probe may know the labels, of each class the same; drawn from the seed."""


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"must be different from each other; got {list(seeds)}")
    return seeds


Seeds = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), AfterValidator(_distinct)]
"""The seeds that an experiment runs."""


class Declared(BaseModel):
    """Base of every config: a key that is not declared is an error, and values never change.

    Attributes:
        laid_over_defaults: of a config whose numbers belong to a method, such as its augmentation: where it is a
            field's default, a mapping that is given says what differs from that default. Otherwise what is not named
            has the default of the config's own class.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    laid_over_defaults: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: Any) -> Any:
        return {**given, **_laid_over(cls, given)} if isinstance(given, Mapping) else given


def _laid_over(owner: type[Declared] | Declared, given: Mapping[str, Any]) -> dict[str, Any]:
    """The given mappings that belong over defaults of the owner's, completed by those; deeper ones alike."""
    kind = owner if isinstance(owner, type) else type(owner)
    found: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        default = field.default if isinstance(owner, type) else getattr(owner, name)
        own, mapping = isinstance(default, Declared) and default.laid_over_defaults, given.get(name)
        if own and field.annotation is type(default) and isinstance(mapping, Mapping):
            values = {key: getattr(default, key) for key in type(default).model_fields}
            found[name] = {**values, **mapping, **_laid_over(default, mapping)}
    return found


def unless_named(name: str) -> BeforeValidator:
    """Let a mapping without a name be that of `name`."""
    return BeforeValidator(lambda value: {"name": name, **value} if isinstance(value, Mapping) else value)


OR_NAME = BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)
"""A name alone stands for the mapping that says no more."""
