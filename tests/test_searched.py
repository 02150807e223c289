"""Experiments with what a search found: what may be declared of them, and the values that they run with."""

import copy
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mlml import declaration
from mlml.config import DeclarationError
from mlml.searched import found_values, with_found

RATE = "train.optimizer.learning_rate"
ENTRY = {"experiment": "simclr", "from_search": "views", "dataset": "digits", "seeds": [1, 2]}
LATENT = {
    "method": "latent_diffusion",
    "dataset": "digits",
    "base": "vae",
    "train": {"steps": 1},
    "denoiser": {"width": 16, "num_blocks": 1},
}
WIDTH = {"denoiser.width": {"type": "int", "low": 8, "high": 24, "step": 8}}


def search_of(name: str, space: dict, **numbers) -> dict:
    common = {"method": "random", "dataset": "digits", "trials": 2}
    return {**common, "experiment": name, "objective": name, "space": space, **numbers}


@pytest.fixture
def content():
    """The default declaration, with a search of every family that can be searched."""
    content = copy.deepcopy(YAML(typ="safe").load(Path("experiments/quick.yaml")))
    content["composed"] = {"latent": copy.deepcopy(LATENT)}
    for family, name in (("pretext", "simclr"), ("generative", "vae"), ("supervised", "classifier")):
        content[family][name]["seeds"] = [0, 1, 2]
    content["composed"]["latent"]["seeds"] = [0, 1, 2]
    content["search"]["views"] = search_of("simclr", {"temperature": {"type": "float", "low": 0.1, "high": 1.0}})
    content["search"]["latents"] = search_of("vae", {"latent_dim": {"type": "int", "low": 2, "high": 8}})
    content["search"]["noise"] = search_of("latent", WIDTH)
    content["searched"] = {
        "simclr_best": dict(ENTRY),
        "vae_best": {**ENTRY, "experiment": "vae", "from_search": "latents"},
        "latent_best": {**ENTRY, "experiment": "latent", "from_search": "noise"},
        "classifier_best": {**ENTRY, "experiment": "classifier", "from_search": "classifier_rate"},
    }
    return content


def found(content) -> list[str]:
    with pytest.raises(DeclarationError) as caught:
        declaration.check(content)
    return list(caught.value.faults)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"from_search": "view"}, ".from_search: no search 'view' is declared; did you mean 'views'?"),
        ({"from_search": "vae"}, ".from_search: no search 'vae' is declared"),
        ({"from_search": "latents"}, ".from_search: 'latents' varies 'vae', not 'simclr'"),
        (
            {"experiment": "simclar"},
            ".experiment: no experiment 'simclar' is declared in supervised or pretext or generative or composed; did "
            "you mean 'simclr'?",
        ),
        ({"experiment": "simclr_knn"}, ".experiment: no experiment 'simclr_knn' is declared in supervised or pretext"),
        ({"experiment": "vae_best"}, ".experiment: no experiment 'vae_best' is declared in supervised or pretext"),
        ({"experiment": "simclr_best"}, ".experiment: no experiment 'simclr_best' is declared in supervised or"),
        ({"experiment": ["simclr"]}, ".experiment: must be a valid string; got ['simclr']"),
        ({"dataset": "dgits"}, ".dataset: must be 'digits', that of 'simclr'; got 'dgits'"),
        ({"seeds": [0, 1]}, ".seeds: 0 is a seed that 'views' searched with; take others"),
        (
            {"seeds": [1, 3, 4]},
            ".seeds: must be among the experiment's, to be compared with it; 'simclr' has [0, 1, 2], not [3, 4]",
        ),
        ({"seeds": [1, 1]}, ".seeds: must be different from each other; got [1, 1]"),
        ({"seeds": []}, ".seeds: must"),
        ({"method": "simclr"}, ".method: unknown key (known: dataset, experiment, from_search, seeds)"),
    ],
)
def test_faults(content, changed, said):
    content["searched"]["simclr_best"] |= changed
    faults = found(content)
    assert any(fault.startswith(f"searched.simclr_best{said}") for fault in faults), faults


@pytest.mark.parametrize("key", ENTRY)
def test_every_key_is_to_be_given(content, key):
    del content["searched"]["simclr_best"][key]
    assert found(content) == [f"searched.simclr_best.{key}: required, but not given"]


def test_every_fault_is_told_once(content):
    """Of the entry itself, and not once more of what names it, or is named by it."""
    probe = {"method": "knn", "dataset": "digits", "k": 5, "encoder": "simclr_best", "seeds": [1]}
    content["probe"]["best_knn"] = probe
    content["searched"]["simclr_best"]["seeds"] = [0]
    content["probe"]["best_knn"]["seeds"] = [0]
    assert found(content) == ["searched.simclr_best.seeds: 0 is a seed that 'views' searched with; take others"]
    content["searched"]["simclr_best"] |= {"seeds": [1], "experiment": "simclar"}
    [fault, other] = found(content)
    assert fault.startswith("searched.simclr_best.experiment: no experiment 'simclar'")
    assert other == "searched.simclr_best.from_search: 'views' varies 'simclr', not 'simclar'"
    content["searched"]["simclr_best"] |= {"experiment": "simclr", "dataset": "dgits"}
    del content["probe"]["best_knn"]
    assert found(content) == ["searched.simclr_best.dataset: must be 'digits', that of 'simclr'; got 'dgits'"]
    content["searched"]["simclr_best"]["dataset"] = "digits"
    content["pretext"]["simclr"]["temperature"] = 0
    assert found(content) == ["pretext.simclr.temperature: must be greater than 0; got 0"]


def test_a_name_is_another_s_or_a_searched_one_s(content):
    content["searched"]["simclr"] = content["searched"].pop("simclr_best")
    assert "searched.simclr: the name is taken by pretext.simclr; names are unique" in found(content)


def test_the_section_is_a_mapping_that_may_be_left_out(content):
    del content["searched"]
    assert not any(experiment.searched for experiment in declaration.check(content).experiments.values())
    content["searched"] = [1]
    assert found(content) == ["searched: must be a mapping of names to entries; got [1]"]
    content["searched"] = {"simclr_best": 3}
    assert found(content) == ["searched.simclr_best: must be a mapping; got 3"]


def test_it_is_one_of_its_family_as_any_other(content):
    probe = {"method": "knn", "dataset": "digits", "k": 5, "encoder": "simclr_best", "seeds": [1, 2]}
    content["probe"]["best_knn"] = probe
    quality = {"method": "sample_quality", "generator": "vae_best", "extractor": "classifier_best", "seeds": [1]}
    content["evaluation"] = {"quality": {**quality, "dataset": "digits"}}
    studied = {"method": "loss_landscape", "experiment": "latent_best", "dataset": "digits", "seeds": [2]}
    content["study"] = {"around": studied}
    content["composed"]["on_best"] = {**LATENT, "base": "vae_best", "seeds": [1]}
    compared = {"title": "t", "metric": "test/accuracy", "of": ["classifier_best", "classifier"]}
    content["report"] = {"comparisons": [compared]}
    content["schedules"] = {"nightly": {"cron": "0 3 * * *", "targets": ["searched", "simclr_best"]}}
    declared = declaration.check(content)
    assert {"searched", "simclr_best", "searched@simclr_best"} <= set(declared.targets())
    assert "pretext@simclr_best" not in declared.targets()
    best, plain = declared.experiments["simclr_best"], declared.experiments["simclr"]
    assert (best.family, best.section, best.method, best.seeds) == ("pretext", "searched", "simclr", (1, 2))
    assert best.config == plain.config
    assert best in declared.family("pretext")
    again = declaration.resolve(best.family, best.name, best.resolved())
    assert (again.config, again.seeds) == (best.config, best.seeds)


@pytest.mark.parametrize(
    ("section", "entry", "said"),
    [
        (
            "probe",
            {"method": "knn", "k": 5, "encoder": "simclr_best", "seeds": [0, 1]},
            "probe.x.encoder: 'simclr_best' has seeds [1, 2], which lack some of [0, 1]",
        ),
        (
            "probe",
            {"method": "knn", "k": 5, "encoder": "vae_best", "seeds": [1]},
            "probe.x.encoder: no experiment 'vae_",
        ),
        (
            "evaluation",
            {"method": "sample_quality", "generator": "simclr_best", "extractor": "classifier", "seeds": [1]},
            "evaluation.x.generator: 'simclr_best' is of 'simclr', which has no 'sample'",
        ),
        (
            "evaluation",
            {"method": "sample_quality", "generator": "vae_best", "extractor": "simclr_best", "seeds": [1]},
            "evaluation.x.extractor: no experiment 'simclr_best' is declared in supervised",
        ),
        ("study", {"method": "likelihood", "experiment": "simclr_best", "seeds": [1]}, "study.x.experiment: 'simclr_b"),
        (
            "search",
            search_of("simclr_best", {"temperature": {"type": "float", "low": 0.1, "high": 1.0}}),
            "search.x.experiment: 'simclr_best' has what 'views' found; search 'simclr' itself",
        ),
    ],
)
def test_what_names_it_keeps_to_what_its_family_asks(content, section, entry, said):
    content.setdefault(section, {})["x"] = {"dataset": "digits", **entry}
    faults = found(content)
    assert len(faults) == 1
    assert faults[0].startswith(said), faults


def test_a_base_is_not_what_was_found_for_what_stands_on_it(content):
    """The searched one waits for the experiment, so this would be a circle."""
    content["composed"]["latent"]["base"] = "latent_best"
    content["composed"]["latent"]["seeds"] = content["searched"]["latent_best"]["seeds"]
    assert "composed.latent.base: 'latent_best' stands on 'latent' itself; name one that does not" in found(content)


def write_best(folder, search, text):
    (folder / search).mkdir(parents=True)
    (folder / search / "best.yaml").write_text(f"experiment: x\nvalue: 0.5\noverrides:\n{text}")


BEST = "  train:\n    optimizer:\n      learning_rate: 1.25e-05\n      name: sgd\n  temperature: 0.75\n"


def test_values_are_by_dotted_path(tmp_path):
    write_best(tmp_path, "views", BEST)
    values = found_values(tmp_path / "views/best.yaml")
    assert values == {RATE: 1.25e-05, "train.optimizer.name": "sgd", "temperature": 0.75}


def test_what_was_found_lies_over_the_entry(content, tmp_path):
    """As if the entry were declared with these values by hand, with the seeds of its own."""
    write_best(tmp_path, "views", BEST)
    declared = declaration.check(content).experiments
    best = with_found(declared["simclr_best"], tmp_path)
    by_hand = copy.deepcopy(content["pretext"]["simclr"])
    by_hand |= {"temperature": 0.75, "seeds": [1, 2]}
    by_hand["train"]["optimizer"] = {"name": "sgd", "learning_rate": 1.25e-05}
    expected = declaration.resolve("pretext", "simclr_best", by_hand)
    assert best.resolved() == expected.resolved()
    assert best.resolved() != declared["simclr_best"].resolved()
    assert best.section == "searched"
    assert with_found(declared["simclr"], tmp_path) is declared["simclr"]


def test_what_does_not_fit_is_refused(content, tmp_path):
    write_best(tmp_path, "views", "  temperature: -1\n")
    best = declaration.check(content).experiments["simclr_best"]
    with pytest.raises(DeclarationError) as caught:
        with_found(best, tmp_path)
    said = "what 'views' found does not fit: pretext.simclr_best.temperature: must be greater than 0; got -1"
    assert caught.value.faults == (f"searched.simclr_best: {said}",)
