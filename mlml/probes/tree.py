"""A decision tree on frozen features (Breiman et al. 1984, "Classification and Regression Trees")."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from mlml.config import Declared, LabelFraction
from mlml.figures import LIGHT, Theme, style, write_png
from mlml.probes._features import FeatureSet
from mlml.seeds import derive


class PurityPath(NamedTuple):
    """How impure the leaves of a tree are on average, weighted by their train images."""

    by_depth: Float[NDArray[np.floating], " depths"]  # cut at depth 0, 1, ...
    alphas: Float[NDArray[np.floating], " prunings"]  # rising from 0
    by_alpha: Float[NDArray[np.floating], " prunings"]  # pruned at the cost alpha of a leaf


class Tree:
    """One tree for each depth; the one that is best on validation is read on test, once.

    A split is the one that lowers the mean impurity of its two sides most: by Gini, 1 - sum p_k^2, or by the entropy,
    -sum p_k log2 p_k in bits, as in Quinlan 1986. What depends on chance, the order of splits that are equally good,
    is drawn from the seed. The tree's purity path is drawn as `purity.png`: impurity over depth, and over the cost of a
    leaf in minimal cost-complexity pruning (Breiman et al. 1984, chapter 3). Features are standardised, which changes
    no split.
    """

    measures = ("accuracy",)

    class Config(Declared):
        """Numbers of the tree; `encoder` names the experiment whose encoder is evaluated.

        Attributes:
            depths: most splits from the root to a leaf; null grows until every leaf is pure. The first of equals is
                taken.
            min_leaf_images: train images that a leaf holds at least.
        """

        encoder: str
        label_fraction: LabelFraction = 1.0
        criterion: Literal["gini", "entropy"] = "gini"
        depths: Annotated[tuple[PositiveInt | None, ...], Field(min_length=1)] = (2, 4, 6, 8, 12, 16, None)
        min_leaf_images: PositiveInt = 1

    def __init__(self, config: Config) -> None:
        self.config = config

    def evaluate(self, features: FeatureSet, seed: int, folder: Path) -> dict[str, float]:
        """Return the accuracies of the chosen tree on validation and test, its depth, leaves and impurity."""
        train, validation, test = (
            (part.features.cpu().numpy(), part.labels.cpu().numpy()) for part in features.standardised()[:3]
        )
        best: tuple[float, Any] | None = None
        for depth in self.config.depths:
            grown = self.tree(depth, seed).fit(*train)
            accuracy = float(grown.score(*validation))
            if best is None or accuracy > best[0]:
                best = (accuracy, grown)
        assert best is not None
        accuracy, chosen = best
        path = purity_path(chosen, *train)
        write_png(plot(path, self.config.criterion), folder / "purity.png")
        return {
            "validation/accuracy": accuracy,
            "test/accuracy": float(chosen.score(*test)),
            "depth": float(chosen.get_depth()),
            "leaves": float(chosen.get_n_leaves()),
            "impurity": float(path.by_depth[-1]),
        }

    def tree(self, depth: int | None, seed: int) -> Any:
        """Return scikit-learn's estimator, not yet fitted."""
        from sklearn.tree import DecisionTreeClassifier

        return DecisionTreeClassifier(
            criterion=self.config.criterion,
            max_depth=depth,
            min_samples_leaf=self.config.min_leaf_images,
            random_state=derive(seed, "tree") % 2**32,
        )


def purity_path(grown: Any, x: Float[NDArray[np.floating], "n d"], y: NDArray[np.int64]) -> PurityPath:
    """Impurity of a tree cut at each depth, and pruned at each cost of a leaf.

    Args:
        grown: a fitted DecisionTreeClassifier.
        x: the features that it was fitted on.
        y: their labels.
    """
    nodes = grown.tree_
    depths, shares = np.zeros(nodes.node_count, int), nodes.weighted_n_node_samples / nodes.weighted_n_node_samples[0]
    is_leaf = nodes.children_left < 0
    for node in np.flatnonzero(~is_leaf):  # parents come before children
        depths[[nodes.children_left[node], nodes.children_right[node]]] = depths[node] + 1
    ends = [(depths == depth) | (is_leaf & (depths < depth)) for depth in range(depths.max() + 1)]
    by_depth = np.array([(shares * nodes.impurity)[end].sum() for end in ends])
    pruned = grown.cost_complexity_pruning_path(x, y)
    return PurityPath(by_depth, pruned.ccp_alphas, pruned.impurities)


def plot(path: PurityPath, criterion: str, theme: Theme = LIGHT) -> Figure:
    """Plot the impurity over depth, and over the cost of a leaf."""
    unit = "entropy, bits" if criterion == "entropy" else "Gini impurity"
    with style(theme):
        figure = Figure(figsize=(7.8, 2.9), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharey=True)
        left.plot(range(len(path.by_depth)), path.by_depth, "o-", color=theme.series[0], markersize=4)
        left.set_xlabel("depth")
        left.set_ylabel(f"{unit} of the leaves")
        left.set_title("cut at a depth", loc="left")
        right.step(path.alphas, path.by_alpha, where="post", color=theme.series[1])
        right.set_xlabel("cost of a leaf, alpha")
        right.set_title("pruned", loc="left")
        for axes in (left, right):
            axes.set_ylim(bottom=0)
    return figure
