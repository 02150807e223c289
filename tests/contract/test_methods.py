"""What every method of every family promises to the loop. A new file in a family is picked up by itself."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
from blobs import CAPTIONS, write_prepared
from pydantic import TypeAdapter, ValidationError

from mlml import catalogue, model_folder, points
from mlml.config import DeclarationError
from mlml.data.batches import Batches
from mlml.data.dataset import SPLITS, PreparedData
from mlml.declaration import resolve
from mlml.method import Edits, Encodes, Samples, SamplesClasses, SamplesTexts, Scores, Sheets
from mlml.seeds import derive, seed_everything
from mlml.train import evaluate, fit

CPU = torch.device("cpu")
FAMILIES = ("supervised", "pretext", "generative", "composed")
METHODS = [(family, name) for family in FAMILIES for name in catalogue.names(family)]
TRAINED = [(family, name) for family, name in METHODS if catalogue.class_constant(family, name, "phases", None) != ()]
TRAIN = {
    "steps": 12,
    "batch_size": 16,
    "log_every": 2,
    "evaluate_every": 4,
    "checkpoint_every": 3,
    "optimizer": {"name": "adamw", "learning_rate": 0.01},
    "ema_decay": 0.9,
    "clip_norm": 10.0,
    "accumulate": 2,
}

COLOUR = [name for family, name in METHODS if catalogue.class_constant(family, name, "channels", None) == 3]

PLAYED = {"gan", "conditional_gan", "wgan_gp"}
"""Players that measure each other: what a rounding does to the loss of one, the other answers."""

PERCEPTRON = {"network": "mlp", "hidden_widths": [16, 16]}
VIT = {"network": "vit", "patch_size": 4, "dim": 16, "depth": 2, "num_heads": 2}
CNN = {"network": "cnn", "width": 4, "num_stages": 2, "activation": "gelu"}
BASES = {"generative": ("vae", PERCEPTRON), "supervised": ("classifier", CNN)}
"""What a composed method stands on, by the first family that it takes."""

DENOISER = {
    "width": 8,
    "multipliers": [1, 2],
    "num_blocks": 1,
    "attention_resolutions": [4],
    "num_groups": 4,
    "dropout_prob": 0.0,  # drawn anew on each rank
}


def smallest_encoder(field):
    """A perceptron, or a transformer for a method whose field takes no other."""
    try:
        TypeAdapter(Annotated[field.annotation, *field.metadata]).validate_python(PERCEPTRON)
    except ValidationError:
        return VIT
    return PERCEPTRON


def entry(family: str, name: str, **train) -> dict:
    """The smallest entry of a method: what it requires, and nothing else."""
    fields = catalogue.config_class(family, name).model_fields
    masked = catalogue.class_constant(family, name, "targets", "labels") == "masks"
    unet = {"network": "unet", "width": 4, "num_stages": 2}
    encoder = unet if masked else smallest_encoder(fields["encoder"]) if "encoder" in fields else None
    if name in (*COLOUR, "conditional_vae"):  # a rounding, as of two ranks, can flip a ReLU: the blobs have few greys
        encoder = {**encoder, "activation": "gelu"}
    given = {"encoder": encoder, "train": {**TRAIN, **train}}
    if "denoiser" in fields:  # the default is for larger images, and draws by a thousand evaluations
        given |= {"denoiser": DENOISER, "text": {"dim": 8, "depth": 1, "num_heads": 2}}
        given["sampler"] = {"name": "ddim", "steps": 5}
    if family == "composed":
        given["base"] = "below"
        given["encoder"] = {**PERCEPTRON, "activation": "gelu"}
        given["denoiser"] = {"width": 16, "num_blocks": 2}
    # the papers' networks of players are for larger images
    given |= dict.fromkeys(("generator_width", "discriminator_width", "critic_width"), 4)
    given["critic_steps"] = 2
    given["norm_groups"] = (
        2  # of a batch of 16: the norm of two values tells but their order, which a rounding can turn
    )
    return {"method": name, "dataset": "blobs", **{key: value for key, value in given.items() if key in fields}}


def channels(name):
    """Of the images that the method is trained on."""
    return 3 if name in COLOUR else 1


@pytest.fixture
def blob_data(tmp_path, request):
    """A labelled data set of four easy classes, 8x8, grey where the method can learn from that."""
    return write_prepared(tmp_path / "blobs", channels(request.node.callspec.params["name"]))


def base_of(family, name, data):
    """What the method stands on, untrained; of a method of another family, nothing."""
    if family != "composed":
        return None
    below = catalogue.class_constant(family, name, "base_families", ())[0]
    kind, encoder = BASES[below]
    numbers = {"latent_dim": 4} if below == "generative" else {}
    seed_everything(0, "base")
    return model_folder.build(below, kind, {"encoder": encoder, "train": TRAIN, **numbers}, data.spec)


def build(family, name, data, seed=0, **train):
    experiment = resolve(family, name, entry(family, name, **train))
    base = base_of(family, name, data)
    seed_everything(seed, "init")
    return model_folder.build(family, name, experiment.config, data.spec, base)


def batches(data, split, seed=0, rank=0, world_size=1, targets="labels"):
    arrays = data.split(split)
    return Batches(arrays.images, arrays.targets(targets), TRAIN["batch_size"], seed, CPU, rank, world_size)


def train(family, name, data, folder, seed=0, **numbers):
    method = build(family, name, data, seed, **numbers)
    splits = [batches(data, split, seed, targets=method.targets) for split in ("train", "validation")]
    fitted = fit(method, *splits, method.config.train, seed, folder)
    return method, fitted


def watch_teachers(kind, monkeypatch):
    """Names of the parameters of no phase that `after_step` moves; it is an error if anything else moves one."""
    taught, held, after_step = set(), {}, kind.after_step

    def free(method):
        owned = {id(parameter) for phase in method.phases for parameter in method.phase_parameters(phase)}
        return {key: value.clone() for key, value in method.named_parameters() if id(value) not in owned}

    def watched(method, progress):
        before = free(method)
        assert not held or all(torch.equal(value, held[key]) for key, value in before.items())
        after_step(method, progress)
        held.update(free(method))
        taught.update(key for key, value in before.items() if not torch.equal(value, held[key]))

    monkeypatch.setattr(kind, "after_step", watched)
    return taught


def read_points(folder):
    """Every point of a run but those of the machine's speed."""
    return [point for point in points.read(folder / "points.jsonl") if not point[0].startswith("system/")]


@pytest.mark.parametrize(("family", "name"), TRAINED)
class TestTrainedMethod:
    def test_one_loop_trains_it(self, family, name, blob_data, tmp_path, monkeypatch):
        before = {key: value.clone() for key, value in build(family, name, blob_data).state_dict().items()}
        taught = watch_teachers(catalogue.method_class(family, name), monkeypatch)
        method, fitted = train(family, name, blob_data, tmp_path)
        assert fitted.steps == 12
        assert math.isfinite(fitted.metrics["validation/loss"])
        changed = {key for key, value in method.state_dict().items() if not torch.equal(value, before[key])}
        owned = {id(p) for phase in method.phases for p in method.phase_parameters(phase)}
        for key, parameter in method.named_parameters():
            assert (key in changed) == (id(parameter) in owned or key in taught), key
        assert not any(key.startswith("base.") for key in changed)
        assert not any(module.training for key, module in method.named_modules() if key.startswith("base"))

    def test_every_owned_parameter_gets_a_finite_gradient(self, family, name, blob_data):
        method = build(family, name, blob_data)
        for phase in dict.fromkeys(method.phases):
            method.zero_grad()
            batch = method.augment(
                batches(blob_data, "train", targets=method.targets)(0), torch.Generator().manual_seed(0)
            )
            method(batch, phase).loss.backward()
            for parameter in method.phase_parameters(phase):
                assert parameter.grad is not None
                assert parameter.grad.isfinite().all()

    @pytest.mark.parametrize("precision", ["float32", "float16"])
    def test_a_run_that_stopped_ends_as_if_it_had_not(self, family, name, precision, blob_data, tmp_path):
        whole, fitted = train(family, name, blob_data, tmp_path / "whole", precision=precision)

        class Stopped(BaseException):
            pass

        def stop(step, metrics):
            if step == 8:
                raise Stopped

        method = build(family, name, blob_data, precision=precision)
        splits = [batches(blob_data, split, targets=method.targets) for split in ("train", "validation")]
        with pytest.raises(Stopped):
            fit(method, *splits, method.config.train, 0, tmp_path / "parts", stop)
        assert sorted(path.stem for path in (tmp_path / "parts").glob("*.ckpt"))[-1] == "step_000000006"
        resumed, again = train(family, name, blob_data, tmp_path / "parts", precision=precision)
        for key, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key]), key
        assert fitted.metrics == again.metrics
        assert read_points(tmp_path / "whole") == read_points(tmp_path / "parts")

    def test_the_seed_matters(self, family, name, blob_data, tmp_path):
        losses = {train(family, name, blob_data, tmp_path / str(s), s)[1].metrics["validation/loss"] for s in (0, 1)}
        assert len(losses) == 2

    def test_evaluation_repeats(self, family, name, blob_data):
        method = build(family, name, blob_data)
        splits = [batches(blob_data, "validation", targets=method.targets) for _ in range(2)]
        first, second = (evaluate(method, split, 0) for split in splits)
        assert first == second

    def test_it_measures_what_its_class_says(self, family, name, blob_data):
        told = catalogue.class_constant(family, name, "measures", None)
        method = build(family, name, blob_data)
        measured = evaluate(method, batches(blob_data, "validation", targets=method.targets), 0)
        assert told is None or set(measured) == {"loss", *told}

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_half_the_digits_stay_near_float32(self, family, name, precision, blob_data, tmp_path):
        # at a learning rate at which a rounding does not grow step by step into another solution
        numbers = {"optimizer": {"name": "adamw", "learning_rate": 0.001}}
        losses = [
            train(family, name, blob_data, tmp_path / kind, precision=kind, **numbers)[1].metrics["validation/loss"]
            for kind in ("float32", precision)
        ]
        assert losses[0] != losses[1]
        if name not in PLAYED:
            assert losses[1] == pytest.approx(losses[0], rel=0.25, abs=0.1)  # a mean cosine may be near 0


@pytest.mark.parametrize(("family", "name"), METHODS)
class TestMethod:
    def test_saved_and_loaded_it_is_the_same(self, family, name, blob_data, tmp_path):
        method = build(family, name, blob_data).eval()
        model_folder.save(tmp_path / "model", family, name, method)
        loaded = model_folder.load(tmp_path / "model")
        assert type(loaded) is type(method)
        assert not loaded.training
        for key, value in method.state_dict().items():
            assert torch.equal(value, loaded.state_dict()[key]), key
        images = batches(blob_data, "test")(0).images
        if isinstance(method, Encodes):
            assert torch.equal(loaded.encode(images), method.encode(images))
            assert loaded.encode(images).shape == (16, method.feature_dim)
        if isinstance(method, Scores):
            assert torch.equal(loaded.scores(images), method.scores(images))
            classes = 5 if method.targets == "masks" else 4
            assert method.scores(images).shape == (16, classes, *([8, 8] if method.targets == "masks" else []))
        if isinstance(method, Sheets):
            rows = [m.illustrate(images, torch.Generator().manual_seed(1)) for m in (method, loaded)]
            assert list(rows[0]) == list(rows[1])
            for row, again in zip(*(each.values() for each in rows), strict=True):
                assert torch.equal(row, again)
                assert row.shape == images.shape
                assert row.min() >= 0
                assert row.max() <= 1
        if isinstance(method, Samples):
            drawn = [m.sample(5, torch.Generator().manual_seed(1)) for m in (method, loaded)]
            assert drawn[0].shape == (5, channels(name), 8, 8)
            assert torch.equal(*drawn)
            assert drawn[0].min() >= 0
            assert drawn[0].max() <= 1

        if isinstance(method, SamplesClasses):
            labels = torch.arange(4)
            drawn = [m.sample_classes(labels, torch.Generator().manual_seed(1)) for m in (method, loaded)]
            assert drawn[0].shape == (4, channels(name), 8, 8)
            assert torch.equal(*drawn)
        if isinstance(method, SamplesTexts):
            drawn = [m.sample_texts(CAPTIONS, torch.Generator().manual_seed(1), 2.0) for m in (method, loaded)]
            assert drawn[0].shape == (4, channels(name), 8, 8)
            assert torch.equal(*drawn)
        if isinstance(method, Edits):
            masks = torch.zeros(4, 8, 8, dtype=torch.bool)
            masks[:, 2:5, 3:] = True
            edited = method.edit(images[:4], masks, CAPTIONS, torch.Generator().manual_seed(1))
            kept = ~masks[:, None].expand_as(edited)
            assert torch.equal(edited[kept], images[:4][kept])

    def test_an_unknown_key_is_refused(self, family, name):
        with pytest.raises(DeclarationError, match=rf"^{family}\.{name}\.nope: unknown key"):
            resolve(family, name, {**entry(family, name), "nope": 1})

    def test_the_config_read_without_torch_is_the_real_one(self, family, name):
        read, real = catalogue.config_class(family, name), catalogue.method_class(family, name).Config
        assert read.model_json_schema() == real.model_json_schema()

    def test_each_field_refuses_a_wrong_value(self, family, name):
        for field in catalogue.config_class(family, name).model_fields:
            wrong = {**entry(family, name), field: {"no such": "thing"}}
            with pytest.raises(DeclarationError, match=rf"^{family}\.{name}\.{field}"):
                resolve(family, name, wrong)


def shuffled(folder, channels):
    """The blobs with labels that say nothing of the images, in every split."""
    data = write_prepared(folder / "blobs", channels)
    for split in SPLITS:
        path = data.folder / split / "labels.npy"
        np.save(path, np.random.default_rng(0).permutation(np.load(path)))
    return data


READS_LABELS = {
    name: catalogue.class_constant("pretext", name, "reads_labels", False) for name in catalogue.names("pretext")
}


@pytest.mark.parametrize(("family", "name"), [case for case in TRAINED if case[0] == "pretext"])
def test_a_pretext_reads_labels_if_its_class_says_so_and_only_then(family, name, tmp_path):
    weights = [
        train(family, name, data, tmp_path / f"run_{number}")[0].state_dict()
        for number, data in enumerate(
            (write_prepared(tmp_path / "a" / "blobs", channels(name)), shuffled(tmp_path / "b", channels(name)))
        )
    ]
    equal = all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert equal == (not READS_LABELS[name])


@pytest.mark.parametrize("name", [name for family, name in TRAINED if family == "pretext" and not READS_LABELS[name]])
def test_pretexts_do_not_need_labels(name, tmp_path):
    labelled, unlabelled = (
        write_prepared(tmp_path / "a" / "blobs", channels(name)),
        write_prepared(tmp_path / "b" / "blobs", channels(name), labelled=False),
    )
    with_labels, _ = train("pretext", name, labelled, tmp_path / "with")
    without, _ = train("pretext", name, unlabelled, tmp_path / "without")
    for key, value in with_labels.state_dict().items():
        assert torch.equal(value, without.state_dict()[key]), key


RANK_PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1].split(":")
import torch
torch.set_num_threads(1)
from test_methods import *
from mlml import distributed
from mlml.data.dataset import PreparedData
distributed.start()
rank, world = distributed.rank(), distributed.world_size()
out = Path(sys.argv[2])
class Stopped(BaseException):
    pass
def stop(step, metrics):
    if step == 8:
        raise Stopped
for family, name in TRAINED:
    data = PreparedData(out / f"blobs_{channels(name)}")
    def run(folder, watch=None):
        method = build(family, name, data, **RANKED)
        splits = (batches(data, "train", 0, rank, world, method.targets),
                  batches(data, "validation", targets=method.targets))
        return method, fit(method, *splits, method.config.train, 0, folder, watch), splits[0](0).images
    method, fitted, seen = run(out / name / "whole")
    try:
        run(out / name / "parts", stop)
    except Stopped:
        pass
    resumed, again, _ = run(out / name / "parts")
    torch.save({"weights": method.state_dict(), "resumed": resumed.state_dict(), "metrics": fitted.metrics,
                "again": again.metrics, "seen": seen}, out / name / f"rank_{rank}.pt")
distributed.stop()
"""
RANKED = {"optimizer": {"name": "sgd", "learning_rate": 0.05}}


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    """Folder in which two ranks have trained each method, once in one go and once stopped and resumed."""
    folder = tmp_path_factory.mktemp("ranks")
    for number in (1, 3):
        write_prepared(folder / f"blobs_{number}", number)
    program = folder / "program.py"
    program.write_text(RANK_PROGRAM)
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(program), f"{here}:{here.parent}:{Path.cwd()}", str(folder)],
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize(("family", "name"), TRAINED)
class TestRanks:
    def test_two_ranks_come_to_the_result_of_one_process(self, family, name, ranked, tmp_path):
        ranks = [torch.load(ranked / name / f"rank_{rank}.pt") for rank in range(2)]
        assert not torch.equal(ranks[0]["seen"], ranks[1]["seen"])
        method, fitted = train(family, name, PreparedData(ranked / f"blobs_{channels(name)}"), tmp_path, **RANKED)
        untrained = build(family, name, PreparedData(ranked / f"blobs_{channels(name)}")).state_dict()
        for key, value in method.state_dict().items():
            assert torch.equal(ranks[0]["weights"][key], ranks[1]["weights"][key]), key
            moved = (value - untrained[key]).double().norm()
            # the floor is for rounding, where a norm takes away all that a bias before it could add
            assert (value - ranks[0]["weights"][key]).double().norm() <= max(1e-3 * moved, 1e-6), key
        allowed, allowed_of_batch = (1e-3, 1e-2) if name in PLAYED else (1e-4, 1e-3)
        assert ranks[0]["metrics"] == ranks[1]["metrics"] == pytest.approx(fitted.metrics, rel=allowed)
        logged = [read_points(file) for file in (tmp_path, ranked / name / "whole")]
        assert [point[:2] for point in logged[0]] == [point[:2] for point in logged[1]]
        for one, two in zip(*logged, strict=True):
            if not one[0].endswith(("/activation_norm", "/dead", "/saturated")):  # of each rank's part of the batch
                assert one[2] == pytest.approx(two[2], rel=allowed_of_batch, abs=1e-6), one

    def test_two_ranks_that_stopped_end_as_if_they_had_not(self, family, name, ranked):
        for rank in range(2):
            result = torch.load(ranked / name / f"rank_{rank}.pt")
            assert read_points(ranked / name / "whole") == read_points(ranked / name / "parts")
            assert result["metrics"] == result["again"]
            for key, value in result["weights"].items():
                assert torch.equal(value, result["resumed"][key]), key


def test_networks_configs_read_without_torch_are_the_real_ones():
    for name in catalogue.names("models"):
        read, real = catalogue.config_class("models", name), catalogue.method_class("models", name).Config
        assert read.model_json_schema() == real.model_json_schema()


def test_seeds_are_the_same_in_every_process():
    program = "from mlml.seeds import derive; print(derive(3, 'step', 7))"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(printed) == derive(3, "step", 7) != derive(37, "step")
    assert 0 <= derive(3, "step", 7) < 2**63
