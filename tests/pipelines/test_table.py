"""`mlml table`: what trainings took, and where the table goes."""

import json

import pytest

from mlml.results_table import Cost
from pipelines.commands.table import replaced
from pipelines.costs import costs, read, sampling
from stages._lineage import Lineage, run_folder

LINEAGE = Lineage("pretext@moco", "python -m stages pretext moco", {}, {}, ())


def points_of(folder, seed, **values):
    folder = folder / f"seed_{seed}"
    folder.mkdir(parents=True)
    lines = [{"name": f"system/{name}", "step": 5, "value": value, "time": 0} for name, value in values.items()]
    (folder / "points.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_costs_are_those_of_the_run_of_this_key(tmp_path):
    folder = run_folder(tmp_path, LINEAGE)
    points_of(folder, 0, train_seconds=2.5, peak_memory_bytes=100, images_per_second=7)
    points_of(folder, 10, train_seconds=3.5, peak_memory_bytes=200)
    points_of(folder, 2, train_seconds=9.0)  # killed before its end
    points_of(folder.with_name("0123456789abcdef"), 0, train_seconds=99.0, peak_memory_bytes=99)
    recorded = read(tmp_path, [LINEAGE])
    assert costs(recorded) == {"pretext@moco": {0: Cost(2.5, 100), 10: Cost(3.5, 200)}}
    assert sampling(recorded) == {"pretext@moco": {}}


def test_samples_take_their_own_time(tmp_path):
    lineage = Lineage("evaluation@vae_quality", "python -m stages evaluation vae_quality", {}, {}, ())
    points_of(run_folder(tmp_path, lineage), 3, sample_seconds=1.5)
    recorded = read(tmp_path, [lineage])
    assert sampling(recorded) == {"evaluation@vae_quality": {3: 1.5}}
    assert costs(recorded) == {"evaluation@vae_quality": {}}


def test_without_a_record_and_a_store_there_is_no_cost(tmp_path):
    assert costs(read(tmp_path, [LINEAGE])) == {"pretext@moco": {}}


PAGE = """# A

<!-- mlml table: Digits -->
old
<!-- end of table -->

<!-- mlml table: B -->
b
<!-- end of table -->
"""


def test_a_table_takes_its_own_place_only():
    page = replaced(PAGE, "Digits", "| new |")
    assert page == PAGE.replace("old", "| new |")
    assert replaced(page, "B", "| c |") == page.replace("\nb\n", "\n| c |\n")


@pytest.mark.parametrize("page", ["", PAGE.replace("Digits", "Digit"), "<!-- mlml table: Digits -->\nx\n"])
def test_a_page_without_a_place_is_refused(page):
    with pytest.raises(ValueError, match="mlml table: Digits"):
        replaced(page, "Digits", "x")
