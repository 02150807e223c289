import numpy as np
import pytest
import torch
from blobs import write_prepared
from probed import features
from sklearn.linear_model import LogisticRegression

from mlml import model_folder
from mlml.config import SGDConfig, TrainConfig
from mlml.data.dataset import DataError
from mlml.probes._features import FeatureSet, Labelled, extract
from mlml.probes.knn import KNN
from mlml.probes.linear import Linear
from mlml.seeds import seed_everything

CPU = torch.device("cpu")


@pytest.fixture
def feature_set() -> FeatureSet:
    return FeatureSet(features(300, 0), features(100, 1), features(400, 2), 3)


def slow_knn(bank: Labelled, query: np.ndarray, k: int, temperature: float) -> int:
    """Wu et al. 2018, section 3.4, one query at a time."""
    scored = []
    for row, label in zip(bank.features.numpy(), bank.labels.numpy(), strict=True):
        similarity = row @ query / np.linalg.norm(row) / np.linalg.norm(query)
        scored.append((similarity, label))
    votes = np.zeros(3)
    for similarity, label in sorted(scored, key=lambda pair: -pair[0])[:k]:
        votes[label] += np.exp(similarity / temperature)
    return int(votes.argmax())


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (7, 0.05), (1000, 1.0)])
def test_knn_equals_the_slow_vote(feature_set, k, temperature):
    probe = KNN(KNN.Config(encoder="e", k=k, temperature=temperature))
    predicted = probe.predict(feature_set.train, feature_set.test.features[:60], 3)
    expected = [slow_knn(feature_set.train, q, k, temperature) for q in feature_set.test.features[:60].numpy()]
    assert predicted.tolist() == expected


def test_knn_in_chunks_is_the_same(feature_set, monkeypatch):
    probe = KNN(KNN.Config(encoder="e"))
    whole = probe.predict(feature_set.train, feature_set.test.features, 3)
    monkeypatch.setattr("mlml.neighbours.CHUNK", 7)
    assert torch.equal(whole, probe.predict(feature_set.train, feature_set.test.features, 3))


def test_linear_reaches_logistic_regression(feature_set, tmp_path):
    train = TrainConfig(epochs=60, batch_size=50, optimizer=SGDConfig())
    metrics = Linear(Linear.Config(encoder="e", train=train)).evaluate(feature_set, 0, tmp_path)
    reference = LogisticRegression(C=1e6).fit(feature_set.train.features, feature_set.train.labels)
    expected = reference.score(feature_set.test.features, feature_set.test.labels)
    assert metrics["test/accuracy"] == pytest.approx(expected, abs=0.02)
    assert metrics["test/accuracy"] > 0.6


def test_linear_does_not_depend_on_the_scale_of_features(feature_set, tmp_path):
    probe = Linear(Linear.Config(encoder="e", train=TrainConfig(epochs=5)))
    scaled = FeatureSet(features(300, 0, 64.0), features(100, 1, 64.0), features(400, 2, 64.0), 3)
    assert probe.evaluate(feature_set, 0, tmp_path / "a") == probe.evaluate(scaled, 0, tmp_path / "b")


def test_the_rate_is_chosen_on_validation_alone(feature_set, tmp_path):
    """With test labels that are wrong the choice stays the same, and only the test accuracy falls."""
    probe = Linear(Linear.Config(encoder="e", learning_rates=(1e-5, 0.1), train=TrainConfig(epochs=10)))
    honest = probe.evaluate(feature_set, 0, tmp_path / "a")
    wrong = feature_set._replace(test=Labelled(feature_set.test.features, (feature_set.test.labels + 1) % 3))
    fooled = probe.evaluate(wrong, 0, tmp_path / "b")
    assert honest["learning_rate"] == fooled["learning_rate"] == 0.1
    assert honest["validation/accuracy"] == fooled["validation/accuracy"]
    assert fooled["test/accuracy"] < honest["test/accuracy"]


def cnn(data):
    seed_everything(0, "init")
    return model_folder.build("pretext", "random", {"encoder": {"network": "cnn", "width": 4}}, data.spec)


def test_the_encoder_is_frozen(blob_data):
    encoder = cnn(blob_data).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    found = extract(encoder, blob_data, 10, CPU)
    assert {key for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])} == set()
    assert [len(part.labels) for part in found[:3]] == [96, 24, 24]
    assert not encoder.training
    whole = extract(encoder, blob_data, 1000, CPU)  # eval mode: a feature does not depend on its batch
    torch.testing.assert_close(found.train.features, whole.train.features)


def test_data_that_cannot_be_probed_is_refused(tmp_path, blob_data):
    with pytest.raises(DataError, match="has no labels"):
        extract(cnn(blob_data), write_prepared(tmp_path / "unlabelled", labelled=False), 10, CPU)
    with pytest.raises(DataError, match="has 3 channels, but the encoder was trained on 1"):
        extract(cnn(blob_data), write_prepared(tmp_path / "colour", channels=3), 10, CPU)


def test_a_feature_that_is_the_same_for_all_train_images_is_shifted_alone():
    train = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    other = torch.tensor([[2.0, 7.0]])
    parts = [Labelled(part, torch.zeros(len(part), dtype=torch.long)) for part in (train, other, other)]
    scaled = FeatureSet(*parts, num_classes=1).standardised()
    assert scaled.train.features.tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert scaled.test.features.tolist() == [[0.0, 2.0]]
