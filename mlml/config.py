"""Typed, frozen configuration and the one error sentence. Nothing here imports torch."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    WrapValidator,
    field_validator,
    model_validator,
)

C = TypeVar("C", bound="Declared")
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Declared(BaseModel):
    """Base of every config: a key that is not declared is an error, and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DeclarationError(ValueError):
    """A declaration that cannot be run.

    Attributes:
        faults: every fault found, one sentence each, beginning with its dotted path.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class SGDConfig(Declared):
    """Stochastic gradient descent, with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NonNegativeFloat = 0.0


class AdamConfig(Declared):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980); the weight decay is L2, added to the gradient."""

    name: Literal["adam"] = "adam"
    learning_rate: PositiveFloat = 1e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: NonNegativeFloat = 0.0


class AdamWConfig(Declared):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101); the weight decay is decoupled from the gradient."""

    name: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: NonNegativeFloat = 0.01


class AdaGradConfig(Declared):
    """AdaGrad (Duchi et al. 2011, JMLR 12, Fig. 1, diagonal); the weight decay is L2, added to the gradient."""

    name: Literal["adagrad"] = "adagrad"
    learning_rate: PositiveFloat = 0.01
    epsilon: PositiveFloat = 1e-10
    weight_decay: NonNegativeFloat = 0.0


class RMSPropConfig(Declared):
    """RMSProp (Tieleman & Hinton 2012, Coursera lecture 6e); the weight decay is L2, added to the gradient.

    Attributes:
        decay: of the running mean of squared gradients.
        centered: subtract the square of the running mean gradient (Graves 2013, arXiv:1308.0850, Eq. 40).
    """

    name: Literal["rmsprop"] = "rmsprop"
    learning_rate: PositiveFloat = 1e-3
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    centered: bool = False
    epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0


class LARSConfig(Declared):
    """LARS (You et al. 2017, arXiv:1708.03888)."""

    name: Literal["lars"] = "lars"
    learning_rate: PositiveFloat = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    trust_coefficient: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-6


def _unless_named(name: str) -> BeforeValidator:
    """Let a mapping without a name be that of `name`."""
    return BeforeValidator(lambda value: {"name": name, **value} if isinstance(value, Mapping) else value)


_OR_NAME = BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)
"""A name alone stands for the mapping that says no more."""


OptimizerConfig = Annotated[
    SGDConfig | AdaGradConfig | RMSPropConfig | AdamConfig | AdamWConfig | LARSConfig,
    Field(discriminator="name"),
    _unless_named("adamw"),
]
"""Field type of the optimizer: by its name, which is AdamW's where none is given."""


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
    threshold: Annotated[float, Field(ge=0, lt=1)] = 1e-4
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
    _unless_named("cosine"),
]
"""Field type of the schedule: by its name, which is cosine where none is given."""


class TrainConfig(Declared):
    """The training loop's numbers. Exactly one of `epochs` and `steps` says how long.

    Attributes:
        l1: weight of the sum of absolute weights, part of what is minimised; with `l2`, the elastic net.
        l2: weight of half the sum of squared weights, whatever the optimizer's own `weight_decay` does.
    """

    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 256
    accumulate: PositiveInt = 1
    optimizer: OptimizerConfig = AdamWConfig()
    schedule: ScheduleConfig = CosineSchedule()
    decay_norm_and_bias: bool = False
    l1: NonNegativeFloat = 0.0
    l2: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None
    ema_decay: Fraction | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    evaluate_every: PositiveInt = 100
    patience: PositiveInt | None = None
    min_delta: NonNegativeFloat = 0.0
    restore_best: bool = False
    log_every: PositiveInt = 20
    checkpoint_every: PositiveInt = 500
    checkpoint_seconds: PositiveFloat = 30.0

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"give one of 'epochs' and 'steps'; got epochs={self.epochs}, steps={self.steps}")
        if self.steps is not None and self.schedule.warmup_steps >= self.steps:
            raise ValueError(
                f"schedule.warmup_steps must be less than steps; got {self.schedule.warmup_steps} and {self.steps}"
            )
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("give at most one of 'clip_norm' and 'clip_value'; got both")
        return self


class DataEntry(Declared):
    """Keys of every entry of `data`; the others are those of the source's own `Config`.

    Attributes:
        source: a file of mlml/data/sources.
        validation_fraction: of all images; of those outside the test split where the source has its own.
        test_fraction: of all images. Not to be given where the source has its own test split; else 0.2.
    """

    source: str
    validation_fraction: Fraction = 0.1
    test_fraction: Fraction | None = None

    @model_validator(mode="after")
    def _some_train(self) -> "DataEntry":
        taken = self.validation_fraction + (self.test_fraction or 0.0)
        if taken >= 1:
            raise ValueError(f"validation_fraction and test_fraction must sum to less than 1; got {taken}")
        return self


class PlainActivation(Declared):
    """An activation without numbers; "step" is 1 from 0 on, and lets no gradient through."""

    name: Literal["step", "sigmoid", "tanh", "relu", "softmax"]


class LeakyReLUActivation(Declared):
    """Leaky ReLU (Maas et al. 2013, "Rectifier nonlinearities improve neural network acoustic models")."""

    name: Literal["leaky_relu"]
    negative_slope: Annotated[float, Field(ge=0, lt=1)] = 0.01


class PReLUActivation(Declared):
    """PReLU, whose slope is learnt, one for the layer (He et al. 2015, arXiv:1502.01852, Eq. 1)."""

    name: Literal["prelu"]
    initial_slope: float = 0.25


class ELUActivation(Declared):
    """ELU (Clevert et al. 2016, arXiv:1511.07289, Eq. 15)."""

    name: Literal["elu"]
    alpha: PositiveFloat = 1.0


class GELUActivation(Declared):
    """GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2); "tanh" is the paper's approximation."""

    name: Literal["gelu"]
    approximate: Literal["none", "tanh"] = "none"


class SwishActivation(Declared):
    """Swish, x sigmoid(beta x) (Ramachandran et al. 2017, arXiv:1710.05941, section 3).

    Attributes:
        trainable: learn beta, one for the layer.
    """

    name: Literal["swish"]
    beta: PositiveFloat = 1.0
    trainable: bool = False


ActivationConfig = Annotated[
    PlainActivation | LeakyReLUActivation | PReLUActivation | ELUActivation | GELUActivation | SwishActivation,
    Field(discriminator="name"),
    _OR_NAME,
]
"""Field type of an activation: a name, or a mapping with the name and its numbers."""


class PlainNorm(Declared):
    """A norm without numbers, or none; a layer norm of images is over channels and pixels.

    Batch norm: Ioffe & Szegedy 2015, arXiv:1502.03167; layer norm: Ba et al. 2016, arXiv:1607.06450; instance norm:
    Ulyanov et al. 2016, arXiv:1607.08022.
    """

    name: Literal["none", "batch", "layer", "instance"]


class GroupNormConfig(Declared):
    """Group norm (Wu & He 2018, arXiv:1803.08494)."""

    name: Literal["group"]
    num_groups: PositiveInt = 8


NormConfig = Annotated[PlainNorm | GroupNormConfig, Field(discriminator="name"), _OR_NAME]
"""Field type of a norm: a name, or a mapping with the name and its numbers."""


class PlainInitialiser(Declared):
    """Initial weights without numbers.

    Xavier's (Glorot & Bengio 2010, Eq. 16 and, as a normal distribution, Eq. 12), He's for ReLU (He et al. 2015,
    arXiv:1502.01852, Eq. 10, by the fan-in), or all zero.
    """

    name: Literal["zero", "xavier_uniform", "xavier_normal", "he_uniform", "he_normal"]


class ConstantInitialiser(Declared):
    """All weights the same."""

    name: Literal["constant"]
    value: float = 0.1


class NormalInitialiser(Declared):
    """The naive choice: a normal distribution whose width knows nothing of the layer's."""

    name: Literal["normal"]
    std: PositiveFloat = 0.01


class OrthogonalInitialiser(Declared):
    """Orthogonal rows or columns (Saxe et al. 2014, arXiv:1312.6120), times `gain`."""

    name: Literal["orthogonal"]
    gain: PositiveFloat = 1.0


InitialiserConfig = Annotated[
    PlainInitialiser | ConstantInitialiser | NormalInitialiser | OrthogonalInitialiser,
    Field(discriminator="name"),
    _OR_NAME,
]
"""Field type of an initialiser: a name, or a mapping with the name and its numbers."""


class NetworkConfig(Declared):
    """Base of the configs of mlml/models: `network` names the file.

    Attributes:
        initialiser: of every weight; biases are then 0. Null: each layer's own.
    """

    network: str
    initialiser: InitialiserConfig | None = None


class _NetworkError(ValueError):
    """Carries a network's own faults through pydantic, which would keep only their text."""

    def __init__(self, schema: type[Declared], error: ValidationError) -> None:
        super().__init__(str(error))
        self.schema, self.error = schema, error


def _network(value: Any, _: Any) -> NetworkConfig:
    """Validate a mapping by the config of the network that it names."""
    from mlml import catalogue

    if isinstance(value, NetworkConfig):
        return value
    if not isinstance(value, Mapping) or not isinstance(value.get("network"), str):
        raise ValueError("must be a mapping with the key 'network', the name of a file of mlml/models")
    known = catalogue.names("models")
    if value["network"] not in known:
        raise ValueError(f"unknown network {value['network']!r}{suggest(value['network'], known)}")
    schema = catalogue.config_class("models", value["network"])
    try:
        validated = schema.model_validate(dict(value))
    except ValidationError as error:
        raise _NetworkError(schema, error) from None
    assert isinstance(validated, NetworkConfig)
    return validated


EncoderConfig = Annotated[SerializeAsAny[NetworkConfig], WrapValidator(_network)]
"""Field type of a method that has an encoder: a mapping that names a network of mlml/models and its numbers."""


def suggest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error sentence: the nearest known name, and all known names."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(known) or 'none'})"


def parse(schema: type[C], values: Any, where: str, other_keys: Iterable[str] = ()) -> C:
    """Validate `values` by `schema`.

    Args:
        schema: the config class.
        values: what the file holds at `where`.
        where: dotted path of `values`, the beginning of each sentence.
        other_keys: further names to suggest for an unknown key.

    Raises:
        DeclarationError: with every fault of `values`.
    """
    if not isinstance(values, Mapping):
        raise DeclarationError([f"{where}: must be a mapping; got {values!r}"])
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise DeclarationError(faults(error, schema, values, where, other_keys)) from None


def faults(
    error: ValidationError, schema: type[BaseModel], values: Any, where: str, other_keys: Iterable[str] = ()
) -> list[str]:
    """Return one sentence for each fault that pydantic found."""
    sentences = []
    for detail in error.errors():
        path, node = _walk(detail["loc"], values, detail["type"] == "missing")
        at = ".".join([where, *path])
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, _NetworkError):
            sentences += faults(inner.error, inner.schema, node, at)
        elif detail["type"] == "extra_forbidden":
            known = _keys_at(schema, detail["loc"][:-1])
            extra = other_keys if len(detail["loc"]) == 1 else ()
            sentences.append(f"{at}: unknown key{suggest(path[-1], [*known, *extra])}")
        elif detail["type"] == "missing":
            sentences.append(f"{at}: required, but not given")
        elif detail["type"] in ("literal_error", "union_tag_invalid"):
            known = _choices(detail)
            tag = _tag_key(detail)
            given = node.get(tag) if isinstance(node, Mapping) else node
            at = f"{at}.{tag}" if isinstance(node, Mapping) else at
            sentences.append(f"{at}: unknown value {given!r}{suggest(str(given), known)}")
        elif detail["type"] == "union_tag_not_found":
            sentences.append(f"{at}.{_tag_key(detail)}: required, but not given")
        elif detail["type"] == "value_error":
            sentences.append(f"{at}: {inner}")
        else:
            message = detail["msg"].removeprefix("Input ").removeprefix("should ")
            sentences.append(f"{at}: must {message}; got {node!r}")
    return sentences


def _walk(location: tuple[int | str, ...], values: Any, ends_missing: bool) -> tuple[list[str], Any]:
    """Dotted path of a pydantic location, and the value there; tags of unions are no part of the path."""
    path: list[str] = []
    node = values
    for index, part in enumerate(location):
        if isinstance(node, Mapping) and (part in node or (ends_missing and index == len(location) - 1)):
            path.append(str(part))
            node = node.get(part)
        elif isinstance(node, list | tuple) and isinstance(part, int) and part < len(node):
            path.append(str(part))
            node = node[part]
        elif not isinstance(node, Mapping):
            break  # the branch of a plain union
    return path, node


def _keys_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that a pydantic location stands in."""
    models: list[type[BaseModel]] = [schema]
    for part in location:
        for model in models:
            if part in model.model_fields:
                models = _models(model.model_fields[str(part)].annotation)
                break
        else:
            tagged = [model for model in models if part in _tags(model)]
            models = tagged or models
    return sorted({name for model in models for name in model.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    for key in ("name", "type"):
        if key in model.model_fields and get_args(model.model_fields[key].annotation):
            return get_args(model.model_fields[key].annotation)
    return ()


def _tag_key(detail: Any) -> str:
    """Name of the field that tells the members of a tagged union apart."""
    return str(detail["ctx"].get("discriminator", "name")).strip("'")


def _choices(detail: Any) -> list[str]:
    text = detail["ctx"].get("expected") or detail["ctx"].get("expected_tags")
    return [choice.strip(" '") for choice in text.replace(" or ", ", ").split(",")]


class FloatDimension(Declared):
    """A real number between `low` and `high`, both included; `log`: drawn evenly on a log scale."""

    type: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _range(self) -> "FloatDimension":
        if self.low >= self.high:
            raise ValueError(f"needs low < high; got low={self.low}, high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale needs low > 0; got low={self.low}")
        return self

    def ends(self) -> tuple[float, float]:
        """Return the values that the dimension must fit at."""
        return self.low, self.high


class IntDimension(Declared):
    """A whole number out of low, low + step, ..., high; `log`: drawn evenly on a log scale, in steps of 1."""

    type: Literal["int"] = "int"
    low: int
    high: int
    step: PositiveInt = 1
    log: bool = False

    @model_validator(mode="after")
    def _range(self) -> "IntDimension":
        if self.low >= self.high:
            raise ValueError(f"needs low < high; got low={self.low}, high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale needs low > 0; got low={self.low}")
        if self.log and self.step != 1:
            raise ValueError(f"a log scale has no step; got step={self.step}")
        if (self.high - self.low) % self.step:
            raise ValueError(f"needs high = low + a multiple of step; got {self.low}, {self.high}, step={self.step}")
        return self

    def ends(self) -> tuple[int, int]:
        """Return the values that the dimension must fit at."""
        return self.low, self.high


class CategoricalDimension(Declared):
    """One of some values without an order: texts, numbers, true, false, null."""

    type: Literal["categorical"] = "categorical"
    choices: tuple[Any, ...]

    @field_validator("choices")
    @classmethod
    def _plain_and_distinct(cls, choices: tuple[Any, ...]) -> tuple[Any, ...]:
        plain = all(choice is None or isinstance(choice, str | int | float) for choice in choices)
        if not plain or len(choices) < 2 or len(set(choices)) < len(choices):
            raise ValueError(f"must be two or more different texts, numbers, booleans or null; got {list(choices)}")
        return choices

    def ends(self) -> tuple[Any, ...]:
        """Return the values that the dimension must fit at: all of them."""
        return self.choices


Dimension = Annotated[FloatDimension | IntDimension | CategoricalDimension, Field(discriminator="type")]


class SearchConfig(Declared):
    """Base of the configs of mlml/search: what to search, and what to search for.

    Attributes:
        experiment: the experiment whose entry the trials vary.
        space: by the dotted path of a value in that entry, the values to try.
        metric: of the validation split; a test split that chooses is a test split no more.
        trials: how many, those that are pruned or fail included.
        pruner: "median" ends a trial at an evaluation when its best value so far is worse than the median that the
            completed trials had there (Golovin et al. 2017, Google Vizier, section 3.2.2).
        pruner_startup_trials: completed trials before any is pruned.
        pruner_warmup_steps: a trial is not pruned before this optimizer step.
    """

    experiment: str
    space: dict[str, Dimension]
    metric: str = "validation/loss"
    direction: Literal["minimize", "maximize"] = "minimize"
    trials: PositiveInt = 20
    pruner: Literal["median", "none"] = "median"
    pruner_startup_trials: NonNegativeInt = 5
    pruner_warmup_steps: NonNegativeInt = 0

    @field_validator("metric")
    @classmethod
    def _of_validation(cls, metric: str) -> str:
        if not metric.startswith("validation/"):
            raise ValueError(f"must be a metric of the validation split, 'validation/...'; got {metric!r}")
        return metric

    @field_validator("space")
    @classmethod
    def _separate_paths(cls, space: dict[str, Any]) -> dict[str, Any]:
        if not space:
            raise ValueError("must name at least one value to search, by its dotted path")
        for path in space:
            if not all(path.split(".")):
                raise ValueError(f"a dotted path has no empty part; got {path!r}")
            inner = [other for other in space if other.startswith(f"{path}.")]
            if inner:
                raise ValueError(f"{path!r} holds {inner[0]!r}; search one of the two")
        return space


class AugmentConfig(Declared):
    """SimCLR's augmentation (Chen et al. 2020, arXiv:2002.05709, appendix A); the defaults are the paper's.

    They are for ImageNet; at 32x32, appendix B.9 halves the four strengths and leaves the blur out (`blur_prob: 0`).

    Attributes:
        crop_scale: range of the crop's area, as a fraction of the image's.
        crop_ratio: range of the crop's width / height, before it is resized to the image's size.
        brightness: strength s; the factor is uniform in [max(0, 1 - s), 1 + s]. So are contrast and saturation.
        hue: strength in turns of the colour wheel; the turn is uniform in [-hue, hue].
        blur_kernel: width in pixels, odd; a tenth of the image's height if null.
        blur_sigma: range of the blur's standard deviation in pixels.
    """

    crop_scale: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]] = (0.08, 1.0)
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    flip_prob: Probability = 0.5
    jitter_prob: Probability = 0.8
    brightness: NonNegativeFloat = 0.8
    contrast: NonNegativeFloat = 0.8
    saturation: NonNegativeFloat = 0.8
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.2
    grey_prob: Probability = 0.2
    blur_prob: Probability = 0.5
    blur_kernel: PositiveInt | None = None
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)

    @field_validator("crop_scale", "crop_ratio", "blur_sigma")
    @classmethod
    def _increasing(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] > bounds[1]:
            raise ValueError(f"must be [low, high] with low <= high; got {list(bounds)}")
        return bounds

    @field_validator("blur_kernel")
    @classmethod
    def _odd(cls, kernel: int | None) -> int | None:
        if kernel is not None and kernel % 2 == 0:
            raise ValueError(f"must be odd; got {kernel}")
        return kernel


class ShiftFlipConfig(Declared):
    """Pad, crop at random, mirror at random: He et al. 2016, arXiv:1512.03385, section 4.2.

    Attributes:
        padding: pixels; the image moves by up to as many in each direction, and 0 comes in at the edge.
        flip_prob: 0 for images with text or digits.
    """

    padding: NonNegativeInt = 4
    flip_prob: Probability = 0.5
