"""The leaderboard as Markdown: every number is one of the results'."""

import pytest

from mlml.report import Result
from mlml.results_table import Cost, markdown
from mlml.statistics import summarise

SEEDS = (0, 1, 2)
CNN, VIT = {"network": "cnn", "width": 8}, {"network": "vit", "dim": 8}


def encoder(name, family="pretext", method=None, network=CNN):
    config = {"method": method or name, "encoder": network}
    return Result(name, family, method or name, "digits", SEEDS, config, f"{family}@{name}", "", {})


def probe(of, method, values, dataset="digits"):
    name = f"{of}_{method}"
    metrics = {"test/accuracy": summarise(dict(zip(SEEDS, values, strict=False)))}
    config = {"method": method, "encoder": of}
    return Result(name, "probe", method, dataset, SEEDS[: len(values)], config, f"probe@{name}", "", metrics)


RESULTS = [
    encoder("random"),
    encoder("moco"),
    encoder("classifier", "supervised"),
    encoder("mae", network=VIT),
    probe("random", "linear", [0.50, 0.52, 0.51]),
    probe("random", "knn", [0.40, 0.40, 0.40]),
    probe("moco", "linear", [0.60, 0.62, 0.61]),
    probe("moco", "knn", [0.40, 0.45, 0.41]),
    probe("classifier", "linear", [0.90, 0.90, 0.90]),
    probe("mae", "linear", [0.30, 0.30, 0.30]),
]
COSTS = {"moco": {0: Cost(59.0, 300 * 2**20), 1: Cost(62.0, 200 * 2**20)}}


def test_cells_hold_mean_interval_and_gain_with_its_own_interval():
    lines = markdown(RESULTS, COSTS).splitlines()
    assert lines[0] == "| digits | linear | knn | seconds | MiB |"
    cells = {line.split(" | ")[0]: line.strip("| ").split(" | ") for line in lines[2:6]}
    # the seeds' differences are all 0.1: paired, their interval is 0 though the means' are 2.5 points
    assert cells["| `moco`"] == ["`moco`", "61.0 ± 2.5 (+10.0 ± 0.0)", "42.0 ± 6.6 (+2.0 ± 6.6)", "60", "300"]
    assert cells["| `random`"] == ["`random`", "51.0 ± 2.5", "40.0 ± 0.0", "–", "–"]
    assert cells["| `classifier`"][1:3] == ["90.0 ± 0.0 (+39.0 ± 2.5)", "–"]


def test_another_network_is_not_compared_with_the_random_one():
    assert "| `mae` | 30.0 ± 0.0 | – | – | – |" in markdown(RESULTS, COSTS)


def test_baselines_come_last():
    names = [line.split("`")[1] for line in markdown(RESULTS, {}).splitlines()[2:6]]
    assert names == ["moco", "mae", "classifier", "random"]


def test_what_is_not_above_random_is_said():
    assert markdown(RESULTS, COSTS).endswith("Not above it by more than its interval: `moco` (knn).")
    worse = [*RESULTS[:-1], encoder("jigsaw"), probe("jigsaw", "knn", [0.3, 0.3, 0.3])]
    assert markdown(worse, {}).endswith("`moco` (knn), `jigsaw` (knn).")
    assert "30.0 ± 0.0 (−10.0 ± 0.0)" in markdown(worse, {})


def test_a_single_seed_has_no_interval():
    results = [encoder("moco"), encoder("random"), probe("moco", "knn", [0.5]), probe("random", "knn", [0.4])]
    assert "| `moco` | 50.0 (+10.0) |" in markdown(results, {})


def test_each_data_set_has_a_table():
    assert markdown([*RESULTS, probe("moco", "knn", [0.1, 0.2, 0.3], "other")], {}).count("| seconds | MiB |") == 2


def test_without_a_random_encoder_nothing_is_said_of_it():
    assert "random" not in markdown([RESULTS[1], RESULTS[6]], {})


@pytest.mark.parametrize("results", [[RESULTS[6]]])
def test_a_probe_of_nothing_is_refused(results):
    with pytest.raises(ValueError, match="moco"):
        markdown(results, {})


def quality(generator, **values):
    metrics = {f"test/{name}": summarise(dict(zip(SEEDS, each, strict=True))) for name, each in values.items()}
    metrics["test/fid_classifier-1a2b3c_n500"] = metrics["test/fid"]
    floor = {"floor/fid": summarise({0: 0.5, 1: 0.5, 2: 0.5}), "floor/coverage": summarise({0: 0.96, 1: 0.96, 2: 0.96})}
    config = {"generator": generator, "extractor": "classifier"}
    name = f"{generator}_quality"
    stage = f"evaluation@{name}"
    return Result(name, "evaluation", "sample_quality", "digits", SEEDS, config, stage, "", metrics | floor)


EVALUATED = [
    quality("vae", fid=[9.0, 9.0, 12.0], coverage=[0.5, 0.5, 0.5], inception_score=[2.0, 2.0, 2.0]),
    quality("guided", fid=[1.25, 1.25, 1.25], coverage=[0.9, 0.9, 0.9], conditional_accuracy=[1.0, 1.0, 1.0]),
]


def test_generators_stand_beside_the_floor_with_what_they_took():
    costs = {"vae": {0: Cost(59.0, 300 * 2**20), 1: Cost(62.0, 200 * 2**20)}}
    lines = markdown(EVALUATED, costs, {"vae_quality": {0: 3.0, 1: 4.4}}).splitlines()
    assert lines == [
        "| digits | fid ↓ | coverage ↑ | conditional accuracy ↑ | train s | sample s | MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| `vae` | 10 ± 4.3 | 50.0 ± 0.0 | – | 60 | 4 | 300 |",
        "| `guided` | 1.25 ± 0 | 90.0 ± 0.0 | 100.0 ± 0.0 | – | – | – |",
        "| train split | 0.5 | 96.0 | – | – | – | – |",
        "",
        "Sample quality on test by `classifier-1a2b3c`, 500 images of each kind; mean and 95 % interval, seeds: 3; "
        "shares in percent.",
    ]


def test_probes_come_before_evaluations():
    text = markdown([*RESULTS, *EVALUATED], COSTS)
    assert text.index("| `moco` |") < text.index("| `guided` |")


def compared(name, ends, **config):
    metrics = {f"{label}/regret": summarise(dict(enumerate(values))) for label, values in ends.items()}
    searches = {label: {"method": "random" if label == "luck" else "tpe"} for label in ends}
    config = {"searches": searches, "trials": 40, **config}
    return Result(name, "illustration", "search_regret", "", (), config, f"illustration@{name}", "", metrics)


REGRETS = compared(
    "branin",
    {
        "luck": [1.0, 1.4, 1.2],
        "good": [0.10, 0.13, 0.11],
        "better": [0.09, 0.14, 0.10],
        "like": [0.9, 1.6, 1.1],
        "bad": [2.1, 2.5, 2.3],
    },
)


def test_compared_samplers_are_a_table():
    other = compared("one", {"luck": [0.5], "good": [0.02], "new": [0.0]}, trials=7)
    assert markdown([REGRETS, other], {}) == (
        """| search | branin | one |
|---|---:|---:|
| `luck` | 1.2 ± 0.5 | 0.5 |
| `good` | 0.113 ± 0.038 (11) | 0.02 (25) |
| `better` | 0.11 ± 0.066 (11) | – |
| `like` | 1.2 ± 0.9 (1) | – |
| `bad` | 2.3 ± 0.5 (0.52) | – |
| `new` | – | 0 |

Mean regret after the last trial and its 95 % interval; in brackets, how many times lower than random's. """
        "`branin`: 40 trials, 3 seeds; not told from the best, `better`: `good`; not told from `luck`: `like`; "
        "above it: `bad`. `one`: 7 trials, 1 seed."
    )


def test_compared_samplers_stand_beside_probes():
    assert markdown(RESULTS, {}) in markdown([*RESULTS, REGRETS], {})
    assert markdown([REGRETS], {}) in markdown([*RESULTS, REGRETS], {})
