import math

import numpy as np
import pytest
import torch
from specs import make_spec

from mlml import model_folder
from mlml.data.batches import Batch, Batches
from mlml.pretext.inpainting import Masked, weighted_l2
from mlml.seeds import seed_everything
from mlml.train import fit

MLP = {"network": "mlp", "hidden_widths": [16]}
CPU = torch.device("cpu")


def build(encoder=MLP, size=8, **numbers):
    config = {"encoder": encoder, "train": {"steps": 1, "batch_size": 8}, **numbers}
    seed_everything(0, "init")
    return model_folder.build("pretext", "inpainting", config, make_spec(1, size, size, mean=0.3, std=0.2))


def images(b=4, size=8):
    return torch.rand(b, 1, size, size, generator=torch.Generator().manual_seed(0))


def augmented(method, b=4, size=8):
    return method.augment(Batch(images(b, size), torch.zeros(b)), torch.Generator().manual_seed(1))


def test_the_weighted_error_is_that_of_the_loop():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, 2, 4, 5, generator=generator, dtype=torch.float64)
    weights = torch.rand(3, 1, 4, 5, generator=generator, dtype=torch.float64).round() * 10
    total = 0.0
    for i in range(3):
        error = weight = 0.0
        for c, row, column in np.ndindex(2, 4, 5):
            w = float(weights[i, 0, row, column])
            error += w * float(x[i, c, row, column] - y[i, c, row, column]) ** 2
            weight += w
        total += error / weight / 3
    assert float(weighted_l2(x, y, weights)) == pytest.approx(total, rel=1e-12)


def test_what_is_hidden_is_not_seen_and_what_is_seen_is_not_judged():
    method = build(overlap=0).eval()
    batch = augmented(method)
    loss = method(batch, "train").loss
    hidden = torch.where(batch.mask > 0, torch.rand_like(batch.images), batch.images)
    assert torch.equal(method._predicted(hidden, batch.mask), method._predicted(*batch))
    assert not torch.equal(method(Masked(hidden, batch.mask), "train").loss, loss)
    predicted = method._predicted(*batch)
    for shift, same in ((batch.mask, False), (1 - batch.mask, True)):
        method._predicted = lambda *_, shift=shift: predicted + shift
        assert torch.equal(method(batch, "train").loss, loss) is same


def test_the_encoder_sees_the_mean_where_the_image_is_hidden():
    method = build().eval()
    batch = augmented(method)
    hidden = method._hidden(*batch)
    assert (hidden[batch.mask > 0] == torch.tensor(0.3)).all()
    assert torch.equal(hidden[batch.mask == 0], batch.images[batch.mask == 0])
    assert int((batch.mask > 0).sum()) == 4 * 16


@pytest.mark.parametrize(
    ("size", "region", "overlap"), [(128, "central", 7), (64, "central", 4), (8, "central", 1), (64, "blocks", 0)]
)
def test_the_overlap_is_the_papers_at_its_size(size, region, overlap):
    assert build({"network": "cnn", "width": 4}, size, region=region).overlap == overlap


def test_blocks_differ_between_images():
    method = build(region="blocks")
    masks = augmented(method, 8).mask
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 4


@pytest.mark.parametrize("adversarial", [0.001, 0.5])
def test_the_two_players_losses(adversarial):
    method = build(adversarial_weight=adversarial, discriminator_width=4, overlap=0).eval()
    assert method.phases == ("discriminator", "generator")
    batch = augmented(method)
    predicted = method._predicted(*batch)
    filled = batch.images * (1 - batch.mask) + predicted * batch.mask
    real, fake = (torch.sigmoid(method.discriminator(2 * x - 1)) for x in (batch.images, filled))
    discriminator = -(real.log() + (1 - fake).log()).mean()  # Eq. 2
    torch.testing.assert_close(method(batch, "discriminator").loss, discriminator, rtol=1e-4, atol=1e-5)
    error = ((predicted - batch.images).square() * batch.mask).sum() / batch.mask.sum()
    generator = (1 - adversarial) * error - adversarial * fake.log().mean()  # Eq. 3
    output = method(batch, "generator")
    torch.testing.assert_close(output.loss, generator, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.metrics["reconstruction"], error, rtol=1e-4, atol=1e-5)


def test_each_player_has_its_own_parameters():
    method = build(adversarial_weight=0.001, discriminator_width=4)
    owners = [{id(p) for p in method.phase_parameters(phase)} for phase in method.phases]
    assert owners[0].isdisjoint(owners[1])
    assert owners[0] | owners[1] == {id(p) for p in method.parameters()}
    method(augmented(method), "discriminator").loss.backward()
    assert all((p.grad is not None) == (id(p) in owners[0]) for p in method.parameters())


def test_two_players_train_in_the_loop_and_stop_and_go_on(tmp_path):
    data = np.random.default_rng(0).integers(0, 256, (48, 1, 8, 8)).astype(np.uint8)
    train = {
        "steps": 6,
        "batch_size": 8,
        "checkpoint_every": 2,
        "evaluate_every": 3,
        "log_every": 1,
        "optimizer": {"name": "adam", "learning_rate": 0.001},
    }

    class Stopped(BaseException):
        pass

    def stop(step, metrics):
        raise Stopped

    def run(folder, watch=None):
        method = build(adversarial_weight=0.1, discriminator_width=4, train=train)
        before = {key: value.clone() for key, value in method.state_dict().items()}
        fitted = fit(method, *(Batches(data, None, 8, 0, CPU) for _ in "ab"), method.config.train, 0, folder, watch)
        return method.state_dict(), before, fitted

    whole, before, fitted = run(tmp_path / "whole")
    assert math.isfinite(fitted.metrics["validation/loss"])
    assert not any(torch.equal(whole[key], value) for key, value in before.items() if key.endswith("weight"))
    with pytest.raises(Stopped):
        run(tmp_path / "parts", stop)
    resumed = run(tmp_path / "parts")[0]
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key


def test_a_network_of_pixels_fills_in_by_itself():
    method = build({"network": "unet", "width": 4, "num_stages": 2})
    assert isinstance(method.head.head, torch.nn.Conv2d)
    batch = augmented(method)
    assert method._predicted(*batch).shape == batch.images.shape
    stack = {"network": "convnet", "layers": [{"layer": "convolution", "channels": 4, "kernel": 3, "stride": 2}]}
    assert not build(stack).head.is_dense  # it leaves a smaller grid


def test_pictures():
    method = build().eval()
    x = images()
    rows = method.illustrate(x, torch.Generator().manual_seed(0))
    assert list(rows) == ["masked", "filled in", "image"]
    seen = rows["masked"] != torch.tensor(0.3)
    assert torch.equal(rows["filled in"][seen], x[seen])
    assert not torch.equal(rows["filled in"], x)
    assert torch.equal(rows["image"], x)
