import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mlml import model_folder
from mlml.composed._perceptual import feature_distance
from mlml.config import DeclarationError
from mlml.data.batches import Batch, split_batches
from mlml.declaration import check
from mlml.method import Reconstructs, SamplesClasses
from mlml.train import fit

TRAIN = {"steps": 1, "batch_size": 16}
CPU = torch.device("cpu")


@pytest.fixture
def base(blob_data, tmp_path):
    """A classifier that has learnt the blobs."""
    torch.manual_seed(1)
    train = {"steps": 40, "batch_size": 32, "optimizer": {"name": "adamw", "learning_rate": 0.01}}
    layers = [
        {"layer": "convolution", "channels": 8, "kernel": 3, "padding": "same"},
        {"layer": "max_pooling", "kernel": 2},
        {"layer": "fully_connected", "width": 16},
    ]
    still = {"padding": 0, "flip_prob": 0.0}  # a blob's class is where it lies
    numbers = {"encoder": {"network": "convnet", "layers": layers}, "augment": still, "train": train}
    method = model_folder.build("supervised", "classifier", numbers, blob_data.spec)
    splits = [split_batches(blob_data, split, 32, 0, CPU) for split in ("train", "validation")]
    fit(method, *splits, method.config.train, 0, tmp_path / "base")
    return method


def build(base, **numbers):
    torch.manual_seed(0)
    encoder = {"network": "mlp", "hidden_widths": [16], "norm": "none"}
    config = {"base": "below", "encoder": encoder, "latent_dim": 3, "decoder_width": 8, "train": TRAIN, **numbers}
    return model_folder.build("composed", "perceptual_conditional_vae", config, base.spec, base)


def test_the_loss_is_of_features_and_of_the_prior_of_the_class(base):
    method = build(base, feature_weight=7.0, beta=0.5).eval()
    torch.nn.init.normal_(method.prior.weight, std=0.5)
    images, labels = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 1, 1, 2])
    batch = method.augment(Batch(images, labels), torch.Generator().manual_seed(2))
    told = torch.eye(4)[labels]
    mu, log_var = method.posterior_of(method.encode(images), told)
    made = method.logits(mu + (0.5 * log_var).exp() * batch.noise, told).sigmoid()
    feature = feature_distance(method.features(made), method.features(images)).mean()
    mean, log_spread = method.prior(told).chunk(2, 1)
    posterior, prior = Normal(mu, (0.5 * log_var).exp()), Normal(mean, (0.5 * log_spread).exp())
    expected = 7 * feature + 0.5 * kl_divergence(posterior, prior).sum(1).mean()
    torch.testing.assert_close(method(batch, "train").loss, expected)


def test_the_base_sees_the_class_that_was_asked_for(base, blob_data, tmp_path):
    numbers = {"steps": 60, "batch_size": 32, "optimizer": {"name": "adamw", "learning_rate": 0.01}}
    method = build(base, train=numbers)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    splits = [split_batches(blob_data, split, 32, 0, CPU) for split in ("train", "validation")]
    fit(method, *splits, method.config.train, 0, tmp_path)
    test = blob_data.split("test")
    seen = base.scores(torch.from_numpy(test.images.copy()).float() / 255).argmax(1)
    assert (seen == torch.from_numpy(test.labels.copy())).float().mean() > 0.9
    labels = torch.arange(40) % 4
    drawn = method.eval().sample_classes(labels, torch.Generator().manual_seed(0))
    assert (base.scores(drawn).argmax(1) == labels).float().mean() > 0.9
    assert all(torch.equal(value, before[key]) for key, value in base.state_dict().items())


def test_it_offers_what_a_conditional_vae_offers(base):
    method = build(base)
    assert isinstance(method, SamplesClasses)
    assert not isinstance(method, Reconstructs)


def test_what_cannot_be_is_refused_before_anything_runs(base):
    with pytest.raises(
        ValueError, match=r"perceptual_conditional_vae: layers: the base's encoder, of 'convnet', has the"
    ):
        build(base, layers=[4])
    below = {"method": "classifier", "dataset": "plain", "encoder": {"network": "cnn"}, "train": {"steps": 1}}
    entry = {"method": "perceptual_conditional_vae", "base": "below", "dataset": "plain", "encoder": {"network": "mlp"}}
    sections = {"supervised": {"below": below}, "pretext": {}, "probe": {}, "generative": {}, "search": {}}
    with pytest.raises(DeclarationError, match=r"composed\.c\.dataset: needs labels, but 'plain' has none"):
        check(
            {
                "threads": 1,
                "data": {"plain": {"source": "photos"}},
                **sections,
                "composed": {"c": {**entry, "train": {"steps": 1}}},
            }
        )
