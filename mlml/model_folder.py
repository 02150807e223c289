"""A trained method on disk: weights as safetensors, and everything needed to build it again.

<folder>/model.safetensors    every parameter and buffer
<folder>/model.json           family, method, resolved config, data spec, sha256 of the weights
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mlml import catalogue
from mlml.config import Declared
from mlml.data.dataset import DataSpec
from mlml.method import Method


class ModelError(ValueError):
    """A model folder that cannot be used; the message names the file and what is wrong with it."""


def build(family: str, method: str, config: Declared | dict[str, Any], spec: DataSpec) -> Method:
    """Build an untrained method. The caller seeds torch: the weights are drawn here.

    Args:
        family: section of params.yaml, such as "pretext".
        method: name of a file of that family.
        config: the method's own config, or its values.
        spec: of the data set that the method is for.
    """
    cls = catalogue.method_class(catalogue.SECTIONS[family], method)
    values = config.model_dump() if isinstance(config, Declared) else config
    built: Method = cls(cls.Config.model_validate(values), spec)
    return built


def save(folder: Path, family: str, name: str, method: Method) -> None:
    """Write a trained method. The bytes are a function of the weights and the config alone."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({key: value.detach().cpu().contiguous() for key, value in method.state_dict().items()})
    (folder / "model.safetensors").write_bytes(weights)
    description = {
        "family": family,
        "method": name,
        "config": method.config.model_dump(mode="json"),
        "spec": method.spec.model_dump(mode="json"),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    (folder / "model.json").write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")


def load(folder: str | Path, device: torch.device | str = "cpu") -> Method:
    """Read a trained method back, in eval mode.

    Args:
        folder: such as models/simclr/seed_0.
        device: where the weights go.

    Raises:
        ModelError: a file is missing, or the weights are not those that were saved.
    """
    folder = Path(folder)
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder / name}: does not exist; give the folder of one seed, such as models/simclr/seed_0"
            )
    description = json.loads((folder / "model.json").read_text())
    weights = (folder / "model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    if digest != description["weights_sha256"]:
        raise ModelError(
            f"{folder / 'model.safetensors'}: sha256 is {digest}, but model.json says {description['weights_sha256']}; "
            "run 'dvc checkout' or train it again"
        )
    spec = DataSpec.model_validate(description["spec"])
    method = build(description["family"], description["method"], description["config"], spec)
    method.load_state_dict(load_tensors(weights))
    return method.to(device).eval()


def weights_digest(folder: Path) -> str:
    """Return the sha256 of the weights in a folder that `load` reads, which checks it."""
    return str(json.loads((folder / "model.json").read_text())["weights_sha256"])
