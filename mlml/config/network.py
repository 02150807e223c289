"""The network of a method, declared by its name."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, SerializeAsAny, ValidationError, WrapValidator

from mlml.config.declared import Declared
from mlml.config.layers import InitialiserConfig
from mlml.config.sentences import NetworkError, suggest


class NetworkConfig(Declared):
    """Base of the configs of mlml/models: `network` names the file.

    Attributes:
        initialiser: of every weight; biases are then 0. Null: each layer's own.
    """

    network: str
    initialiser: InitialiserConfig | None = None

    @property
    def num_grids(self) -> int:
        """How many grids the network's `grids` gives; 0: it has no such function."""
        return 0


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
        raise NetworkError(schema, error) from None
    assert isinstance(validated, NetworkConfig)
    return validated


EncoderConfig = Annotated[SerializeAsAny[NetworkConfig], WrapValidator(_network)]
"""Field type of a method that has an encoder: a mapping that names a network of mlml/models and its numbers."""


def _networks_that(attribute: str) -> list[str]:
    """Names of the networks whose class says so."""
    from mlml import catalogue

    return [name for name in catalogue.names("models") if catalogue.class_constant("models", name, attribute, False)]


def _dense(network: NetworkConfig) -> NetworkConfig:
    """Refuse a network that tells of images alone."""
    known = _networks_that("is_dense")
    if network.network not in known:
        raise ValueError(f"must be a network that tells of every pixel ({', '.join(known)}); got {network.network!r}")
    return network


DenseEncoderConfig = Annotated[EncoderConfig, AfterValidator(_dense)]
"""Field type of a method whose encoder tells of every pixel: a network whose class says `is_dense = True`."""


def _of_tokens(network: NetworkConfig) -> NetworkConfig:
    """Refuse a network that cannot leave patches out."""
    known = _networks_that("has_tokens")
    if network.network not in known:
        raise ValueError(f"must be a network of patches' tokens ({', '.join(known)}); got {network.network!r}")
    return network


TokenEncoderConfig = Annotated[EncoderConfig, AfterValidator(_of_tokens)]
"""Field type of a method whose encoder sees some patches only: a network whose class says `has_tokens = True`."""
