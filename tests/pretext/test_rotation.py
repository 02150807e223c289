import pytest
import torch
from blobs import write_prepared

from mlml import model_folder
from mlml.data.batches import Batch

CONFIG = {"encoder": {"network": "mlp"}, "train": {"steps": 1}}


def test_every_image_in_all_four_rotations(blob_data):
    method = model_folder.build("pretext", "rotation", CONFIG, blob_data.spec).eval()
    images = torch.rand(3, 1, 8, 8)
    rotated = method.augment(Batch(images, torch.zeros(3)), torch.Generator())
    assert rotated.images.shape == (12, 1, 8, 8)
    for k, image in enumerate(rotated.images):
        assert torch.equal(image, torch.rot90(images[k % 3], int(rotated.turns[k]), (1, 2)))
    assert rotated.turns.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_images_must_be_square(tmp_path):
    spec = write_prepared(tmp_path / "wide").spec.model_copy(update={"width": 9})
    with pytest.raises(ValueError, match="rotation: images of 'wide' must be square; got 8x9"):
        model_folder.build("pretext", "rotation", CONFIG, spec)
