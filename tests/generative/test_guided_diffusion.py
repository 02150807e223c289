import pytest
import torch
from specs import make_spec

from mlml import model_folder
from mlml.data.batches import Batch

DENOISER = {"width": 8, "multipliers": [1, 2], "num_blocks": 1, "attention_resolutions": [4], "num_groups": 4}
CONFIG = {
    "train": {"steps": 1},
    "denoiser": {**DENOISER, "dropout_prob": 0.0},
    "timesteps": 30,
    "sampler": {"name": "ddim", "steps": 4},
}


def guided_diffusion(**numbers):
    torch.manual_seed(0)
    spec = make_spec(classes=tuple("abcd"))
    method = model_folder.build("generative", "guided_diffusion", {**CONFIG, **numbers}, spec).eval()
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return method


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_scale_of_0_forgets_the_class_and_one_of_1_is_the_condition_alone():
    method = guided_diffusion()
    labels, others = torch.tensor([0, 1, 2]), torch.tensor([3, 2, 1])
    assert torch.equal(method.sample_classes(labels, seeded(), 0), method.sample_classes(others, seeded(), 0))
    alone = method.sample_classes(labels, seeded(), 1)
    assert not torch.allclose(alone, method.sample_classes(others, seeded(), 1))
    torch.testing.assert_close(method.sample_classes(labels, seeded(), 1 + 1e-6), alone, atol=1e-3, rtol=1e-3)


def test_a_guided_prediction_is_equation_6():
    method = guided_diffusion(clip=False, prediction="x0")
    labels, x = torch.tensor([0, 3]), torch.randn(2, 1, 8, 8, generator=seeded())
    t = torch.full((2,), 7.0)
    of_class = method.denoiser(x, t, method.classes(labels))
    of_none = method.denoiser(x, t, method.classes(torch.tensor([4, 4])))
    estimate = method._denoise(labels, 3.0)(x, 7)
    torch.testing.assert_close(estimate, 3 * of_class - 2 * of_none, atol=1e-5, rtol=1e-4)


def test_classes_are_dropped_while_training_only():
    method = guided_diffusion(drop_prob=0.25)
    batch = Batch(torch.rand(2000, 1, 8, 8, generator=seeded()), torch.arange(2000) % 4)
    assert torch.equal(method.augment(batch, seeded()).labels, batch.labels)
    drawn = method.train().augment(batch, seeded()).labels
    dropped = drawn == 4
    assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.05)
    assert torch.equal(drawn[~dropped], batch.labels[~dropped])


def test_samples_are_of_each_class_in_turn():
    method = guided_diffusion()
    expected = method.sample_classes(torch.tensor([0, 1, 2, 3, 0]), seeded(3))
    assert torch.equal(method.sample(5, seeded(3)), expected)
    assert torch.equal(method.sample_guided(5, 1.3, seeded(3)), expected)


def test_data_without_classes_is_refused():
    with pytest.raises(ValueError, match="guided_diffusion: the data must have classes; 'made' has none"):
        model_folder.build("generative", "guided_diffusion", CONFIG, make_spec())
