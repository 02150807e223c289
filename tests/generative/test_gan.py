import pytest
import torch
from specs import make_spec

from mlml import model_folder, points
from mlml.config import DeclarationError
from mlml.data.batches import Batch, split_batches
from mlml.declaration import resolve
from mlml.seeds import seed_everything
from mlml.train import fit

CPU = torch.device("cpu")
SMALL = {"latent_dim": 4, "generator_width": 4, "discriminator_width": 4}
TRAIN = {
    "steps": 4,
    "batch_size": 16,
    "checkpoint_every": 1,
    "evaluate_every": 2,
    "log_every": 1,
    "optimizer": {"name": "adam", "learning_rate": 0.001, "beta1": 0.5},
}


def config(**numbers):
    entry = {"method": "gan", "dataset": "blobs", "train": TRAIN, **SMALL, **numbers}
    return resolve("generative", "gan", entry).config


def build(size=8, **numbers):
    seed_everything(0, "init")
    return model_folder.build("generative", "gan", config(**numbers), make_spec(1, size, size))


def drawn(method, b=6, size=8):
    images = torch.rand(b, 1, size, size, generator=torch.Generator().manual_seed(0))
    return method.augment(Batch(images, torch.zeros(b)), torch.Generator().manual_seed(1))


@pytest.mark.parametrize("loss", ["minimax", "non_saturating"])
def test_the_players_losses_are_the_papers(loss):
    """Goodfellow et al. 2014, Algorithm 1, of the same images and latent vectors."""
    method = build(loss=loss).eval()
    batch = drawn(method)
    made = 2 * (method.generator(batch.latents).tanh() + 1) / 2 - 1
    real, fake = (method.discriminator(x).sigmoid() for x in (2 * batch.images - 1, made))
    expected = -(real.log() + (1 - fake).log()).mean()
    torch.testing.assert_close(method(batch, "discriminator").loss, expected)
    expected = (1 - fake).log().mean() if loss == "minimax" else -fake.log().mean()
    torch.testing.assert_close(method(batch, "generator").loss, expected)


def test_latents_are_of_the_batch_s_generator_alone():
    method = build()
    one, same = (drawn(method).latents for _ in "ab")
    assert torch.equal(one, same)
    other = method.augment(Batch(drawn(method).images, torch.zeros(6)), torch.Generator().manual_seed(2)).latents
    assert not torch.equal(one, other)


def test_each_player_has_its_own_parameters_and_the_discriminator_s_phase_leaves_the_generator_alone():
    method = build()
    owners = [{id(p) for p in method.phase_parameters(phase)} for phase in ("discriminator", "generator")]
    assert owners[0].isdisjoint(owners[1])
    assert owners[0] | owners[1] == {id(p) for p in method.parameters()}
    method(drawn(method), "discriminator").loss.backward()
    assert all((p.grad is not None) == (id(p) in owners[0]) for p in method.parameters())


def test_r1_is_added_to_the_discriminator_s_loss_alone():
    plain, penalised = build(discriminator_norm="none"), build(r1_gamma=10.0)
    with torch.no_grad():
        for parameter in plain.discriminator.parameters():
            parameter.mul_(5)  # for a penalty that float32 can tell from rounding
    penalised.load_state_dict(plain.state_dict())
    batch = drawn(plain)
    images = (2 * batch.images - 1).requires_grad_()
    total = 0.0
    for k in range(6):
        gradient = torch.autograd.grad(plain.discriminator(images[k : k + 1]).sum(), images)[0][k]
        total += float(gradient.square().sum())
    for phase, penalty in (("discriminator", 10 / 2 * total / 6), ("generator", 0.0)):
        found = float(penalised(batch, phase).loss - plain(batch, phase).loss)
        assert found == pytest.approx(penalty, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize(
    ("numbers", "norms"),
    [
        ({}, 1),
        ({"spectral_norm": True}, 0),
        ({"r1_gamma": 1}, 0),
        ({"spectral_norm": True, "discriminator_norm": "batch"}, 1),
    ],
)
def test_the_discriminator_s_norm_is_dcgans_unless_another_paper_has_none(numbers, norms):
    found = [m for m in build(16, **numbers).discriminator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(found) == norms


def test_batch_norm_with_r1_is_refused():
    with pytest.raises(DeclarationError, match="discriminator_norm must not be 'batch' where r1_gamma is above 0"):
        config(r1_gamma=1.0, discriminator_norm="batch")


def test_initial_weights_are_dcgans():
    method = build(16, generator_width=32, discriminator_width=32)
    for weight in (method.generator.expand.weight, method.discriminator.layers[2].weight):
        assert float(weight.std()) == pytest.approx(0.02, rel=0.1)


OPTIONS = {"spectral": {"spectral_norm": True, "loss": "hinge", "discriminator_steps": 2}, "r1": {"r1_gamma": 10.0}}


@pytest.mark.parametrize("name", OPTIONS)
def test_with_options_it_trains_in_the_loop_and_stops_and_goes_on(blob_data, tmp_path, name):
    class Stopped(BaseException):
        pass

    def stop(step, metrics):
        raise Stopped

    def run(folder, watch=None):
        method = build(generator_rate=0.5, **OPTIONS[name])
        splits = [split_batches(blob_data, split, 16, 0, CPU) for split in ("train", "validation")]
        fit(method, *splits, method.config.train, 0, folder, watch)
        return method.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path / "parts", stop)
    resumed = run(tmp_path / "parts")
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
    rates = {key: value for key, _, value in points.read(tmp_path / "whole" / "points.jsonl") if key.endswith("_rate")}
    assert rates["generator/learning_rate"] == pytest.approx(rates["discriminator/learning_rate"] / 2)


def test_a_step_has_as_many_phases_as_declared():
    assert build(discriminator_steps=3).phases == ("discriminator",) * 3 + ("generator",)
    assert build().phases == ("discriminator", "generator")


@pytest.mark.parametrize("numbers", OPTIONS.values())
def test_half_precision_computes_the_options(numbers):
    method = build(**numbers)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(drawn(method), "discriminator").loss
    loss.backward()
    assert all(p.grad.isfinite().all() for p in method.phase_parameters("discriminator"))
