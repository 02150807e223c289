import numpy as np
import pytest
import torch
from specs import make_spec

from mlml import catalogue, model_folder
from mlml.config import DeclarationError
from mlml.data.batches import Batch
from mlml.declaration import resolve

MLP = {"network": "mlp", "hidden_widths": [16]}


def build(spec=None, encoder=MLP, **numbers):
    config = {"encoder": encoder, "train": {"steps": 1}, **numbers}
    return model_folder.build("pretext", "jigsaw", config, spec or make_spec(3, 9, 9, mean=0.4, std=0.2))


def batch(b=4, channels=3, size=9):
    return Batch(torch.rand(b, channels, size, size, generator=torch.Generator().manual_seed(0)), torch.zeros(b))


def test_a_puzzle_holds_the_normalised_tiles_in_the_order_of_its_permutation():
    method = build(tile_fraction=1.0, tile_size=9).eval()
    images = batch().images
    puzzles = method.augment(Batch(images, torch.zeros(4)), torch.Generator().manual_seed(1))
    assert puzzles.tiles.shape == (4, 9, 3, 9, 9)
    assert len(set(puzzles.order.tolist())) > 1
    for i, j in np.ndindex(4, 9):
        row, column = divmod(int(method.permutations[puzzles.order[i], j]), 3)
        tile = images[i, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        expected = torch.stack([(c - c.mean()) / c.std(correction=0) for c in tile])
        expected = torch.nn.functional.interpolate(expected[None], (9, 9), mode="bilinear")[0]
        torch.testing.assert_close(method.encoder.normalize(puzzles.tiles[i])[j], expected, rtol=1e-4, atol=1e-4)


def test_the_loss_is_that_of_the_same_encoder_on_every_tile():
    method = build(num_permutations=20).eval()
    puzzles = method.augment(batch(), torch.Generator().manual_seed(1))
    output = method(puzzles, "train")
    logits = method.head(torch.cat([method.encoder(puzzles.tiles[:, j]) for j in range(9)], 1))
    expected = [-logits[i].log_softmax(0)[k] for i, k in enumerate(puzzles.order)]
    assert float(output.loss.detach()) == pytest.approx(float(torch.stack(expected).mean().detach()), rel=1e-5)
    assert float(output.metrics["accuracy"]) == float((logits.argmax(1) == puzzles.order).float().mean())


def test_one_image_has_many_puzzles_in_training():
    method = build(grey_prob=0.0, tile_fraction=0.7)
    first, second = (method.augment(batch(), torch.Generator().manual_seed(s)) for s in (1, 2))
    assert not torch.equal(first.order, second.order)
    assert not torch.equal(first.tiles.sort(1).values, second.tiles.sort(1).values)  # the places in the cells differ


def test_grey_images_have_equal_channels_and_only_in_training():
    method = build(make_spec(3, 9, 9), grey_prob=1.0)
    tiles = method.augment(batch(), torch.Generator().manual_seed(1)).tiles
    torch.testing.assert_close(tiles[:, :, 0], tiles[:, :, 1], rtol=1e-3, atol=1e-3)
    tiles = method.eval().augment(batch(), torch.Generator().manual_seed(1)).tiles
    assert (tiles[:, :, 0] - tiles[:, :, 1]).abs().max() > 0.1


@pytest.mark.parametrize(("given", "count"), [({}, 1000), ({"grid": 2}, 24), ({"num_permutations": 7}, 7)])
def test_how_many_permutations(given, count):
    method = build(**given)
    assert len(method.permutations) == count
    assert method.head[-1].out_features == count


def test_a_right_prediction_puts_the_image_back():
    method = build(num_permutations=5, tile_fraction=1.0).eval()
    images = batch().images
    drawn = method._draw(4, torch.Generator().manual_seed(3))
    method._logits = lambda tiles: torch.nn.functional.one_hot(drawn, 5).float()
    rows = method.illustrate(images, torch.Generator().manual_seed(3))
    assert list(rows) == ["image", "shuffled", "put back"]
    assert torch.equal(rows["put back"], images)
    assert not torch.equal(rows["shuffled"], images)
    method._logits = lambda tiles: torch.nn.functional.one_hot((drawn + 1) % 5, 5).float()
    assert not torch.equal(method.illustrate(images, torch.Generator().manual_seed(3))["put back"], images)


def test_small_tiles_for_a_network_that_takes_them():
    spec = make_spec(3, 33, 33)
    method = build(spec, {"network": "resnet", "depth": 8, "width": 4}, tile_size=12)
    puzzles = method.augment(batch(2, 3, 33), torch.Generator().manual_seed(0))
    assert puzzles.tiles.shape == (2, 9, 3, 12, 12)
    assert method.training
    assert all(module.training for module in method.modules())
    assert method(puzzles, "train").loss.isfinite()
    with pytest.raises(
        ValueError, match=r"jigsaw.tile_size: the network 'mlp' for images of 33x33 does not take tiles of 12x12; leave"
    ):
        build(spec, tile_size=12)


def test_refusals():
    with pytest.raises(ValueError, match="must be at least 6 pixels high and wide; got 5"):
        build(make_spec(1, 5, 9))
    entry = {"method": "jigsaw", "dataset": "x", "encoder": MLP, "train": {"steps": 1}, "grid": 2}
    with pytest.raises(DeclarationError, match="num_permutations must be at most 24, all orders of 4 tiles; got 25"):
        resolve("pretext", "x", {**entry, "num_permutations": 25})
    assert catalogue.config_class("pretext", "jigsaw").model_validate(
        {"encoder": MLP, "train": {"steps": 1}, "grid": 2, "num_permutations": 24}
    )
