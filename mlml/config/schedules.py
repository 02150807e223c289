"""The learning-rate schedules that can be declared, and their numbers."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from mlml.config.declared import BelowOne, Declared, Fraction, Probability, unless_named


class _Schedule(Declared):
    """A learning rate over the run, as a factor of the optimizer's: linear warm-up, then the named curve."""

    warmup_steps: NonNegativeInt = 0


class ConstantSchedule(_Schedule):
    """The full rate."""

    name: Literal["constant"] = "constant"


class LinearSchedule(_Schedule):
    """A straight line."""

    name: Literal["linear"] = "linear"
    final_factor: Probability = 0.0


class PolynomialSchedule(_Schedule):
    """A power of what is left of the run."""

    name: Literal["polynomial"] = "polynomial"
    power: PositiveFloat = 2.0
    final_factor: Probability = 0.0


class CosineSchedule(_Schedule):
    """Half a cosine wave (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

    name: Literal["cosine"] = "cosine"
    final_factor: Probability = 0.0


class ExponentialSchedule(_Schedule):
    """The same share of the rate is lost in every step."""

    name: Literal["exponential"] = "exponential"
    final_factor: Annotated[float, Field(gt=0, le=1)] = 0.01


class StepSchedule(_Schedule):
    """The rate is multiplied by `gamma` at each milestone.

    Attributes:
        milestones: fractions of the run after the warm-up, increasing.
    """

    name: Literal["step"] = "step"
    milestones: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.5, 0.75)
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1

    @field_validator("milestones")
    @classmethod
    def _increasing(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if list(milestones) != sorted(set(milestones)):
            raise ValueError(f"must increase; got {list(milestones)}")
        return milestones


class CyclicalSchedule(_Schedule):
    """Triangles between a low rate and the full one (Smith 2017, arXiv:1506.01186, section 3).

    Attributes:
        low_factor: where every triangle begins and ends.
        mode: "triangular2" halves the height of every triangle against the one before.
    """

    name: Literal["cyclical"] = "cyclical"
    num_cycles: PositiveInt = 4
    low_factor: Probability = 0.1
    mode: Literal["triangular", "triangular2"] = "triangular"


class OneCycleSchedule(_Schedule):
    """Up to the full rate and down far below the start, by half cosine waves (Smith & Topin 2018, arXiv:1708.07120).

    The momentum, which the paper lowers meanwhile, stays as it is.

    Attributes:
        rise_fraction: of the run, spent rising.
    """

    name: Literal["one_cycle"] = "one_cycle"
    rise_fraction: Fraction = 0.3
    initial_factor: Probability = 0.04
    final_factor: Probability = 4e-6


class PlateauSchedule(_Schedule):
    """The rate is multiplied by `gamma` when the validation loss has stopped falling.

    Attributes:
        patience: evaluations without a better loss that are tolerated.
        threshold: a loss is better when it is lower than the best by this fraction of it.
        cooldown: evaluations after a change in which no bad one counts.
        min_factor: the factor is never lower.
    """

    name: Literal["plateau"] = "plateau"
    gamma: Fraction = 0.1
    patience: NonNegativeInt = 5
    threshold: BelowOne = 1e-4
    cooldown: NonNegativeInt = 0
    min_factor: Probability = 0.0


ScheduleConfig = Annotated[
    ConstantSchedule
    | LinearSchedule
    | PolynomialSchedule
    | CosineSchedule
    | ExponentialSchedule
    | StepSchedule
    | CyclicalSchedule
    | OneCycleSchedule
    | PlateauSchedule,
    Field(discriminator="name"),
    unless_named("cosine"),
]
"""Field type of the schedule: by its name, which is cosine where none is given."""
