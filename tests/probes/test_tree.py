import numpy as np
import pytest
from PIL import Image
from probed import features
from sklearn.tree import DecisionTreeClassifier

from mlml.probes._features import FeatureSet
from mlml.probes.tree import Tree, purity_path
from mlml.seeds import derive


def feature_set():
    return FeatureSet(features(150, 0), features(80, 1), features(200, 2), 3)


def by_hand(criterion, depth, seed=0):
    return DecisionTreeClassifier(criterion=criterion, max_depth=depth, random_state=derive(seed, "tree") % 2**32)


@pytest.mark.parametrize("criterion", ["gini", "entropy"])
def test_it_is_scikit_learn_s_by_hand(criterion, tmp_path):
    data = feature_set()
    probe = Tree(Tree.Config(encoder="e", criterion=criterion, depths=(1, 3, None)))
    metrics = probe.evaluate(data, 0, tmp_path)
    x, v, t = (part.features.numpy() for part in data.standardised()[:3])
    grown = [by_hand(criterion, depth).fit(x, data.train.labels) for depth in (1, 3, None)]
    scores = [tree.score(v, data.validation.labels) for tree in grown]
    assert len(set(scores)) == 3
    best = grown[int(np.argmax(scores))]
    assert metrics["validation/accuracy"] == max(scores)
    assert metrics["test/accuracy"] == best.score(t, data.test.labels)
    assert (metrics["depth"], metrics["leaves"]) == (best.get_depth(), best.get_n_leaves())
    assert np.asarray(Image.open(tmp_path / "purity.png")).std() > 0


def slow_impurity(labels, criterion):
    shares = [np.mean(labels == label) for label in np.unique(labels)]
    if criterion == "gini":
        return 1 - sum(p * p for p in shares)
    return -sum(p * np.log2(p) for p in shares)


@pytest.mark.parametrize("criterion", ["gini", "entropy"])
def test_the_purity_path_is_the_impurity_of_the_leaves(criterion):
    """Grown to each depth, and pruned at each cost, the leaves are counted by hand."""
    data = features(150, 0)
    x, y = data.features.numpy(), data.labels.numpy()
    path = purity_path(by_hand(criterion, None).fit(x, y), x, y)

    def counted(tree):
        leaves = tree.fit(x, y).apply(x)
        return sum(np.mean(leaves == leaf) * slow_impurity(y[leaves == leaf], criterion) for leaf in np.unique(leaves))

    assert path.by_depth[0] == pytest.approx(slow_impurity(y, criterion))
    assert len(path.by_depth) == by_hand(criterion, None).fit(x, y).get_depth() + 1
    assert path.by_depth[-1] == pytest.approx(0, abs=1e-12)
    for depth in (1, 2, 4):
        assert path.by_depth[depth] == pytest.approx(counted(by_hand(criterion, depth)), abs=1e-9)
    assert (np.diff(path.alphas) >= 0).all()
    for place in (0, len(path.alphas) // 2, len(path.alphas) - 2):
        pruned = by_hand(criterion, None).set_params(ccp_alpha=(path.alphas[place] + path.alphas[place + 1]) / 2)
        assert path.by_alpha[place] == pytest.approx(counted(pruned), abs=1e-9)
