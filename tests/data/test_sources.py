import bz2
import gzip
import hashlib
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from mlml import catalogue
from mlml.config import DeclarationError, parse
from mlml.data.dataset import DataError, Raw
from mlml.data.draws import Draws
from mlml.data.idx import read_idx
from mlml.data.pixels import pixels
from mlml.data.sources import shapes

QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def read(source: str, **config) -> Raw:
    cls = catalogue.method_class("data/sources", source)
    return cls(parse(cls.Config, config, "data.x")).read()


def idx(array: np.ndarray) -> bytes:
    code = {"uint8": 0x08, "int32": 0x0C}[array.dtype.name]
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_idx(
    folder: Path, prefixes=("train", "t10k"), labels="labels-idx1-ubyte", gz=True
) -> tuple[np.ndarray, np.ndarray]:
    """Write the four files of a small FashionMNIST, six images to train and four to test; return all of them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 28, 28)).astype(np.uint8)
    targets = np.arange(10, dtype=np.uint8)
    folder.mkdir(parents=True)
    for prefix, part in zip(prefixes, (slice(0, 6), slice(6, 10)), strict=True):
        told = targets[part]
        if "idx2" in labels:
            told = np.stack([told.astype(np.int32), np.full(len(told), 70_000, np.int32)], 1)
        for name, array in ((f"{prefix}-images-idx3-ubyte", images[part]), (f"{prefix}-{labels}", told)):
            content = idx(array)
            path = folder / (f"{name}.gz" if gz else name)
            path.write_bytes(gzip.compress(content, compresslevel=1) if gz else content)
    return images, targets


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


# --- the contract of all sources -------------------------------------------------------------------------------------


def test_data_modules_do_not_import_torch():
    script = (
        "import sys, mlml.data.prepare, mlml.data.dataset\n"
        "from mlml import catalogue\n"
        "for name in catalogue.names('data/sources'):\n"
        "    catalogue.config_class('data/sources', name); catalogue.method_class('data/sources', name)\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'torchvision', 'sklearn', 'dvc', 'mlflow'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_catalogue_knows_the_sources():
    assert catalogue.names("data/sources") == ["digits", "folder", "omniglot", "photos", "shapes", "torchvision"]
    labelled = {
        n: catalogue.class_constant("data/sources", n, "labelled", True) for n in catalogue.names("data/sources")
    }
    assert [name for name, value in labelled.items() if not value] == ["photos"]


# --- draws and pixels ------------------------------------------------------------------------------------------------


def test_draws_are_pinned_uniform_and_independent_of_each_other():
    digest = hashlib.sha512(b"shapes\x1f0\x1f7\x1e0").digest()
    draws = Draws("shapes", 0, 7)
    expected = [int.from_bytes(digest[8 * k : 8 * k + 8], "big") * 1000 >> 64 for k in range(8)]
    assert [draws.below(1000) for _ in range(8)] == expected
    assert draws.below(2**64) == int.from_bytes(hashlib.sha512(b"shapes\x1f0\x1f7\x1e1").digest()[:8], "big")
    counts = np.bincount([Draws("t", i).between(3, 6) for i in range(4000)], minlength=8)
    assert set(np.flatnonzero(counts)) == {3, 4, 5, 6}
    assert counts[3:7].min() > 850


def test_pixels_keep_16_bits_and_lay_transparency_over_white():
    deep = Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16))
    assert pixels(deep, 1).tolist() == [[[0, 0, 1, 128, 255]]]
    clear = Image.fromarray(np.array([[[10, 20, 30, 0], [10, 20, 30, 255]]], np.uint8))
    assert pixels(clear, 3)[:, 0].T.tolist() == [[255, 255, 255], [10, 20, 30]]
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    assert pixels(palette, 3).ravel().tolist() == [200, 100, 50]
    with pytest.raises(ValueError, match="mode 'F' has no fixed range"):
        pixels(Image.new("F", (2, 2)), 1)


def test_crop_cuts_the_centre_and_squash_keeps_all():
    wide = np.zeros((4, 8), np.uint8)
    wide[:, 2:6] = 200
    picture = Image.fromarray(wide)
    assert (pixels(picture, 1, (4, 4), "crop") == 200).all()
    squashed = pixels(picture, 1, (4, 4), "squash")
    assert squashed[0, 0, 0] < 60 < 140 < squashed[0, 0, 1]
    # shrinking averages: a fine chequerboard turns grey instead of aliasing to one of its colours
    board = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    assert abs(pixels(Image.fromarray(board), 1, (8, 8)).astype(int) - 127).max() < 12


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(1, 20))
@settings(QUICK, max_examples=60)
def test_a_flat_picture_stays_flat_at_any_size(height, width, to_height, to_width):
    picture = Image.new("RGB", (width, height), (9, 130, 251))
    for fit in ("crop", "squash"):
        array = pixels(picture, 3, (to_height, to_width), fit)
        assert array.shape == (3, to_height, to_width)
        assert (array == np.array([9, 130, 251])[:, None, None]).all()


# --- digits ----------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    raw = read("digits")
    assert raw.images.shape == (1797, 1, 8, 8)
    assert raw.images.dtype == np.uint8
    assert np.array_equal(np.rint(raw.images[:, 0] * (16 / 255)), load_digits().images)
    assert raw.images.max() == 255
    assert np.array_equal(raw.labels, load_digits().target)
    assert raw.classes == tuple("0123456789")


def test_digits_grow_by_bilinear_interpolation():
    small, large = read("digits").images[:, 0].astype(float), read("digits", size=16).images[:, 0]
    # half-pixel centres: output pixel 2k + 1 lies a quarter of the way from input pixel k to k + 1
    rows = 0.75 * small[:, :-1] + 0.25 * small[:, 1:]
    both = 0.75 * rows[:, :, :-1] + 0.25 * rows[:, :, 1:]
    assert abs(large[:, 1:-1:2, 1:-1:2] - both).max() <= 1  # Pillow rounds once per axis


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_shapes_are_pinned():
    """Any machine, any NumPy: these bytes must never change, or every hash and split of a user's data does."""
    raw = read("shapes", count=64)
    digest = hashlib.sha256(raw.images.tobytes() + "\n".join(raw.captions).encode()).hexdigest()
    assert digest == "ea1737bee1aa244599f6b9e1fc8fccad8e1d1b46e5f6d5808fe833de622e23d4"


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.sampled_from([16, 33]))
@settings(QUICK, max_examples=15)
def test_a_larger_count_extends_a_smaller_one(seed, count, more, size):
    small = read("shapes", count=count, seed=seed, size=size)
    large = read("shapes", count=count + more, seed=seed, size=size)
    assert np.array_equal(large.images[:count], small.images)
    assert np.array_equal(large.labels[:count], small.labels)
    assert large.captions[:count] == small.captions


def test_shapes_depend_on_seed_and_rarely_repeat():
    first, second = (read("shapes", count=500, seed=seed) for seed in (0, 1))
    both = np.concatenate([first.images, second.images])
    assert len({image.tobytes() for image in both}) == 1000
    assert set(first.labels) == set(range(len(shapes.KINDS)))


@given(st.integers(0, 10**6), st.sampled_from([16, 32, 47]))
@settings(QUICK, max_examples=150)
def test_a_picture_shows_what_its_caption_says(index, size):
    shown = shapes.scene(5, index, size)
    mask = shapes.coverage(shown, size)
    image = shapes.paint(shown, mask)
    words = shown.caption
    assert all(
        names[value] in words
        for names, value in zip(
            (shapes.KINDS, shapes.COLOURS, shapes.EXTENTS, shapes.PLACES),
            (shown.kind, shown.colour, shown.extent, shown.place),
            strict=True,
        )
    )
    assert (image[:, mask == 0] == shown.background).all()
    assert (image[:, mask == 16] == np.array(shown.rgb)[:, None]).all()
    rows, columns = np.nonzero(mask)
    # whole: the bounding box is as wide as the shape, so nothing is cut by the border
    across = {"square": 7 / 8, "star": 0.951}.get(shapes.KINDS[shown.kind], 1) * 2 * shown.radius / 8
    assert abs((columns.max() - columns.min() + 1) - across) <= 2
    middle_x, middle_y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
    row, column = divmod(shown.place, 3)
    room = size - 2 * shown.radius / 8
    for middle, cell in ((middle_x, column), (middle_y, row)):
        place = (middle - shown.radius / 8) / room  # 0 at the top or left end, 1 at the other
        assert abs(place - cell * 3 / 8 - 1 / 8) <= 1 / 8 + 2.1 / room


def test_masks_have_the_areas_of_their_shapes():
    r = 125  # odd, so that no sample point lies on an edge of the diamond
    areas = {
        "circle": np.pi,
        "square": (7 / 4) ** 2,
        "triangle": 1.75,
        "diamond": 2.0,
        "cross": 2 * (2 * 2 / 3) - (2 / 3) ** 2,
        "ring": np.pi * (1 - 0.36),
        "star": 1.12257,  # pentagram of circumradius 1
        "semicircle": np.pi / 2,
    }
    for kind, area in areas.items():
        shown = shapes.Scene(shapes.KINDS.index(kind), 0, 0, 4, r, 128, 128, (200, 0, 0), 0)
        covered = shapes.coverage(shown, 32).sum() / 16
        assert covered == pytest.approx(area * (r / 8) ** 2, rel=0.02), kind
    assert set(areas) == set(shapes.KINDS)


# --- photos ----------------------------------------------------------------------------------------------------------


def test_photos_are_patches_whose_test_split_shares_no_pixel_with_the_rest():
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    raw = read("photos", count=60, patch_size=24)
    assert raw.images.shape == (60, 3, 24, 24)
    assert raw.labels is None
    assert 0 < raw.is_test.sum() < 30
    for patch, is_test in zip(raw.images[:12], raw.is_test[:12], strict=True):
        columns = set()
        for photograph in photographs:
            windows = np.lib.stride_tricks.sliding_window_view(photograph, (24, 24), (0, 1))  # (404, 617, 3, 24, 24)
            candidates = np.argwhere((windows[:, :, :, 0, 0] == patch[:, 0, 0]).all(2))
            columns |= {left for top, left in candidates if np.array_equal(windows[top, left], patch)}
        assert columns
        assert all(left >= 512 for left in columns) if is_test else any(left + 24 <= 512 for left in columns)
    cls = catalogue.method_class("data/sources", "photos")
    places = [cls(cls.Config(patch_size=24))._place(index, (427, 640, 3)) for index in range(3000)]
    tops, rest, test = {p[2] for p in places}, {p[3] for p in places if not p[0]}, {p[3] for p in places if p[0]}
    assert (min(tops), max(tops)) == (0, 403)
    assert (min(rest), max(rest), min(test), max(test)) == (0, 512 - 24, 512, 640 - 24)
    longer = read("photos", count=90, patch_size=24)
    assert np.array_equal(longer.images[:60], raw.images)
    assert np.array_equal(longer.is_test[:60], raw.is_test)


# --- folder ----------------------------------------------------------------------------------------------------------


def save(path: Path, value: int, size=(5, 7), mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).convert(mode).save(path)


def test_folder_reads_any_size_and_mode_in_the_order_of_names(tmp_path):
    save(tmp_path / "b" / "2.png", 51, (9, 4), "P")
    save(tmp_path / "b" / "10.png", 10, (3, 3), "L")
    save(tmp_path / "a" / "x.gif", 40, mode="L")
    save(tmp_path / "a" / "y.bmp", 50, mode="RGB")
    save(tmp_path / "C" / "z.png", 60, mode="RGBA")
    raw = read("folder", path=str(tmp_path), size=[4, 6])
    assert raw.classes == ("C", "a", "b")
    assert raw.labels.tolist() == [0, 1, 1, 2, 2]
    assert raw.images.shape == (5, 3, 4, 6)
    assert raw.images[:, 0, 0, 0].tolist() == [60, 40, 50, 10, 51]
    assert raw.is_test is None
    assert read("folder", path=str(tmp_path), size=4, channels=1).images.shape == (5, 1, 4, 4)


def test_folder_turns_photographs_upright(tmp_path):
    (tmp_path / "a").mkdir()
    picture = Image.fromarray(np.array([[0, 0], [255, 255]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "a" / "0.png", exif=exif)
    assert read("folder", path=str(tmp_path), size=2, channels=1).images[0, 0].tolist() == [[255, 255], [0, 0]]


def test_folder_keeps_a_test_split_of_its_own(tmp_path):
    for number, name in enumerate(("train/a/0", "train/b/0", "test/a/0", "test/b/0")):
        save(tmp_path / f"{name}.png", number)
    raw = read("folder", path=str(tmp_path), size=3)
    assert raw.classes == ("a", "b")
    assert raw.labels.tolist() == [0, 1, 0, 1]
    assert raw.is_test.tolist() == [False, False, True, True]
    assert raw.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_folder_names_everything_that_is_wrong_at_once(tmp_path):
    for part in ("train", "test"):
        save(tmp_path / part / "cat" / "good.png", 1)
    save(tmp_path / "train" / "dog" / "good.png", 1)
    whole = (tmp_path / "train" / "cat" / "good.png").read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "train" / "cat" / "half.jpg")
    jpeg = (tmp_path / "train" / "cat" / "half.jpg").read_bytes()
    (tmp_path / "train" / "cat" / "half.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (tmp_path / "train" / "cat" / "crc.png").write_bytes(whole.replace(b"IDAT", b"IDAT\xff", 1))
    (tmp_path / "train" / "cat" / "empty.png").touch()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("hello")
    (tmp_path / "train" / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "train" / "cat" / "more").mkdir()
    (tmp_path / "train" / "cow").mkdir()
    (tmp_path / "train" / "list.csv").touch()
    (tmp_path / "readme.md").touch()
    with pytest.raises(DataError) as error:
        read("folder", path=str(tmp_path), size=4)
    message = str(error.value)
    for fault in (
        "train/cat/half.jpg (",
        "train/cat/crc.png (",
        "train/cat/empty.png (not an image)",
        "train/cat/notes.txt (not an image)",
        "train/cat/gone.png (",
        "train/cat/more (a folder inside a class folder)",
        "train/cow (an empty class)",
        "test/cow (a missing class)",
        "test/dog (a missing class)",
        "train/list.csv (a file outside the class folders)",
        "readme.md (stands beside 'train' and 'test')",
    ):
        assert fault in message
    assert "good.png" not in message
    assert "11 things" in message
    assert "\n" not in message


def test_folder_that_is_not_there_or_holds_nothing(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read("folder", path=str(tmp_path / "none"), size=4)
    with pytest.raises(DataError, match="holds no class folders"):
        read("folder", path=str(tmp_path), size=4)


# --- torchvision -----------------------------------------------------------------------------------------------------


@given(hnp.arrays(st.sampled_from([np.uint8, np.int32]), hnp.array_shapes(max_dims=3, max_side=5)), st.booleans())
@settings(QUICK, max_examples=50)
def test_idx_round_trip(tmp_path_factory, array, gz):
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if gz else "file")
    path.write_bytes(gzip.compress(idx(array)) if gz else idx(array))
    back = read_idx(path)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a", idx(np.zeros((2, 3), np.uint8))[:-1]),
        ("a", idx(np.zeros((2, 3), np.uint8)) + b"\0"),
        ("a", b"\0\0\x08\x03\0\0"),
        ("a", b""),
        ("a", b"<html>not found</html>"),
        ("a.gz", gzip.compress(idx(np.zeros((20, 30), np.uint8)), mtime=0)[:-10]),
        ("a.gz", idx(np.zeros((2, 3), np.uint8))),
        ("a.gz", gzip.compress(bytes(range(256)) * 9, mtime=0)[:30] + b"\xff" * 30),
    ],
)
def test_broken_idx_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{tmp_path / name}: .*get (it|the file) again"):
        read_idx(tmp_path / name)


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("place", ["FashionMNIST/raw", "FashionMNIST", "."])
def test_fashion_mnist_is_read_where_it_lies_and_as_torchvision_reads_it(tmp_path, place, gz):
    root = tmp_path / "root"
    images, targets = write_idx(root / place, gz=gz)
    before = snapshot(root)
    raw = read("torchvision", dataset="FashionMNIST", root=str(root))
    assert snapshot(root) == before
    assert np.array_equal(raw.images, images[:, None])
    assert np.array_equal(raw.labels, targets)
    assert raw.is_test.tolist() == [False] * 6 + [True] * 4
    assert raw.classes[8:] == ("Bag", "Ankle boot")
    if place == "FashionMNIST/raw" and not gz:
        from torchvision.datasets import FashionMNIST

        theirs = FashionMNIST(root, train=False)
        assert np.array_equal(theirs.data.numpy(), raw.images[raw.is_test, 0])
        assert np.array_equal(theirs.targets.numpy(), raw.labels[raw.is_test])


def test_relatives_of_mnist(tmp_path):
    images, targets = write_idx(tmp_path / "EMNIST", ("emnist-digits-train", "emnist-digits-test"))
    raw = read("torchvision", dataset="EMNIST", variant="digits", root=str(tmp_path), size=14)
    assert raw.images.shape == (10, 1, 14, 14)
    assert raw.classes == tuple("0123456789")
    write_idx(tmp_path / "QMNIST", ("qmnist-train", "qmnist-test"), "labels-idx2-int")
    raw = read("torchvision", dataset="QMNIST", root=str(tmp_path))
    assert np.array_equal(raw.labels, targets)
    assert np.array_equal(raw.images[:, 0], images)


def test_an_incomplete_set_of_files_is_refused_not_downloaded_over(tmp_path):
    write_idx(tmp_path / "FashionMNIST" / "raw")
    (tmp_path / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte.gz").unlink()
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=r"holds 3 of the 4 files, but not t10k-images-idx3-ubyte;"):
        read("torchvision", dataset="FashionMNIST", root=str(tmp_path))
    assert snapshot(tmp_path) == before


def test_labels_must_be_as_many_as_images(tmp_path):
    write_idx(tmp_path / "MNIST", gz=False)
    (tmp_path / "MNIST" / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte: must hold .* one for each label"):
        read("torchvision", dataset="MNIST", root=str(tmp_path))


def test_missing_files_without_network(tmp_path, monkeypatch):
    from torchvision.datasets import cifar, mnist

    def unreachable(*args, **kwargs):
        raise OSError("no route\nto host")

    monkeypatch.setattr(mnist, "download_and_extract_archive", unreachable)
    monkeypatch.setattr(cifar, "download_and_extract_archive", unreachable)
    for dataset, wanted in (
        ("KMNIST", "train-images-idx3-ubyte.*into .*/KMNIST/raw"),
        ("CIFAR10", "cifar-10-batches-py"),
    ):
        with pytest.raises(DataError, match=f"download failed .*{wanted}") as error:
            read("torchvision", dataset=dataset, root=str(tmp_path))
        assert "\n" not in str(error.value)
        with pytest.raises(DataError, match=wanted):
            read("torchvision", dataset=dataset, root=str(tmp_path), download=False)
    assert not list(tmp_path.rglob("*.download"))


def test_a_download_ends_where_torchvision_looks(tmp_path, monkeypatch):
    from torchvision.datasets import mnist

    served = tmp_path / "served"
    images, _ = write_idx(served)
    calls = []

    def download(url, download_root, filename, md5):
        calls.append(filename)
        name = filename.removesuffix(".gz")
        (Path(download_root) / name).write_bytes(gzip.decompress((served / filename).read_bytes()))

    monkeypatch.setattr(mnist, "download_and_extract_archive", download)
    root = tmp_path / "data" / "raw"
    raw = read("torchvision", dataset="MNIST", root=str(root))
    assert np.array_equal(raw.images[:, 0], images)
    assert len(calls) == 4
    assert sorted(p.name for p in root.iterdir()) == ["MNIST"]
    assert len(list((root / "MNIST" / "raw").iterdir())) == 4
    read("torchvision", dataset="MNIST", root=str(root))
    assert len(calls) == 4


def test_cifar_in_torchvisions_own_layout(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    written = {}

    def dump(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    lists = {"train_list": ["data_batch_1", "data_batch_2"], "test_list": ["test_batch"]}
    for attribute, names in lists.items():
        for name in names:
            written[name] = rng.integers(0, 256, (3, 3072)).astype(np.uint8)
        sums = [[name, dump(name, {"data": written[name], "labels": [0, 2, 1]})] for name in names]
        monkeypatch.setattr(CIFAR10, attribute, sums)
    meta = {"filename": "meta", "key": "names", "md5": dump("meta", {"names": ["cat", "dog", "cow"]})}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    raw = read("torchvision", dataset="CIFAR10", root=str(tmp_path), download=False)
    assert np.array_equal(raw.images.reshape(9, -1), np.concatenate(list(written.values())))
    assert raw.labels.tolist() == [0, 2, 1] * 3
    assert raw.classes == ("cat", "dog", "cow")
    assert raw.is_test.tolist() == [False] * 6 + [True] * 3
    assert read("torchvision", dataset="CIFAR10", root=str(tmp_path), size=8).images.shape == (9, 3, 8, 8)


def test_svhn_has_splits_by_name_and_no_class_names(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN

    rng = np.random.default_rng(0)
    sums, parts = {}, []
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        parts.append(rng.integers(0, 256, (32, 32, 3, 10)).astype(np.uint8))
        savemat(path, {"X": parts[-1], "y": np.arange(1, 11)[:, None]})
        sums[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", sums)
    raw = read("torchvision", dataset="SVHN", root=str(tmp_path), download=False)
    assert np.array_equal(raw.images, np.concatenate([part.transpose(3, 2, 0, 1) for part in parts]))
    assert raw.labels.tolist() == [*range(1, 10), 0] * 2
    assert raw.classes == tuple("0123456789")


def test_usps_is_grey(tmp_path):
    for name, count in (("usps.bz2", 6), ("usps.t.bz2", 4)):
        lines = [f"{n + 1} " + " ".join(f"{k}:{-1 if n else 1}" for k in range(256)) for n in range(count)]
        (tmp_path / name).write_bytes(bz2.compress("\n".join(lines).encode()))
    raw = read("torchvision", dataset="USPS", root=str(tmp_path), download=False)
    assert raw.images.shape == (10, 1, 16, 16)
    assert raw.images[:, 0, 0, 0].tolist() == [255, 0, 0, 0, 0, 0, 255, 0, 0, 0]
    assert raw.is_test.sum() == 4


def test_images_of_several_sizes_and_modes(tmp_path):
    save(tmp_path / "caltech101" / "101_ObjectCategories" / "ant" / "image_0001.jpg", 7, (20, 30), "L")
    save(tmp_path / "caltech101" / "101_ObjectCategories" / "bee" / "image_0001.jpg", 9, (30, 20), "RGB")
    (tmp_path / "caltech101" / "Annotations").mkdir()
    (tmp_path / "caltech101" / "101_ObjectCategories" / "BACKGROUND_Google").mkdir()
    config = {"dataset": "Caltech101", "root": str(tmp_path), "download": False}
    with pytest.raises(DataError, match=r"2 sizes, from \(20, 30\) to \(30, 20\) pixels; declare 'size'"):
        read("torchvision", **config)
    raw = read("torchvision", size=8, **config)
    assert raw.images.shape == (2, 3, 8, 8)
    assert raw.classes == ("ant", "bee")
    assert raw.is_test is None


def test_every_listed_data_set_is_torchvisions():
    from torchvision import datasets

    from mlml.data.sources import torchvision as source

    assert set(source._IDX) <= set(source._DATASETS)
    assert not [name for name in source._DATASETS if not hasattr(datasets, name)]


@pytest.mark.parametrize(
    ("source", "config", "sentence"),
    [
        ("torchvision", {"dataset": "FashionMNSIT"}, "data.x.dataset: unknown data set .* did you mean 'FashionMNIST'"),
        ("torchvision", {"dataset": "EMNIST"}, "data.x: 'variant' is required for EMNIST"),
        ("torchvision", {"dataset": "MNIST", "variant": "digits"}, "data.x: 'variant' is required for EMNIST and"),
        ("torchvision", {}, "data.x.dataset: required"),
        ("shapes", {"size": 15}, "data.x.size: must"),
        ("shapes", {"count": 0}, "data.x.count: must"),
        ("shapes", {"seed": -1}, "data.x.seed: must"),
        ("photos", {"patch_size": 129}, "data.x.patch_size: must"),
        ("photos", {"count": 0}, "data.x.count: must"),
        ("digits", {"size": 3}, "data.x.size: must"),
        ("folder", {"path": "", "size": 8}, "data.x.path: must"),
        ("folder", {"path": "a"}, "data.x.size: required"),
        ("folder", {"path": "a", "size": 8, "fit": "pad"}, "data.x.fit: unknown value 'pad'"),
        ("folder", {"path": "a", "size": 8, "channels": 2}, "data.x.channels: "),
    ],
)
def test_a_wrong_number_is_refused_without_importing_the_source(source, config, sentence):
    with pytest.raises(DeclarationError, match=sentence):
        parse(catalogue.config_class("data/sources", source), config, "data.x")
