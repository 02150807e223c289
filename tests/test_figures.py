import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mlml import figures


def pixels(path):
    with Image.open(path) as image:
        assert image.mode == "RGBA"
        assert image.info == {}  # no time, no software
        return np.asarray(image)


def tile(image):
    """One image (c, h, w) enlarged seven times, as 8-bit RGB."""
    image = np.broadcast_to(image, (3, *image.shape[1:]))
    return np.kron(np.rint(255 * image).astype(np.uint8), np.ones((1, 7, 7), np.uint8)).transpose(1, 2, 0)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((5, 1, 8, 8)).astype(np.float32)


def test_image_grid_places_enlarged_images_row_by_row(images, tmp_path):
    figures.image_grid(images, 3, tmp_path / "a" / "grid.png")
    grid = pixels(tmp_path / "a" / "grid.png")
    assert grid.shape == (2 * 56 + 4, 3 * 60 - 4, 4)
    for number, image in enumerate(images):
        top, left = number // 3 * 60, number % 3 * 60
        np.testing.assert_array_equal(grid[top : top + 56, left : left + 56, :3], tile(image))
    assert (grid[60:, 120:, 3] == 0).all()  # the place of the sixth
    assert (grid[56:60, :, 3] == 0).all()
    assert (grid[:56, :56, 3] == 255).all()


def test_colour_keeps_its_channels(tmp_path):
    image = np.zeros((1, 3, 8, 8))
    image[0, 0], image[0, 2] = 1.0, 0.5
    figures.image_grid(image, 1, tmp_path / "x.png")
    assert (pixels(tmp_path / "x.png") == [255, 0, 128, 255]).all()


def test_large_images_are_not_enlarged(tmp_path):
    figures.image_grid(np.zeros((1, 1, 64, 70)), 1, tmp_path / "x.png")
    assert pixels(tmp_path / "x.png").shape == (64, 70, 4)


def test_pairs_grid_has_each_reconstruction_below_its_original(images, tmp_path):
    figures.pairs_grid(images, images[::-1], 3, tmp_path / "x.png")
    grid = pixels(tmp_path / "x.png")
    assert grid.shape == (4 * 56 + 2 * 2 + 12, 3 * 60 - 4, 4)
    for number, (original, again) in enumerate(zip(images, images[::-1], strict=True)):
        top, left = number // 3 * (2 * 56 + 2 + 12), number % 3 * 60
        np.testing.assert_array_equal(grid[top : top + 56, left : left + 56, :3], tile(original))
        np.testing.assert_array_equal(grid[top + 58 : top + 114, left : left + 56, :3], tile(again))


def test_rows_grid_has_a_row_for_each_sequence(images, tmp_path):
    figures.rows_grid(images[:4].reshape(2, 2, 1, 8, 8), tmp_path / "rows.png")
    figures.image_grid(images[:4], 2, tmp_path / "grid.png")
    np.testing.assert_array_equal(pixels(tmp_path / "rows.png"), pixels(tmp_path / "grid.png"))


@pytest.mark.parametrize(
    ("images", "fault"),
    [
        (np.full((1, 1, 2, 2), 1.5), r"must be in \[0, 1\]; got 1.5"),
        (np.full((1, 1, 2, 2), -0.1), r"must be in \[0, 1\]"),
        (np.full((1, 1, 2, 2), np.nan), r"must be in \[0, 1\]; got nan"),
        (np.zeros((0, 1, 2, 2)), "none of them 0"),
        (np.zeros((1, 2, 2, 2)), r"1 or 3"),
        (np.zeros((1, 2, 2)), r"1 or 3"),
    ],
)
def test_what_is_no_image_is_refused(images, fault, tmp_path):
    with pytest.raises(ValueError, match=rf"x\.png: .*{fault}"):
        figures.image_grid(images, 2, tmp_path / "x.png")


def test_grids_of_other_shapes_are_refused(images, tmp_path):
    with pytest.raises(ValueError, match="must have one shape"):
        figures.pairs_grid(images, images[:2], 2, tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"\(r, s, c, h, w\)"):
        figures.rows_grid(images, tmp_path / "x.png")
    with pytest.raises(ValueError, match="at least one image"):
        figures.rows_grid(images[None][:0], tmp_path / "x.png")


@pytest.fixture
def frame():
    rows = [(step, seed, 10.0 * seed + step, 0.5) for seed in (0, 1) for step in (1, 2, 3)]
    frame = pd.DataFrame(rows, columns=["step", "seed", "train/loss", "validation/accuracy"])
    return frame.drop(index=5)  # seed 1 ends after step 2


def test_curves_draw_each_seed_and_the_mean_of_all(frame):
    loss, accuracy = figures.curves(frame).axes
    assert (loss.get_title(loc="left"), accuracy.get_title(loc="left")) == ("loss", "accuracy")
    lines = [line.get_xydata().tolist() for line in loss.lines]
    assert lines == [[[1, 1], [2, 2], [3, 3]], [[1, 11], [2, 12]], [[1, 6], [2, 7]]]
    assert loss.lines[2].get_linewidth() > loss.lines[0].get_linewidth()


def test_curves_of_one_quantity_share_a_panel(frame):
    frame["validation/loss"] = frame["train/loss"] + 1
    loss, _ = figures.curves(frame).axes
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "validation"]


def test_curves_leave_out_empty_cells_and_columns(frame):
    frame.loc[0, "train/loss"] = np.nan
    frame["validation/kl"] = np.nan
    panels = figures.curves(frame[frame["seed"] == 0]).axes
    assert len(panels) == 2
    assert [line.get_xydata().tolist() for line in panels[0].lines] == [[[2, 2], [3, 3]]]


def test_curves_without_values_are_refused(frame):
    with pytest.raises(ValueError, match="at least one metric"):
        figures.curves(frame[["step", "seed"]])


@pytest.fixture
def board():
    rows = [
        ("classifier", "classifier", True, "linear", 0.97, 0.01),
        ("simclr", "simclr", False, "linear", 0.94, 0.02),
        ("simclr", "simclr", False, "knn", 0.91, np.nan),
        ("random", "random", True, "linear", 0.74, 0.03),
    ]
    return pd.DataFrame(rows, columns=["encoder", "method", "baseline", "probe", "mean", "interval95"])


def test_leaderboard_plot_has_a_dot_at_each_mean_and_baselines_below(board):
    (axes,) = figures.leaderboard_plot(board).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["simclr", "classifier", "random"]
    dots = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert sorted(float(line.get_xdata()[0]) for line in dots) == pytest.approx([74, 91, 94, 97])
    hollow = [line.get_xdata()[0] for line in dots if line.get_markerfacecolor() == "none"]
    assert sorted(hollow) == pytest.approx([74, 97])


def test_leaderboard_plot_draws_an_interval_where_there_is_one(board):
    (axes,) = figures.leaderboard_plot(board).axes
    ends = sorted((bar.get_segments()[0][:, 0] for bar in axes.collections), key=lambda end: end[0])
    np.testing.assert_allclose(ends, [[71, 77], [92, 96], [96, 98]])


def test_figures_leave_the_users_settings_and_do_not_use_them(frame, tmp_path):
    figures.write_png(figures.curves(frame), tmp_path / "a.png")
    plain = figures.svg(figures.curves(frame))
    with matplotlib.rc_context({"font.size": 30, "axes.linewidth": 5, "svg.hashsalt": None}):
        figures.write_png(figures.curves(frame), tmp_path / "b.png")
        assert figures.svg(figures.curves(frame)) == plain
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_same_bytes_in_another_process(frame, images, tmp_path):
    frame.to_csv(tmp_path / "frame.csv", index=False)
    np.save(tmp_path / "images.npy", images)
    draw = """
import sys, pathlib, numpy, pandas
from mlml import figures
source, folder = map(pathlib.Path, sys.argv[1:])
figure = figures.curves(pandas.read_csv(source / "frame.csv"))
figures.write_png(figure, folder / "curves.png")
(folder / "curves.svg").write_bytes(figures.svg(figure))
figures.image_grid(numpy.load(source / "images.npy"), 3, folder / "grid.png")
assert "matplotlib.pyplot" not in sys.modules
"""
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", draw, str(tmp_path), str(tmp_path / name)], check=True)
    for name in ("curves.png", "curves.svg", "grid.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with Image.open(tmp_path / "a" / "curves.png") as image:
        assert "Software" not in image.info
    assert b"<dc:date>" not in (tmp_path / "a" / "curves.svg").read_bytes()


def test_an_animation_has_each_frame_and_rests_at_the_last(tmp_path):
    frames = np.zeros((3, 2, 1, 8, 8), np.float32)
    frames[1], frames[2, 1] = 0.5, 1.0
    figures.animation(frames, 2, tmp_path / "a.gif", milliseconds=100)
    with Image.open(tmp_path / "a.gif") as moving:
        assert moving.n_frames == 3
        assert moving.size == (2 * 56 + 4, 56)
        assert moving.info["loop"] == 0
        for number in range(3):
            moving.seek(number)
            assert moving.info["duration"] == (400 if number == 2 else 100)
            shown = np.asarray(moving.convert("RGB"))
            for column in range(2):
                assert (
                    shown[:, 60 * column : 60 * column + 56] == np.rint(255 * frames[number, column, 0, 0, 0])
                ).all()
            assert (shown[:, 56:60] == 255).all()


def test_an_animation_needs_frames(tmp_path):
    with pytest.raises(ValueError, match=r"frames must have shape \(t, n, c, h, w\), t not 0; got \(0, 1, 1, 8, 8\)"):
        figures.animation(np.zeros((0, 1, 1, 8, 8)), 2, tmp_path / "a.gif")
