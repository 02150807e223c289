import os
import shutil
import sys
from pathlib import Path

import pytest
from blobs import write_prepared

from mlml import model_folder
from mlml.declaration import resolve
from pipelines.cli import main


@pytest.mark.parametrize("before", ["/usr/bin:/bin", f"/usr/bin:{Path(sys.executable).parent}", None])
def test_stages_are_run_by_the_python_of_this_environment(monkeypatch, capsys, before):
    """Also when nobody has activated it: dvc.yaml says `python`."""
    if before is None:
        monkeypatch.delenv("PATH")
    else:
        monkeypatch.setenv("PATH", before)
    main(["catalogue"])
    own = Path(sys.executable).parent
    assert Path(shutil.which("dvc")).parent == own
    assert os.environ["PATH"].split(os.pathsep)[0] == str(own)
    once = os.environ["PATH"]
    main(["catalogue"])
    assert os.environ["PATH"] == once


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Two seeds of an untrained encoder, where a project has its models."""
    data = write_prepared(tmp_path / "blobs")
    entry = {"method": "random", "dataset": "blobs", "encoder": {"network": "mlp", "hidden_widths": [8]}}
    method = model_folder.build("pretext", "random", resolve("pretext", "simclr", entry).config, data.spec)
    for seed in (3, 11):
        model_folder.save(tmp_path / "models" / "simclr" / f"seed_{seed}", "pretext", "random", method)
    monkeypatch.chdir(tmp_path)


def test_an_encoder_is_exported(models, capsys):
    main(["export", "simclr", "--to", "safetensors"])
    assert capsys.readouterr().out.split() == [
        "exports/simclr_safetensors/encoder.json",
        "exports/simclr_safetensors/encoder.safetensors",
    ]
    pytest.importorskip("onnxscript")
    main(["export", "simclr", "--to", "onnx", "--seed", "11", "--out", "there"])
    assert Path("there/encoder.onnx").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simclt", "--to", "onnx"], "mlml export: models/simclt: does not exist; did you mean 'simclr'?"),
        (["simclr", "--to", "onnx", "--seed", "4"], "mlml export: models/simclr: has no seed 4; take one of 3, 11"),
        (["simclr", "--to", "torchvision"], "mlml export: --to torchvision: the encoder must be a resnet; got 'mlp'"),
    ],
)
def test_what_cannot_be_exported_is_told(models, capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        main(["export", *arguments])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(said)
