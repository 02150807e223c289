import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from mlml.data.dataset import DataError, PreparedData
from mlml.data.prepare import prepare
from mlml.data.sources.omniglot import Omniglot
from mlml.probes.fewshot import FewShot


def png(number):
    """One bit a pixel, as the official files; the ink of each number lies elsewhere."""
    ink = np.zeros((105, 105), bool)
    ink[number % 100 : number % 100 + 4, : 3 + number // 100] = True
    buffer = io.BytesIO()
    Image.fromarray(~ink).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder):
    """Two alphabets of two characters, and two runs of three classes; query k of a run is of class 3 - k."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "background.zip", "w") as archive:
        for number, name in enumerate(
            f"set/{a}/character0{c}/{d:02}.png" for a in "AB" for c in (1, 2) for d in range(9)
        ):
            archive.writestr(name, png(number))
    with zipfile.ZipFile(folder / "all_runs.zip", "w") as archive:
        for run in (1, 2):
            lines = [f"run0{run}/test/item0{k}.png run0{run}/training/class0{4 - k}.png" for k in (1, 2, 3)]
            archive.writestr(f"run0{run}/class_labels.txt", "\n".join(lines) + "\n")
            for k in (1, 2, 3):
                archive.writestr(f"run0{run}/training/class0{k}.png", png(100 * run + k))
                archive.writestr(f"run0{run}/test/item0{k}.png", png(100 * run + 50 + k))
    return Omniglot.Config(path=str(folder), background=("background.zip",), size=105)


def ink(number):
    return 255 - np.asarray(Image.open(io.BytesIO(png(number))).convert("L"))[None]


def test_runs_are_the_test_split_shot_before_query(tmp_path):
    raw = Omniglot(write(tmp_path / "raw")).read()
    assert raw.classes[:5] == ("A/character01", "A/character02", "B/character01", "B/character02", "run01/class01")
    assert raw.is_test.tolist() == [False] * 36 + [True] * 12
    assert raw.labels.tolist() == [k // 9 for k in range(36)] + [4 + k // 2 for k in range(12)]
    for place, number in ((0, 0), (35, 35), (36, 101), (37, 153), (40, 103), (41, 151), (47, 251)):
        np.testing.assert_array_equal(raw.images[place], ink(number))


def test_declared_episodes_of_the_prepared_data_are_the_runs(tmp_path):
    prepare("omniglot", write(tmp_path / "raw"), "omniglot", 0.2, None, tmp_path / "prepared")
    test = PreparedData(tmp_path / "prepared").split("test")
    probe = FewShot(FewShot.Config(encoder="e", num_ways=3, num_shots=1, num_queries=1, order="declared"))
    episodes = probe.episodes(np.array(test.labels), 0)
    assert len(episodes) == 2
    for run, episode in enumerate(episodes, 1):
        for way in range(3):
            np.testing.assert_array_equal(test.images[episode.shots[way, 0]], ink(100 * run + way + 1))
            np.testing.assert_array_equal(test.images[episode.queries[way, 0]], ink(100 * run + 53 - way))


def test_what_cannot_be_read_is_named(tmp_path):
    config = write(tmp_path / "raw")
    with pytest.raises(DataError, match=r"lacks images_background\.zip; put the files of"):
        Omniglot(Omniglot.Config(path=config.path)).read()
    with zipfile.ZipFile(tmp_path / "raw" / "flat.zip", "w") as archive:
        archive.writestr("character01/01.png", png(0))
    with pytest.raises(DataError, match=r"must hold SET/ALPHABET/CHARACTER/DRAWING\.png; got character01/01\.png"):
        Omniglot(config.model_copy(update={"background": ("flat.zip",)})).read()
    with zipfile.ZipFile(tmp_path / "raw" / "other.zip", "w") as archive:
        archive.writestr("run01/class_labels.txt", "run01/test/item01.png run01/training/class01.png\n")
    with pytest.raises(DataError, match=r"run01/training/class01\.png cannot be read"):
        Omniglot(config.model_copy(update={"runs": "other.zip"})).read()


def test_a_download_that_was_cut_off_is_told(tmp_path):
    config = write(tmp_path / "raw")
    path = tmp_path / "raw" / config.runs
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"cannot be read \(.*\); fetch it again"):
        Omniglot(config).read()
