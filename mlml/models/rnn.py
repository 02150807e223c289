"""Recurrent networks over the rows of an image, of torch's own cells."""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from mlml.config import BelowOne, NetworkConfig
from mlml.data.dataset import DataSpec
from mlml.models._network import Network

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
"""Name in the declaration -> layer."""


class RNN(Network):
    """Reads an image row by row, from the top; the features are the last layer's state after the last row.

    The cells: Elman 1990 with tanh, LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000) and
    GRU (Cho et al. 2014, arXiv:1406.1078). Bidirectional, the features are the states of both directions at their ends.
    """

    class Config(NetworkConfig):
        """Numbers of the network; dropout stands between layers."""

        network: Literal["rnn"] = "rnn"
        cell: Literal["rnn", "lstm", "gru"] = "lstm"
        hidden_dim: PositiveInt = 128
        num_layers: PositiveInt = 1
        bidirectional: bool = False
        dropout_prob: BelowOne = 0.0

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        self.layers = CELLS[config.cell](
            spec.channels * spec.width,
            config.hidden_dim,
            config.num_layers,
            batch_first=True,
            dropout=config.dropout_prob if config.num_layers > 1 else 0.0,
            bidirectional=config.bidirectional,
        )
        self.feature_dim = config.hidden_dim * (2 if config.bidirectional else 1)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        rows = self.normalize(images).transpose(1, 2).flatten(2)  # (b, h, c * w)
        _, state = self.layers(rows)
        hidden = state[0] if isinstance(state, tuple) else state  # (layers * directions, b, hidden)
        directions = 2 if self.config.bidirectional else 1
        features: Tensor = hidden[-directions:].transpose(0, 1).flatten(1)
        return features
