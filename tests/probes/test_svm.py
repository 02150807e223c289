import numpy as np
import pytest
from probed import features
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mlml.config import DeclarationError
from mlml.declaration import resolve
from mlml.probes._features import FeatureSet, Labelled
from mlml.probes.svm import SVM


def feature_set():
    return FeatureSet(features(120, 0, 5.0), features(60, 1, 5.0), features(200, 2, 5.0), 3)


@pytest.mark.parametrize(
    ("kernel", "by_hand"),
    [("linear", {"kernel": "linear"}), ("rbf", {"kernel": "rbf"}), ("polynomial", {"kernel": "poly", "coef0": 1.0})],
)
def test_it_is_scikit_learn_s_by_hand(kernel, by_hand, tmp_path):
    """Each value tried by hand; gamma is relative to the five features."""
    data = feature_set()
    gammas = (1.0,) if kernel == "linear" else (0.1, 2.0)
    probe = SVM(SVM.Config(encoder="e", kernel=kernel, penalties=(0.003, 0.3, 30.0), gammas=gammas))
    metrics = probe.evaluate(data, 0, tmp_path)
    # the deviation that the probe divides by has n - 1 in its denominator
    scale = StandardScaler().fit(data.train.features.double())
    scale.scale_ = scale.scale_ * np.sqrt(120 / 119)
    x, v, t = (scale.transform(part.features.double()) for part in data[:3])
    tried = {}
    for penalty in (0.003, 0.3, 30.0):
        for gamma in gammas:
            machine = SVC(C=penalty, gamma=gamma / 5, **by_hand).fit(x, data.train.labels)
            tried[penalty, gamma] = machine.score(v, data.validation.labels), machine.score(t, data.test.labels)
    best = max(score for score, _ in tried.values())
    penalty, gamma = next(key for key, (score, _) in tried.items() if score == best)
    assert len({score for score, _ in tried.values()}) > 1
    expected = {"validation/accuracy": best, "test/accuracy": tried[penalty, gamma][1], "penalty": penalty}
    assert metrics == expected | ({} if kernel == "linear" else {"gamma": gamma})


def test_the_choice_is_made_on_validation_alone(tmp_path):
    data = feature_set()
    probe = SVM(SVM.Config(encoder="e"))
    honest = probe.evaluate(data, 0, tmp_path)
    fooled = probe.evaluate(data._replace(test=Labelled(data.test.features, (data.test.labels + 1) % 3)), 0, tmp_path)
    assert {key: value for key, value in honest.items() if key != "test/accuracy"} == {
        key: value for key, value in fooled.items() if key != "test/accuracy"
    }
    assert fooled["test/accuracy"] < honest["test/accuracy"]


def test_a_linear_kernel_has_no_gammas():
    entry = {"method": "svm", "dataset": "d", "encoder": "e", "kernel": "linear", "gammas": [0.1, 1.0]}
    with pytest.raises(DeclarationError, match=r"probe\.s: gammas must not be given with the kernel 'linear'"):
        resolve("probe", "s", entry)
