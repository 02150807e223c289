import pytest
import torch

from mlml import model_folder
from mlml.data.batches import Batch

DENOISER = {"width": 8, "multipliers": [1, 2], "num_blocks": 1, "attention_resolutions": [4], "num_groups": 4}
CONFIG = {"train": {"steps": 1}, "denoiser": {**DENOISER, "dropout_prob": 0.0}, "timesteps": 30}
SAMPLERS = ["ddpm", *({"name": name, "steps": 5} for name in ("ddpm", "ddim", "heun", "dpm_solver"))]


def ddpm(spec, **numbers):
    """A network whose weights are all drawn, those that begin with 0 too."""
    torch.manual_seed(0)
    method = model_folder.build("generative", "ddpm", {**CONFIG, **numbers}, spec).eval()
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return method


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_depend_on_the_generator_alone(blob_data, sampler, prediction):
    method = ddpm(blob_data.spec, sampler=sampler, prediction=prediction)
    one, same, other = (method.sample(3, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.shape == (3, 1, 8, 8)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not one.requires_grad
    assert one.min() >= 0
    assert one.max() <= 1


def test_timesteps_and_noise_come_from_the_generator(blob_data):
    method = ddpm(blob_data.spec)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = [method.augment(Batch(images, torch.zeros(6)), torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    torch.manual_seed(1)  # of which forward makes no use
    losses = [method(batch, "train").loss.item() for batch in batches]
    assert losses[0] == losses[1] != losses[2]


def test_a_film_is_of_as_many_images(blob_data):
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    forward, reverse = ddpm(blob_data.spec, sampler="ddpm").film(images, 4, torch.Generator().manual_seed(0))
    assert forward.shape == reverse.shape == (2, 4, 1, 8, 8)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_it_draws_in_the_steps_that_one_asks_for(blob_data, sampler):
    name = sampler if isinstance(sampler, str) else sampler["name"]
    declared, method = (ddpm(blob_data.spec, sampler=given) for given in ({"name": name, "steps": 3}, sampler))
    with method.in_steps(3):
        few = method.sample(2, torch.Generator().manual_seed(0))
    assert torch.equal(few, declared.sample(2, torch.Generator().manual_seed(0)))
    assert not torch.equal(few, method.sample(2, torch.Generator().manual_seed(0)))


def test_it_draws_in_no_more_steps_than_there_are(blob_data):
    expected = pytest.raises(ValueError, match=r"sampler.steps must be at most timesteps, 30; got 31")
    with expected, ddpm(blob_data.spec).in_steps(31):
        pass
