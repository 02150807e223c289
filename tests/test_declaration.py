import copy
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mlml import catalogue, declaration, declaration_faults
from mlml.config import DeclarationError, overridden

DECLARATIONS = sorted(Path("experiments").glob("*.yaml"))


@pytest.fixture
def content():
    return copy.deepcopy(YAML(typ="safe").load(Path("experiments/quick.yaml")))


def found(content) -> list[str]:
    with pytest.raises(DeclarationError) as caught:
        declaration.check(content)
    return list(caught.value.faults)


@pytest.mark.parametrize("path", DECLARATIONS, ids=lambda path: path.stem)
def test_ready_made_declarations_are_valid(path):
    declared = declaration.read(path)
    assert declared.experiments
    for experiment in declared.experiments.values():
        again = declaration.resolve(experiment.family, experiment.name, experiment.resolved())
        assert again.config == experiment.config


def test_the_default_is_quick():
    assert Path("params.yaml").read_text() == Path("experiments/quick.yaml").read_text()


def change(path: str, value):
    def apply(content):
        *parents, last = path.split(".")
        node = content
        for parent in parents:
            node[parent] = dict(node[parent])
            node = node[parent]
        if value is KeyError:
            del node[last]
        else:
            node[last] = value

    return apply


CHOICE = {"type": "categorical", "choices": ["a", "b"]}

FAULTS = [
    ("threads", KeyError, "threads: must be a whole number from 1, the threads with which a stage computes; not given"),
    ("threads", 0, "threads: must be a whole number from 1, the threads with which a stage computes; got 0"),
    ("threads", True, "threads: must be a whole number from 1, the threads with which a stage computes; got True"),
    ("pretext.simclr.temperatur", 1, "pretext.simclr.temperatur: unknown key; did you mean 'temperature'?"),
    ("pretext.simclr.temperature", 0, "pretext.simclr.temperature: must be greater than 0; got 0"),
    ("pretext.simclr.temperature", "hot", "pretext.simclr.temperature: must be a valid number"),
    ("pretext.simclr.method", "simlcr", "pretext.simclr.method: unknown name 'simlcr'; did you mean 'simclr'?"),
    ("pretext.simclr.method", KeyError, "pretext.simclr.method: required, but not given"),
    (
        "pretext.simclr.dataset",
        "digts",
        "pretext.simclr.dataset: no data set 'digts' is declared; did you mean 'digits'?",
    ),
    ("pretext.simclr.dataset", KeyError, "pretext.simclr.dataset: required, but not given"),
    ("pretext.simclr.seeds", [], "pretext.simclr.seeds: must"),
    ("pretext.simclr.seeds", [0, -1], "pretext.simclr.seeds.1: must"),
    ("pretext.simclr.seeds", [0, 0], "pretext.simclr.seeds: must be different from each other; got [0, 0]"),
    ("pretext.simclr.augment", {"crop_scale": [1]}, "pretext.simclr.augment.crop_scale"),
    (
        "pretext.simclr.train.schedule",
        {"warmup_steps": 300},
        "pretext.simclr.train: schedule.warmup_steps must be less",
    ),
    (
        "data.digits.validation_fraction",
        0.6,
        "data.digits: validation_fraction and test_fraction must sum to less than",
    ),
    ("search.classifier_rate.experiment", "random", "search.classifier_rate.experiment: 'random' trains nothing"),
    ("pretext.simclr.encoder.network", "cn", "pretext.simclr.encoder: unknown network 'cn'; did you mean 'cnn'?"),
    ("pretext.simclr.encoder.wdth", 3, "pretext.simclr.encoder.wdth: unknown key; did you mean 'width'?"),
    ("pretext.simclr.encoder.width", -3, "pretext.simclr.encoder.width: must be greater than 0; got -3"),
    ("pretext.simclr.encoder", 3, "pretext.simclr.encoder: must be a mapping with the key 'network'"),
    ("pretext.simclr.train.steps", KeyError, "pretext.simclr.train: give one of 'epochs' and 'steps'"),
    (
        "pretext.simclr.train.optimizer.name",
        "adamW",
        "pretext.simclr.train.optimizer.name: unknown value 'adamW'; did you",
    ),
    ("pretext.simclr.train.optimizer.lr", 1, "pretext.simclr.train.optimizer.lr: unknown key"),
    (
        "pretext.simclr.train.optimizer.learning_rate",
        -1,
        "pretext.simclr.train.optimizer.learning_rate: must be greater",
    ),
    (
        "probe.simclr_knn.encoder",
        "simclar",
        "probe.simclr_knn.encoder: no experiment 'simclar' is declared in supervised or",
    ),
    ("probe.simclr_knn.encoder", "vae", "probe.simclr_knn.encoder: no experiment 'vae' is declared in"),
    ("probe.simclr_knn.seeds", [0, 1], "probe.simclr_knn.encoder: 'simclr' has seeds [0], which lack some of [0, 1]"),
    ("data.digits.source", "digit", "data.digits.source: unknown name 'digit'; did you mean 'digits'?"),
    ("data.digits.siz", 3, "data.digits.siz: unknown key; did you mean 'size'?"),
    ("data.digits.validation_fraction", 1.5, "data.digits.validation_fraction: must be less than"),
    ("search.classifier_rate.experiment", "clasifier", "search.classifier_rate.experiment: no experiment 'clasifier'"),
    (
        "search.classifier_rate.dataset",
        "shapes",
        "search.classifier_rate.dataset: must be 'digits', that of 'classifier'",
    ),
    ("search.classifier_rate.trials", 0, "search.classifier_rate.trials: must be greater than 0; got 0"),
    ("search.classifier_rate.objective", KeyError, "search.classifier_rate.objective: required, but not given"),
    (
        "search.classifier_rate.objective",
        "simclr_linear",
        "search.classifier_rate.objective: 'simclr_linear' does not measure what a trial of 'classifier' trains",
    ),
    (
        "search.classifier_rate.metric",
        "validation/acuracy",
        "search.classifier_rate.metric: 'classifier' will not have 'validation/acuracy'; did you mean",
    ),
    (
        "search.classifier_rate.further_objectives",
        {"validation/acuracy": "maximize"},
        "search.classifier_rate: a trial that is ahead in one of several objectives is not to be pruned; set pruner to",
    ),
    ("search.classifier_rate.workers", 0, "search.classifier_rate.workers: must be greater than 0; got 0"),
    ("search.classifier_rate.seconds", -1, "search.classifier_rate.seconds: must be greater than 0; got -1"),
    ("supervised.simclr", {"method": "classifier"}, "supervised.simclr.dataset: required, but not given"),
    ("supervised", 3, "supervised: must be a mapping of names to entries; got 3"),
    ("supervised", KeyError, "supervised: required, but not given"),
    ("pretxt", {}, "pretxt: unknown section; did you mean 'pretext'?"),
    ("report.titel", "x", "report.titel: unknown key; did you mean 'title'?"),
    *(
        ("schedules", {"nightly": entry}, f"schedules.nightly{sentence}")
        for entry, sentence in (
            ({}, ": give one of 'cron' and 'interval_seconds'"),
            ({"cron": "0 3 * * *", "interval_seconds": 60}, ": give one of 'cron' and 'interval_seconds'"),
            ({"cron": "0 3 * *"}, ".cron: must be five fields as in '0 3 * * 1-5'; got '0 3 * *' (it has 4 fields)"),
            ({"cron": "61 * * * *"}, ".cron: must be five fields as in '0 3 * * 1-5'; got '61 * * * *' (Bad minute)"),
            ({"crn": "0 3 * * *"}, ".crn: unknown key; did you mean 'cron'?"),
            ({"interval_seconds": 0}, ".interval_seconds: must be greater than 0; got 0"),
            ({"cron": "0 3 * * *", "timezone": "Mars/North"}, ".timezone: must be the name of a time zone"),
            ({"cron": "0 3 * * *", "timezone": "../etc"}, ".timezone: must be the name of a time zone"),
            (3, ": must be a mapping; got 3"),
            (
                {"cron": "0 3 * * *", "targets": ["simclar"]},
                ".targets: 'simclar' is no stage, group of stages or experiment; did you mean 'simclr'?",
            ),
        )
    ),
    ("schedules", [], "schedules: must be a mapping of names to entries; got []"),
    (
        "pretext.simclr.encoder.activation",
        "rleu",
        "pretext.simclr.encoder.activation: unknown value 'rleu'; did you mean",
    ),
    (
        "pretext.simclr.encoder.activation",
        {"name": "elu", "alhpa": 1},
        "pretext.simclr.encoder.activation.alhpa: unknown key; did you mean 'alpha'? (known: alpha, name)",
    ),
    (
        "pretext.simclr.encoder.activation",
        {"name": "tanh", "alpha": 1},
        "pretext.simclr.encoder.activation.alpha: unknown key (known: name)",
    ),
    (
        "pretext.simclr.encoder.initialiser",
        {"name": "he"},
        "pretext.simclr.encoder.initialiser.name: unknown value 'he'",
    ),
    (
        "pretext.simclr.train.schedule",
        {"name": "step", "gama": 1},
        "pretext.simclr.train.schedule.gama: unknown key; did you mean 'gamma'? (known: gamma, milest",
    ),
    (
        "pretext.simclr.encoder",
        {"network": "convnet", "layers": [{"layer": "convolution", "chanels": 3}]},
        "pretext.simclr.encoder.layers.0.chanels: unknown key; did you mean 'channels'? (known: activation, channels",
    ),
    (
        "pretext.simclr.encoder",
        {"network": "convnet", "layers": [{"layer": "unpooling"}]},
        "pretext.simclr.encoder.layers: layer 1 (unpooling): no max_pooling before it is left to be undone; add one",
    ),
    *(
        ("report.comparisons", [{"title": "t", "of": ["simclr", "rotation"], "metric": "validation/loss", **entry}], s)
        for entry, s in (
            ({"of": ["simclr"]}, "report.comparisons.0.of: must name two or more different experiments"),
            ({"of": ["simclr", "simclr"]}, "report.comparisons.0.of: must name two or more different exp"),
            (
                {"of": ["simclr", "rotatoin"]},
                "report.comparisons.0.of: no experiment 'rotatoin' is declared in supervised, pretext, generative, "
                "composed, probe or evaluation; did you mean 'rotation'?",
            ),
            ({"metric": "loss"}, "report.comparisons.0.metric: must be a metric of a split, 'test/...' or"),
            ({"metric": "test/loss"}, "report.comparisons.0.metric: 'simclr' will not have 'test/loss' (known: val"),
            (
                {"of": ["random", "classifier"]},
                "report.comparisons.0.metric: 'random' will not have 'validation/loss' (known: none)",
            ),
            (
                {"of": ["classifier", "vae"], "metric": "test/acuracy", "direction": "maximize"},
                "report.comparisons.0.metric: 'classifier' will not have 'test/acuracy'; did you mean 'test/accuracy'?",
            ),
            ({"metric": "test/kl"}, "report.comparisons.0: give 'direction', maximize or minimize: 'test/kl' does not"),
            ({"question": 3}, "report.comparisons.0.question: must be a valid string; got 3"),
            ({"titel": "t"}, "report.comparisons.0.titel: unknown key; did you mean 'title'?"),
        )
    ),
    *(
        ("study", {"s": {"method": "learning_curve", "experiment": "classifier", "dataset": "digits", **entry}}, said)
        for entry, said in (
            ({"method": "learning"}, "study.s.method: unknown name 'learning'; did you mean 'learning_curve'?"),
            (
                {"experiment": "clasifier"},
                "study.s.experiment: no experiment 'clasifier' is declared in supervised or pretext or gen",
            ),
            ({"dataset": "dgits"}, "study.s.dataset: no data set 'dgits' is declared; did you mean 'digits'?"),
            ({"dataset": "dgits"}, "study.s.dataset: must be 'digits', that of 'classifier'; got 'dgits'"),
            ({"experiment": "random"}, "study.s.experiment: 'random' trains nothing, so there is nothing to study"),
            ({"seeds": [3]}, "study.s.experiment: 'classifier' has seeds [0], which lack some of [3]"),
            ({"experiment": "vae"}, "study.s.metric: 'vae' will not have 'validation/accuracy'; did you mean"),
            ({"fractions": [0.5, 0.1]}, "study.s.fractions: must increase; got [0.5, 0.1]"),
            ({"fractions": [0.5, 2]}, "study.s.fractions.1: must be less than or equal to 1; got 2"),
            ({"fractons": 1}, "study.s.fractons: unknown key; did you mean 'fractions'?"),
        )
    ),
    *(
        (
            "evaluation",
            {
                "q": {"method": "sample_quality", "generator": "vae", "extractor": "classifier", "dataset": "digits"}
                | entry
            },
            said,
        )
        for entry, said in (
            ({"method": "sample_qualty"}, "evaluation.q.method: unknown name 'sample_qualty'; did you mean 'sample_q"),
            (
                {"generator": "vea"},
                "evaluation.q.generator: no experiment 'vea' is declared in generative or composed or ",
            ),
            (
                {"generator": "classifier"},
                "evaluation.q.generator: no experiment 'classifier' is declared in generative",
            ),
            (
                {"generator": "simclr"},
                "evaluation.q.generator: 'simclr' is of 'simclr', which has no 'sample' (known: vae)",
            ),
            (
                {"generator": "rotation", "method": "reconstruction_quality"},
                "evaluation.q.generator: 'rotation' is of 'rotation', which has no 'reconstruct' (known: vae)",
            ),
            ({"seeds": [0, 1]}, "evaluation.q.generator: 'vae' has seeds [0], which lack some of [0, 1]"),
            ({"extractor": "simclr"}, "evaluation.q.extractor: no experiment 'simclr' is declared in supervised"),
            ({"dataset": "dgits"}, "evaluation.q.dataset: no data set 'dgits' is declared; did you mean 'digits'?"),
            ({"dataset": "dgits"}, "evaluation.q.dataset: must be 'digits', that of 'vae'; got 'dgits'"),
            ({"dataset": "dgits"}, "evaluation.q.extractor: 'classifier' is trained on 'digits', not on 'dgits'"),
            ({"num_samples": 9}, "evaluation.q.num_samples: must be greater than or equal to 10; got 9"),
            ({"method": "reconstruction_quality", "window": 8}, "evaluation.q.window: must be odd; got 8"),
            ({"num_sample": 90}, "evaluation.q.num_sample: unknown key; did you mean 'num_samples'?"),
        )
    ),
    *(
        ("composed", {"c": {"method": method, "dataset": "digits", "train": {"steps": 1}, **entry}}, said)
        for method, entry, said in (
            ("latent_diffusion", {}, "composed.c.base: required, but not given"),
            ("latent_diffusion", {"base": 3}, "composed.c.base: must be a valid string; got 3"),
            (
                "latent_diffusion",
                {"base": "vea"},
                "composed.c.base: no experiment 'vea' is declared in generative or composed; did you mean 'vae'?",
            ),
            (
                "latent_diffusion",
                {"base": "classifier"},
                "composed.c.base: no experiment 'classifier' is declared in generative or composed (known: ",
            ),
            (
                "latent_diffusion",
                {"base": "vae", "seeds": [0, 1]},
                "composed.c.base: 'vae' has seeds [0], which lack some of [0, 1]",
            ),
            (
                "latent_diffusion",
                {"base": "vae", "dataset": "dgits"},
                "composed.c.base: 'vae' is trained on 'digits', not on 'dgits'; the two must have one data set",
            ),
            ("latent_diffusion", {"base": "c"}, "composed.c.base: 'c' stands on 'c' itself; name one that does not"),
            (
                "perceptual_vae",
                {"base": "simclr", "encoder": {"network": "mlp"}},
                "composed.c.base: no experiment 'simclr' is declared in supervised (known: classifier)",
            ),
            (
                "perceptual_vae",
                {"base": "classifier", "encoder": {"network": "mlp"}, "layers": [1, 5]},
                "composed.c.layers: the base's encoder, of 'cnn', has the stages 1 to 4; got 5",
            ),
            (
                "perceptual_vae",
                {"base": "classifier", "encoder": {"network": "mlp"}, "layers": [1, 1]},
                "composed.c.layers: must be different from each other; got [1, 1]",
            ),
        )
    ),
    *(
        ("illustration", {"i": {"method": "optimizer_paths", "surface": "saddle", "start": [1, 0], **entry}}, said)
        for entry, said in (
            ({}, "illustration.i.optimizers: required, but not given"),
            ({"optimizers": {}}, "illustration.i.optimizers: must "),
            (
                {"optimizers": {"a": {"name": "adm"}}},
                "illustration.i.optimizers.a.name: unknown value 'adm'; did you mean 'adam'?",
            ),
            ({"surface": "sadle"}, "illustration.i.surface: unknown value 'sadle'; did you mean 'saddle'?"),
            ({"dataset": "digits", "optimizers": {"a": {}}}, "illustration.i.dataset: unknown key"),
            ({"start": [1]}, "illustration.i.start"),
        )
    ),
    *(
        ("illustration", {"i": {"method": "search_regret", "function": "branin", **entry}}, said)
        for entry, said in (
            ({}, "illustration.i.searches: required, but not given"),
            (
                {"function": "brain", "searches": {}},
                "illustration.i.function: unknown value 'brain'; did you mean 'branin'",
            ),
            (
                {"searches": {"a": {"method": "grd"}}},
                "illustration.i.searches.a.method: unknown name 'grd'; did you mean",
            ),
            (
                {"searches": {"a": {"method": "random"}, "b": {"method": "gp", "space": {}}}},
                "illustration.i.searches.b.space: is no number of 'gp' alone (known: acquisition, beta, ",
            ),
            (
                {"searches": {"a": {"method": "grid", "points": {"x": 4, "z": 4}}}, "trials": 16},
                "illustration.i.searches.a.points: 'z' is no float or int dimension of the space (known: x, y)",
            ),
        )
    ),
    *(
        (
            "study",
            {
                "s": {
                    "method": "search_regret",
                    "experiment": "classifier",
                    "dataset": "digits",
                    "searches": {"a": {"method": "random"}},
                    "space": {path: dimension},
                }
            },
            said,
        )
        for path, dimension, said in (
            ("encoder.network", CHOICE, "study.s.space.encoder.network: cannot be searched"),
            (
                "train.rate",
                CHOICE,
                "study.s.space.train.rate: 'a' does not fit: supervised.classifier.train.rate: unknown key",
            ),
            (
                "mixup_alpha",
                {"type": "float", "low": -1.0, "high": 1.0},
                "study.s.space.mixup_alpha: -1.0 does not fit: supervised.classifier.mixup_alpha: must be greater than",
            ),
        )
    ),
]


@pytest.mark.parametrize(("path", "value", "sentence"), FAULTS)
def test_each_fault_is_one_sentence_with_its_path(content, path, value, sentence):
    change(path, value)(content)
    faults = found(content)
    assert any(fault.startswith(sentence) for fault in faults), faults
    assert all("\n" not in fault for fault in faults)


def test_all_faults_come_at_once(content):
    chosen = [FAULTS[0], FAULTS[10], FAULTS[17], FAULTS[21], FAULTS[25]]
    for path, value, _ in chosen:
        change(path, value)(content)
    faults = found(content)
    for _, _, sentence in chosen:
        assert any(fault.startswith(sentence) for fault in faults), (sentence, faults)


def test_schedules_may_name_whatever_a_run_may(content):
    targets = ["check", "prepare", "prepare@digits", "pretext", "pretext@simclr", "simclr", "classifier_rate", "report"]
    content["schedules"] = {"nightly": {"cron": "0 3 * * 1-5", "timezone": "Europe/Berlin", "targets": targets}}
    declared = declaration.check(content)
    assert declared.schedules["nightly"].targets == tuple(targets)
    assert set(targets) <= set(declared.targets())
    # an experiment that has a data set's name is known by its stage's full name only, as `dvc repro` would not know it
    content["pretext"]["digits"] = content["pretext"]["simclr"]
    assert "digits" not in declaration.check(content).targets()


def test_evaluations_may_be_compared(content):
    """By what they will measure, which hangs on the method of the generator; their extractor's seeds do not matter."""
    named = {"method": "sample_quality", "generator": "vae", "extractor": "classifier", "dataset": "digits"}
    content["generative"]["vae"]["seeds"] = [0, 1]
    content["evaluation"] = {"one": {**named, "seeds": [0, 1]}, "other": {**named, "num_samples": 100}}
    comparison = {"title": "t", "metric": "test/coverage", "of": ["one", "other"]}
    content["report"] = {"comparisons": [comparison]}
    assert len(declaration.check(content).family("evaluation")) == 2
    comparison["metric"] = "test/fid"
    assert any(
        fault.startswith("report.comparisons.0: give 'direction', maximize or minimize: 'test/fid' does not tell")
        for fault in found(content)
    )
    comparison["direction"] = "minimize"
    declaration.check(content)
    comparison["metric"] = "test/conditional_accuracy"
    assert any("'one' will not have 'test/conditional_accuracy'" in fault for fault in found(content))


@pytest.mark.parametrize(
    ("method", "offered"), [("autoencoder", True), ("denoising", True), ("mae", False), ("simclr", False)]
)
def test_what_a_method_offers_is_known_without_importing_it(method, offered):
    """Also what its class has from one of another file."""
    assert catalogue.offers("pretext", method, "reconstruct") == offered
    assert hasattr(catalogue.method_class("pretext", method), "reconstruct") == offered
    assert catalogue.offers("pretext", method, "encode")


LATENT = {"method": "latent_diffusion", "dataset": "digits", "base": "vae", "train": {"steps": 1}}
PERCEPTUAL = {
    "method": "perceptual_vae",
    "dataset": "digits",
    "base": "classifier",
    "encoder": {"network": "mlp"},
    "train": {"steps": 1},
}


def test_a_base_has_what_the_method_calls(content):
    content["generative"]["gan"] = {"method": "gan", "dataset": "digits", "train": {"steps": 1}}
    content["composed"] = {"c": {**LATENT, "base": "gan"}}
    assert found(content) == ["composed.c.base: 'gan' is of 'gan', which has no 'infer' (known: vae)"]


def test_a_base_may_be_composed_but_not_of_what_stands_on_it(content):
    content["composed"] = {"features": {**PERCEPTUAL, "seeds": [0, 1]}, "c": {**LATENT, "base": "features"}}
    assert list(declaration.check(content).experiments)[-3:] == ["features", "c", "classifier_rate"]
    content["composed"] = {"d": {**LATENT, "base": "e"}, "e": {**LATENT, "base": "d"}}
    assert found(content) == [
        "composed.d.base: 'e' stands on 'd' itself; name one that does not",
        "composed.e.base: 'd' stands on 'e' itself; name one that does not",
    ]


def test_a_base_without_stages_of_convolutions_is_no_base_of_features(content):
    content["supervised"]["classifier"]["encoder"] = {"network": "mlp"}
    content["search"] = {}
    content["composed"] = {"c": PERCEPTUAL}
    assert found(content) == [
        "composed.c.base: its encoder is of 'mlp', which has no stages of convolutions to compare; take one of 'cnn', "
        "'convnet' and 'resnet'"
    ]


def test_a_composed_experiment_is_one_as_any_other(content):
    """It may be evaluated, studied, searched and compared; its base may not be searched."""
    content["composed"] = {"c": LATENT}
    content["evaluation"] = {
        "q": {"method": "sample_quality", "generator": "c", "extractor": "classifier", "dataset": "digits"}
    }
    content["study"] = {"s": {"method": "loss_landscape", "experiment": "c", "dataset": "digits"}}
    search = content["search"]["classifier_rate"]
    search |= {
        "experiment": "c",
        "objective": "c",
        "space": {"denoiser.width": {"type": "int", "low": 8, "high": 24, "step": 8}},
    }
    comparison = {"title": "t", "metric": "test/loss", "of": ["c", "vae"]}
    content["report"] = {"comparisons": [comparison]}
    assert {"c", "composed", "composed@c"} <= set(declaration.check(content).targets())
    search["space"] = {"base": {"type": "categorical", "choices": ["vae", "c"]}}
    assert any(fault.startswith("search.classifier_rate.space.base: cannot be searched") for fault in found(content))


def test_an_extractor_tells_classes_of_images(content):
    masks = {"method": "segmenter", "dataset": "drawn", "encoder": {"network": "unet"}, "train": {"steps": 1}}
    content["data"]["drawn"] = {"source": "shapes"}
    content["supervised"]["masks"] = masks
    content["generative"]["vae"]["dataset"] = "drawn"
    entry = {"method": "sample_quality", "generator": "vae", "extractor": "masks", "dataset": "drawn"}
    content["evaluation"] = {"q": entry}
    assert found(content) == [
        "evaluation.q.extractor: 'masks' tells of pixels; take one that tells of classes of images"
    ]


@pytest.fixture
def texts(content):
    """An evaluation of texts, and what it needs."""
    small = {"encoder": {"network": "mlp"}, "train": {"steps": 1}, "dataset": "drawn"}
    content["data"]["drawn"] = {"source": "shapes"}
    content["supervised"]["tagger"] = {"method": "tagger", **small}
    content["supervised"]["kinds"] = {"method": "classifier", **small}
    content["generative"]["glide"] = {"method": "glide", "dataset": "drawn", "train": {"steps": 1}}
    entry = {"method": "text_agreement", "generator": "glide", "extractor": "tagger", "dataset": "drawn"}
    content["evaluation"] = {"t": entry}
    return entry


def test_texts_are_judged_by_a_tagger(content, texts):
    declaration.check(content)
    texts["extractor"] = "kinds"
    assert found(content) == [
        "evaluation.t.extractor: 'kinds' tells of classes of images; take one that tells of words of captions"
    ]
    texts |= {"extractor": "tagger", "method": "sample_quality"}
    assert found(content) == [
        "evaluation.t.extractor: 'tagger' tells of words of captions; take one that tells of classes of images"
    ]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"guidance_scales": [1, 4, 2]}, "evaluation.t.guidance_scales: must increase; got [1.0, 4.0, 2.0]"),
        ({"guidance_scales": [2, 2]}, "evaluation.t.guidance_scales: must increase; got [2.0, 2.0]"),
        ({"guidance_scales": []}, "evaluation.t.guidance_scales: must "),
        ({"guidance_scales": [-1]}, "evaluation.t.guidance_scales.0: must be greater than or equal to 0; got -1"),
        ({"num_asked": 0}, "evaluation.t.num_asked: must be greater than 0; got 0"),
        ({"num_samples": 100}, "evaluation.t.num_samples: unknown key"),
        ({"edit_margin": -1}, "evaluation.t.edit_margin: must be greater than or equal to 0; got -1"),
    ],
)
def test_numbers_of_texts_are_checked(content, texts, numbers, said):
    texts |= numbers
    assert [fault for fault in found(content) if fault.startswith(said)], found(content)


def test_texts_need_a_generator_that_reads_them(content, texts):
    content["generative"]["vae"]["dataset"] = "drawn"
    texts["generator"] = "vae"
    said = "evaluation.t.generator: 'vae' is of 'vae', which has no 'sample_texts' (known: glide)"
    assert any(fault.startswith(said) for fault in found(content)), found(content)


def test_edits_are_measured_where_the_generator_edits(content, texts):
    experiments = declaration.check(content).experiments
    measured = declaration_faults.measured(experiments["t"], experiments)
    assert set(measured) >= {"test/text_agreement", "test/guidance_scale", "test/edit_agreement"}


def test_a_tagger_needs_captions(content):
    content["supervised"]["classifier"]["method"] = "tagger"
    assert any(
        fault.startswith("supervised.classifier.dataset: needs captions, but 'digits' has none")
        for fault in found(content)
    ), found(content)


def test_a_study_of_likelihood_needs_one(content):
    content["study"] = {"likely": {"method": "likelihood", "experiment": "simclr", "dataset": "digits"}}
    assert any(
        fault.startswith("study.likely.experiment: 'simclr' is of 'simclr', which has no 'log_likelihood'")
        for fault in found(content)
    )


def test_studies_and_illustrations_may_be_left_out(content):
    assert not {"study", "illustration", "evaluation", "composed"} & set(content)
    declared = declaration.check(content)
    assert declared.family("study") == declared.family("illustration") == declared.family("evaluation") == []
    content["illustration"] = {"wave": {"method": "schedule_curves", "schedules": {"cosine": {"name": "cosine"}}}}
    wave = declaration.check(content).experiments["wave"]
    assert (wave.dataset, wave.seeds) == ("", ())
    assert "wave" in declaration.check(content).targets()


def test_names_are_unique_over_families(content):
    content["generative"]["simclr"] = content["generative"]["vae"]
    assert "generative.simclr: the name is taken by pretext.simclr; names are unique" in found(content)


def test_names_are_plain(content):
    content["pretext"]["a.b"] = content["pretext"]["simclr"]
    assert any("a name is made of letters" in fault for fault in found(content))


def test_unlabelled_data_is_refused_where_labels_are_needed(content):
    content["data"]["photos"] = {"source": "photos"}
    content["supervised"]["classifier"]["dataset"] = "photos"
    content["pretext"]["simclr"]["dataset"] = "photos"
    study = {"experiment": "simclr", "dataset": "photos"}
    content["study"] = {"found": {"method": "anomaly", **study}, "around": {"method": "loss_landscape", **study}}
    assert "supervised.classifier.dataset: needs labels, but 'photos' has none" in found(content)
    assert "study.found.dataset: needs labels, but 'photos' has none" in found(content)
    assert not any(fault.startswith(("pretext.", "study.around.dataset")) for fault in found(content))


@pytest.mark.parametrize(
    "source", [{"source": "digits"}, {"source": "folder", "path": "data/raw/x", "channels": 1, "size": 8}]
)
def test_grey_data_is_refused_where_colour_is_needed(content, source):
    content["data"]["grey"] = source
    content["data"]["drawn"] = {"source": "shapes"}
    content["pretext"]["colour"] = {**content["pretext"]["simclr"], "method": "colorization", "dataset": "grey"}
    content["pretext"]["colour"] = {
        key: value
        for key, value in content["pretext"]["colour"].items()
        if key in ("method", "dataset", "encoder", "train")
    }
    assert found(content) == ["pretext.colour.dataset: needs 3 channels, but images of 'grey' have 1"]
    content["pretext"]["colour"]["dataset"] = "drawn"
    declaration.check(content)


def test_data_without_captions_or_labels_is_refused_where_a_generative_method_reads_them(content):
    content["data"] |= {"drawn": {"source": "shapes"}, "views": {"source": "photos"}}
    for name, method in (("glide", "glide"), ("guided", "guided_diffusion"), ("ddpm", "ddpm")):
        content["generative"][name] = {"method": method, "dataset": "views", "train": {"steps": 1}}
    assert found(content) == [
        "generative.glide.dataset: needs captions, but 'views' has none",
        "generative.guided.dataset: needs labels, but 'views' has none",
    ]
    content["generative"]["glide"]["dataset"] = content["generative"]["guided"]["dataset"] = "drawn"
    assert declaration.check(content).data["drawn"].targets() == ["labels", "masks", "captions"]


def test_data_without_masks_is_refused_where_masks_are_needed(content):
    train = {"steps": 1}
    content["supervised"]["masks"] = {
        "method": "segmenter",
        "dataset": "digits",
        "encoder": {"network": "unet"},
        "train": train,
    }
    assert "supervised.masks.dataset: needs masks, but 'digits' has none" in found(content)
    content["data"]["drawn"] = {"source": "shapes"}
    content["supervised"]["masks"]["dataset"] = "drawn"
    declaration.check(content)
    content["supervised"]["masks"]["encoder"] = {"network": "cnn"}
    assert found(content) == [
        "supervised.masks.encoder: must be a network that tells of every pixel (convnet, unet); got 'cnn'"
    ]


def test_a_search_over_a_path_that_does_not_exist_is_refused(content):
    space = content["search"]["classifier_rate"]["space"]
    space["train.optimizer.learning_rat"] = space["train.optimizer.learning_rate"]
    assert any(
        fault.startswith("search.classifier_rate.space.train.optimizer.learning_rat: ") and "unknown key" in fault
        for fault in found(content)
    )


def test_a_conditional_dimension_is_checked_where_it_applies(content):
    space = content["search"]["classifier_rate"]["space"]
    space["train.optimizer.name"] = {"type": "categorical", "choices": ["adamw", "sgd"]}
    momentum = {"type": "float", "low": 0.5, "high": 0.99}
    space["train.optimizer.momentum"] = momentum | {"when": {"train.optimizer.name": "sgd"}}
    declaration.check(content)
    space["train.optimizer.momentum"] = momentum | {"when": {"train.optimizer.name": "adamw"}}
    [fault] = found(content)
    assert fault.startswith("search.classifier_rate.space.train.optimizer.momentum: 0.5 does not fit: ")
    assert "unknown key" in fault


def test_a_search_may_be_judged_by_a_probe(content):
    search = content["search"]["classifier_rate"]
    search |= {"experiment": "simclr", "objective": "simclr_knn", "metric": "validation/accuracy"}
    search["space"] = {"temperature": {"type": "float", "low": 0.05, "high": 1.0, "log": True}}
    declaration.check(content)
    search["pruner"] = "median"
    assert found(content) == [
        "search.classifier_rate.pruner: must be 'none', for 'simclr_knn' measures a trial at its end alone; "
        "got 'median'"
    ]
    search |= {"pruner": "none", "metric": "validation/loss"}
    [fault] = found(content)
    assert fault.startswith("search.classifier_rate.metric: 'simclr_knn' will not have 'validation/loss'")
    search |= {"metric": "validation/accuracy", "further_objectives": {"cost/parameters": "minimize"}}
    declaration.check(content)
    search["further_objectives"] = {"validation/acuracy": "maximize"}
    [fault] = found(content)
    assert fault.startswith(
        "search.classifier_rate.further_objectives: 'simclr_knn' will not have 'validation/acuracy'; did"
    )


def test_a_search_may_be_judged_by_an_evaluation(content):
    """On the validation split, by what it measures of this generator: the stage of the same looks at test alone."""
    quality = {"method": "sample_quality", "generator": "vae", "extractor": "classifier", "dataset": "digits"}
    content["evaluation"] = {"quality": quality, "again": {**quality, "method": "reconstruction_quality"}}
    search = content["search"]["classifier_rate"]
    search |= {"experiment": "vae", "objective": "quality", "metric": "validation/fid"}
    search["space"] = {"latent_dim": {"type": "int", "low": 2, "high": 8}}
    declaration.check(content)
    where = "search.classifier_rate"
    for values, said in [
        ({"metric": "test/fid"}, ".metric: must be a metric of the validation split, 'validation/...'; got 'test/fid'"),
        ({"metric": "validation/fed"}, ".metric: 'quality' will not have 'validation/fed'; did you mean 'validation/f"),
        ({"metric": "validation/loss"}, ".metric: 'quality' will not have 'validation/loss'"),
        ({"objective": "again", "metric": "validation/kid"}, ".metric: 'again' will not have 'validation/kid'"),
        (
            {"pruner": "median"},
            ".pruner: must be 'none', for 'quality' measures a trial at its end alone; got 'median'",
        ),
        (
            {"metric": "validation/conditional_accuracy"},
            ".metric: 'quality' will not have 'validation/conditional_accuracy'",
        ),
        (
            {"pruner": "none", "further_objectives": {"validation/mse": "minimize"}},
            ".further_objectives: 'quality' will not have 'validation/mse'; did you mean",
        ),
    ]:
        content["search"]["classifier_rate"] = search | values
        assert [fault[: len(where + said)] for fault in found(content)] == [where + said]
    content["search"]["classifier_rate"] = search
    comparison = {"title": "t", "metric": "validation/fid", "direction": "minimize", "of": ["quality", "again"]}
    content["report"] = {"comparisons": [comparison]}
    assert any("'quality' will not have 'validation/fid'" in fault for fault in found(content))
    content["report"] = {}
    content["generative"]["other"] = content["generative"]["vae"]
    quality["generator"] = "other"
    said = f"{where}.objective: 'quality' does not measure what a trial of 'vae' trains"
    assert [fault[: len(said)] for fault in found(content)] == [said]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"method": "cmaes", "pruner": "none", "further_objectives": {"cost/parameters": "minimize"}},
            "search.classifier_rate: cmaes takes a single objective; use random, quasi_random, tpe or gp with 'log_ei'",
        ),
        (
            {
                "method": "gp",
                "acquisition": "ei",
                "pruner": "none",
                "further_objectives": {"cost/parameters": "minimize"},
            },
            "search.classifier_rate: acquisition 'ei' takes a single objective; use random, quasi_random, tpe or gp",
        ),
        (
            {"method": "grid", "points": {"train.optimizer.learning_rate": 3}, "pruner": "asha", "pruner_min_steps": 5},
            "search.classifier_rate: pruner: 'asha' begins as many trials as it sees fit, grid each once; take another",
        ),
        ({"pruner": "asha"}, "search.classifier_rate: the pruner 'asha' needs pruner_min_steps"),
        (
            {"pruner": "none", "further_objectives": {"validation/loss": "minimize"}},
            "search.classifier_rate: further_objectives: 'validation/loss' is the metric itself",
        ),
    ],
)
def test_a_search_that_its_sampler_cannot_do_is_refused(content, values, sentence):
    search = content["search"]["classifier_rate"]
    for key in ("trials", "startup_trials") if values.get("method") in ("grid", "cmaes") else ():
        search.pop(key, None)
    search |= values
    assert [fault[: len(sentence)] for fault in found(content)] == [sentence]


def test_a_search_outside_of_the_field_s_bounds_is_refused(content):
    content["search"]["classifier_rate"]["space"]["encoder.width"]["low"] = -8
    assert any(fault.startswith("search.classifier_rate.space.encoder.width: -8") for fault in found(content))


def test_a_search_over_what_its_stage_does_not_depend_on_is_refused(content):
    space = content["search"]["classifier_rate"]["space"]
    for path in ("dataset", "encoder.network"):
        space[path] = {"type": "categorical", "choices": ["mlp", "cnn"]}
    faults = found(content)
    for path in ("dataset", "encoder.network"):
        assert any(fault.startswith(f"search.classifier_rate.space.{path}: cannot be searched") for fault in faults)


def test_names_that_are_numbers_are_faults_too(content):
    content["data"][2024] = {"source": "digits"}
    content["pretext"]["simclr"]["dataset"] = "digts"
    assert any(fault.startswith("data.2024: a name is made of letters") for fault in found(content))


def test_overrides_are_set_in_a_copy():
    entry = {"method": "simclr", "encoder": {"network": "cnn", "width": 8}, "train": {"optimizer": {"name": "sgd"}}}
    result = overridden(entry, {"encoder.width": 16, "train.optimizer.learning_rate": 0.1, "augment.flip_prob": 0.5})
    assert result == {
        "method": "simclr",
        "encoder": {"network": "cnn", "width": 16},
        "train": {"optimizer": {"name": "sgd", "learning_rate": 0.1}},
        "augment": {"flip_prob": 0.5},
    }
    assert entry["encoder"] == {"network": "cnn", "width": 8}
    assert entry["train"] == {"optimizer": {"name": "sgd"}}


def test_overrides_refuse_a_path_through_a_number():
    with pytest.raises(DeclarationError, match=r"^train\.steps\.more: 'train\.steps' must be a mapping.*got 10$"):
        overridden({"train": {"steps": 10}}, {"train.steps.more": 1})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "is not valid YAML"),
        ("data: {}\ndata: {}\n", "found duplicate key"),
        ("3", "must be a mapping of sections"),
    ],
)
def test_broken_files(tmp_path, text, sentence):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(DeclarationError, match=sentence):
        declaration.read(path)


def test_a_missing_file():
    with pytest.raises(DeclarationError, match=r"none.yaml: does not exist; copy one of experiments"):
        declaration.read(Path("none.yaml"))


def test_checking_imports_neither_torch_nor_the_orchestrators():
    program = """
import sys
from mlml import catalogue, declaration
declaration.read()
heavy = {"torch", "torchvision", "mlflow", "prefect", "optuna", "dvc", "sklearn", "scipy", "pandas", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_values_never_change(content):
    experiment = declaration.check(content).experiments["simclr"]
    with pytest.raises(ValueError, match="frozen"):
        experiment.config.temperature = 3
    with pytest.raises(AttributeError):
        experiment.name = "other"
