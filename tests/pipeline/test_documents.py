"""What README and docs/ tell a user to type is what runs here or in CI."""

import re
from pathlib import Path

from mlml import catalogue
from mlml.activations import ACTIVATIONS
from mlml.initialisers import INITIALISERS
from mlml.optimizers import OPTIMIZERS
from mlml.schedules import SCHEDULES
from pipelines.cli import main

DOCUMENTS = [Path("README.md"), *sorted(Path("docs").glob("*.md"))]

RUN_BY_TESTS = {
    "make repro": "test_repro.py",
    "make test": ".ci/run",
    "make up": "test_make.py",
    "make down": "test_make.py",
    "make help": "test_make.py",
    "mlml check": "test_repro.py",
    "mlml catalogue": "test_documents.py",
    "mlml export simclr --to onnx": "tests/pipelines/test_cli.py",
    "mlml sample vae --count 64 --seed 0": "tests/test_drawing.py",
    "mlml search worker rate": "test_search.py",
    "mlml sync": "test_repro.py",
    "mlml table": "test_repro.py",
    "mlml table --into docs/results.md": "test_repro.py",
    "mlml plan": "test_repro.py",
    "mlml repro": "test_parallel.py",
    "mlml repro simclr_linear": "test_parallel.py",
    "mlml repro simclr_linear --set pretext.simclr.temperature=0.2,0.5": "test_parallel.py",
    "mlml why reports/leaderboard.csv:simclr.linear": "test_why.py",
    "dvc exp show": "test_parallel.py",
    "dvc metrics diff": "test_repro.py",
    "dvc plots show reports/curves/simclr.csv": "test_repro.py",
}
"""Command -> where it is run."""

RUN_BY_HAND = re.compile(
    r"^(python -m benchmarks|make benchmark|cp experiments/|ln -s |python -m pytest|dvc remote |git |torchrun |"
    r"mlml (worker|repro) --pool )"
)
"""Measurements, which no test repeats; set-up of somebody's machines, which test_workers.py does for its own."""


def commands(text: str) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.S | re.M)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip() and line[0] != "#"]


def test_every_command_is_run():
    for document in DOCUMENTS:
        for command in commands(document.read_text()):
            assert command in RUN_BY_TESTS or RUN_BY_HAND.match(command), f"{document}: {command!r} is run by no test"


def test_the_tests_named_run_them():
    here = Path("tests/pipeline")
    for command, place in RUN_BY_TESTS.items():
        text = (Path(place) if place.startswith((".", "tests/")) else here / place).read_text()
        words = command.split()
        quoted = ", ".join(f'"{word}"' for word in words)
        assert command in text or quoted in text or f'"{words[-1]}"' in text, f"{place} does not run {command!r}"


def test_the_catalogue_is_that_of_the_code(capsys):
    main(["catalogue"])
    fresh = capsys.readouterr().out
    assert Path("docs/catalogue.md").read_text() == fresh, "stale; run 'mlml catalogue > docs/catalogue.md'"


def test_the_catalogue_names_everything_with_its_fields():
    text = Path("docs/catalogue.md").read_text()
    for folder in catalogue.SECTIONS.values():
        for name in catalogue.names(folder):
            assert f"### `{name}`\n" in text
            assert all(f"| `{field}` | " in text for field in catalogue.config_class(folder, name).model_fields)
    for name in (*OPTIMIZERS, *SCHEDULES, *ACTIVATIONS, *INITIALISERS):
        assert re.search(rf"^### .*`{name}`", text, flags=re.M), name
    for title in re.findall(r"\]\(#([a-z-]+)\)", text):
        headings = re.findall(r"^##+ (.*)$", text, flags=re.M)
        assert title in {heading.lower().replace(" ", "-").replace("'", "") for heading in headings}


def test_links_lead_to_files():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document} links to {target}, which does not exist"


def test_every_method_is_listed():
    from mlml import catalogue

    text = Path("docs/methods.md").read_text() + Path("docs/data.md").read_text()
    for folder in (*catalogue.SECTIONS.values(), "models"):
        for name in catalogue.names(folder):
            assert f"`{name}`" in text, f"docs say nothing of {folder}/{name}"
