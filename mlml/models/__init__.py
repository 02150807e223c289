"""Networks with no objective of their own: images in [0, 1] to features. One file each, found by its name."""

from mlml import catalogue
from mlml.config import NetworkConfig
from mlml.data.dataset import DataSpec
from mlml.initialisers import initialise
from mlml.models._network import Dense, Grids, Network, Tokens

__all__ = ["Dense", "Grids", "Network", "Tokens", "build"]


def build(config: NetworkConfig, spec: DataSpec) -> Network:
    """Construct the network that `config` names, for images such as `spec` tells.

    Args:
        config: of the network's own `Config`, or of the twin that `mlml.catalogue` makes without importing the network.
        spec: of the data that the network will see.

    Raises:
        DeclarationError: no network has that name.
        ValueError: the images are too small for the network.
    """
    network = catalogue.method_class("models", config.network)
    built: Network = network(network.Config.model_validate(config.model_dump()), spec)
    initialise(built, config.initialiser)
    return built
