"""The stage of an evaluation, on models that no training has touched."""

import json
from unittest.mock import MagicMock

import pytest
import torch
from blobs import write_prepared

from mlml import model_folder
from mlml.declaration import resolve
from stages._evaluating import evaluate
from stages._training import MODELS
from stages.prepare import PREPARED

MLP = {"encoder": {"network": "mlp", "hidden_widths": [16]}, "train": {"steps": 1}}
GLIDE = {
    "train": {"steps": 1},
    "denoiser": {"width": 8, "multipliers": [1], "num_blocks": 1, "attention_resolutions": [], "num_groups": 4},
    "text": {"dim": 8, "depth": 1, "num_heads": 2},
    "sampler": {"name": "ddim", "steps": 2},
}


@pytest.mark.parametrize(
    ("method", "extractor", "measured"),
    [
        ("text_agreement", "tagger", {"test/text_agreement", "floor/text_agreement", "test/edit_outside_equal"}),
        ("sample_quality", "classifier", {"test/fid", "floor/fid"}),
    ],
)
def test_an_evaluation_has_the_extractor_that_its_class_asks_for(method, extractor, measured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_prepared(tmp_path / PREPARED / "blobs")
    models = {"glide": ("generative", "glide", GLIDE), "seen": ("supervised", extractor, MLP)}
    for name, (family, kind, numbers) in models.items():
        built = model_folder.build(family, kind, numbers, data.spec)
        model_folder.save(tmp_path / MODELS / name / "seed_0", family, kind, built)
    entry = {"method": method, "generator": "glide", "extractor": "seen", "dataset": "blobs"}
    numbers = {"num_asked": 8} | ({"guidance_scales": [1], "edit_margin": 4} if method == "text_agreement" else {})
    stage, run = MagicMock(), MagicMock(folder=tmp_path / "run")
    stage.name, stage.declaration.threads, stage.nested_run.return_value = "e", torch.get_num_threads(), run
    seen = resolve("supervised", "seen", {"method": extractor, "dataset": "blobs", **MLP})
    stage.declaration.experiments = {"e": resolve("evaluation", "e", entry | numbers), "seen": seen}
    stage.steps.run.side_effect = lambda label, work: work()
    evaluate(stage)
    written = json.loads((tmp_path / "reports/metrics/e.json").read_text())
    assert measured <= set(written)
    assert not any(name.startswith("system/") for name in written)
    assert (tmp_path / "reports/figures/e/seed_0_samples.png").is_file()
