"""Typed, frozen configuration and the one error sentence. Nothing here imports torch."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    WrapValidator,
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


class LARSConfig(Declared):
    """LARS (You et al. 2017, arXiv:1708.03888)."""

    name: Literal["lars"] = "lars"
    learning_rate: PositiveFloat = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    trust_coefficient: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-6


OptimizerConfig = Annotated[SGDConfig | AdamConfig | AdamWConfig | LARSConfig, Field(discriminator="name")]


class ScheduleConfig(Declared):
    """Learning rate over the run, as a factor of the optimizer's: linear warm-up, then the named curve."""

    name: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    final_factor: Probability = 0.0


class TrainConfig(Declared):
    """The training loop's numbers. Exactly one of `epochs` and `steps` says how long."""

    epochs: PositiveFloat | None = None
    steps: PositiveInt | None = None
    batch_size: PositiveInt = 256
    accumulate: PositiveInt = 1
    optimizer: OptimizerConfig = AdamWConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    decay_norm_and_bias: bool = False
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
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("give at most one of 'clip_norm' and 'clip_value'; got both")
        return self


class NetworkConfig(Declared):
    """Base of the configs of mlml/models: `network` names the file."""

    network: str


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
    known = sorted(known)
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
        path, node = _walk(detail["loc"], values)
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
            given = node.get("name") if isinstance(node, Mapping) else node
            at = f"{at}.name" if isinstance(node, Mapping) else at
            sentences.append(f"{at}: unknown value {given!r}{suggest(str(given), known)}")
        elif detail["type"] == "union_tag_not_found":
            sentences.append(f"{at}.name: required, but not given")
        elif detail["type"] == "value_error":
            sentences.append(f"{at}: {inner}")
        else:
            message = detail["msg"].removeprefix("Input ").removeprefix("should ")
            sentences.append(f"{at}: must {message}; got {node!r}")
    return sentences


def _walk(location: tuple[int | str, ...], values: Any) -> tuple[list[str], Any]:
    """Dotted path of a pydantic location, and the value there; tags of unions are no part of the path."""
    path: list[str] = []
    node = values
    for index, part in enumerate(location):
        if isinstance(node, Mapping) and (part in node or index == len(location) - 1):
            path.append(str(part))
            node = node.get(part)
        elif isinstance(node, list | tuple) and isinstance(part, int):
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
            tagged = [model for model in models if _tag(model) == part]
            models = tagged or models
    return sorted({name for model in models for name in model.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("name")
    return str(get_args(field.annotation)[0]) if field is not None and get_args(field.annotation) else None


def _choices(detail: Any) -> list[str]:
    text = detail["ctx"].get("expected") or detail["ctx"].get("expected_tags")
    return [choice.strip(" '") for choice in text.replace(" or ", ", ").split(",")]

