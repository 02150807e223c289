import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from specs import make_spec

from mlml.data.batches import Batch
from mlml.data.mix import Mixed
from mlml.supervised.classifier import Classifier

SPEC = make_spec(mean=0.5, std=0.2, classes=("a", "b", "c"))


def classifier(**numbers):
    torch.manual_seed(0)
    encoder = {"network": "mlp", "hidden_widths": [6], "norm": "none"}
    config = {"encoder": encoder, "train": {"steps": 1}, "augment": {"flip_prob": 0.0, "padding": 0}, **numbers}
    return Classifier(Classifier.Config.model_validate(config), SPEC)


def batch():
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(16, 1, 8, 8, generator=generator), torch.randint(3, (16,), generator=generator))


@pytest.mark.parametrize("mix", ["mixup_alpha", "cutmix_alpha"])
def test_a_mixed_batch_has_the_loss_of_its_soft_labels(mix):
    method = classifier(**{mix: 1.0})
    mixed = method.augment(batch(), torch.Generator().manual_seed(0))
    assert isinstance(mixed, Mixed)
    own, partner = F.one_hot(mixed.labels, 3), F.one_hot(mixed.partner_labels, 3)
    soft = mixed.weight[:, None] * own + (1 - mixed.weight[:, None]) * partner
    wanted = F.cross_entropy(method.head(method.encoder(mixed.images)), soft)
    torch.testing.assert_close(method(mixed, "train").loss, wanted)


@pytest.mark.parametrize("numbers", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}, {"label_smoothing": 0.2}])
def test_evaluation_is_of_the_images_and_labels_as_they_are(numbers):
    method, plain = classifier(**numbers).eval(), classifier().eval()
    seen = method.augment(batch(), torch.Generator().manual_seed(0))
    assert torch.equal(seen.images, batch().images)
    assert torch.equal(method(seen, "train").loss, plain(batch(), "train").loss)


def test_smoothing_is_of_training():
    method = classifier(label_smoothing=0.3)
    wanted = F.cross_entropy(method.head(method.encoder(batch().images)), batch().labels, label_smoothing=0.3)
    torch.testing.assert_close(method(batch(), "train").loss, wanted)


def test_two_ways_of_mixing_are_refused():
    with pytest.raises(ValidationError, match="give at most one of 'mixup_alpha' and 'cutmix_alpha'; got both"):
        classifier(mixup_alpha=1.0, cutmix_alpha=1.0)
