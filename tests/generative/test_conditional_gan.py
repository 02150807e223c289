import pytest
import torch
from specs import make_spec

from mlml import model_folder
from mlml.data.batches import Batch, split_batches
from mlml.method import SamplesClasses
from mlml.seeds import seed_everything
from mlml.train import fit

CPU = torch.device("cpu")
CONFIG = {
    "latent_dim": 4,
    "generator_width": 8,
    "discriminator_width": 8,
    "train": {"steps": 1, "batch_size": 6},
}


def build(spec=None, **numbers):
    seed_everything(0, "init")
    spec = spec or make_spec(1, 8, 8, classes=tuple("abcd"))
    return model_folder.build("generative", "conditional_gan", {**CONFIG, **numbers}, spec)


def drawn(method, b=6):
    images = torch.rand(b, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return method.augment(Batch(images, torch.arange(b) % 4), torch.Generator().manual_seed(1))


def test_the_projection_is_the_papers():
    """Miyato & Koyama 2018, Eq. 3, as a loop."""
    discriminator = build().discriminator.eval()
    images, labels = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 3, 2, 2, 1])
    phi = discriminator.judge.features(images)
    one_hot = torch.eye(4)[labels]
    expected = []
    for k in range(5):
        psi = phi[k] @ discriminator.judge.to_logit.weight[0] + discriminator.judge.to_logit.bias[0]
        expected.append(one_hot[k] @ discriminator.embedding.weight @ phi[k] + psi)
    logits, scores = discriminator(images, labels)
    torch.testing.assert_close(logits, torch.stack(expected))
    assert scores is None


@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_both_players_are_told_the_class(conditioning):
    method = build(conditioning=conditioning).eval()
    batch = drawn(method)
    other = batch.labels.roll(1)
    (first, _), (second, _) = (method.discriminator(batch.images, labels) for labels in (batch.labels, other))
    assert not torch.equal(first, second)
    made, others = (method.sample_classes(labels, torch.Generator().manual_seed(0)) for labels in (batch.labels, other))
    assert not torch.equal(made, others)


def test_generated_images_are_judged_as_of_their_classes():
    method = build().eval()
    batch = drawn(method)
    made = method.generator(batch.latents, batch.labels).tanh()
    real, fake = (method.discriminator(x, batch.labels)[0].sigmoid() for x in (2 * batch.images - 1, made))
    torch.testing.assert_close(method(batch, "discriminator").loss, -(real.log() + (1 - fake).log()).mean())
    torch.testing.assert_close(method(batch, "generator").loss, -fake.log().mean())


def test_both_players_learn_to_tell_the_classes():
    """Odena et al. 2017, Eq. 3, as a loop: the discriminator of real images, the generator of its own."""
    method = build(auxiliary_weight=0.7).eval()
    batch = drawn(method)
    made = method.generator(batch.latents, batch.labels).tanh()
    for phase, images in (("discriminator", 2 * batch.images - 1), ("generator", made)):
        probabilities = method.discriminator(images, batch.labels)[1].softmax(1)
        missed = -sum(probabilities[k, batch.labels[k]].log() for k in range(6)) / 6
        real, fake = (method.discriminator(x, batch.labels)[0].sigmoid() for x in (2 * batch.images - 1, made))
        game = -fake.log().mean() if phase == "generator" else -(real.log() + (1 - fake).log()).mean()
        torch.testing.assert_close(method(batch, phase).loss, game + 0.7 * missed)
    with_penalty = build(auxiliary_weight=0.7, r1_gamma=2.0, discriminator_norm="none").eval()
    without = build(r1_gamma=2.0, discriminator_norm="none").eval()
    without.load_state_dict(with_penalty.state_dict(), strict=False)
    scores = with_penalty.discriminator(2 * batch.images - 1, batch.labels)[1]
    expected = without(batch, "discriminator").loss + 0.7 * torch.nn.functional.cross_entropy(scores, batch.labels)
    torch.testing.assert_close(with_penalty(batch, "discriminator").loss, expected)


def test_a_discriminator_that_is_told_the_class_is_not_asked_for_it():
    with pytest.raises(ValueError, match=r"must be 0 with conditioning 'concatenation'.*got 0\.5; take"):
        build(auxiliary_weight=0.5, conditioning="concatenation")


def test_samples_are_of_the_classes_in_turn():
    method = build().eval()
    assert isinstance(method, SamplesClasses)
    drawn_at_once = method.sample(6, torch.Generator().manual_seed(3))
    of_classes = method.sample_classes(torch.tensor([0, 1, 2, 3, 0, 1]), torch.Generator().manual_seed(3))
    assert torch.equal(drawn_at_once, of_classes)


def test_data_without_labels_is_refused():
    with pytest.raises(ValueError, match="conditional_gan: draws images of classes, but 'made' has no labels"):
        build(make_spec())


def test_the_class_is_short_beside_the_latent_vector():
    """Or the generator learns to make one image of each class: images of one class must differ from the beginning."""
    method = build(latent_dim=100).eval()
    images = method.sample_classes(torch.arange(40) % 4, torch.Generator().manual_seed(0)).flatten(1)
    of_class = images.view(10, 4, -1)
    within, between = of_class.var(0).sum(1).mean(), of_class.mean(0).var(0).sum()
    assert within > between


def test_it_learns_what_a_class_looks_like(blob_data, tmp_path):
    """The class of a blob is which quadrant is bright."""
    optimizer = {"name": "adam", "learning_rate": 0.003, "beta1": 0.5}
    method = build(blob_data.spec, train={"steps": 120, "batch_size": 32, "optimizer": optimizer})
    splits = [split_batches(blob_data, split, 32, 0, CPU) for split in ("train", "validation")]
    fit(method, *splits, method.config.train, 0, tmp_path)
    labels = torch.arange(40) % 4
    images = method.eval().sample_classes(labels, torch.Generator().manual_seed(0))
    quadrants = torch.nn.functional.avg_pool2d(images, 4).flatten(1)  # (40, 4)
    assert (quadrants.argmax(1) == labels).float().mean() > 0.9
