"""A trained method on disk: weights as safetensors, and everything needed to build it again.

<folder>/model.safetensors    every parameter and buffer
<folder>/model.json           family, method, resolved config, data spec, sha256 of the weights

Of a composed method both hold its base as well, so that its folder can be read without the base's.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from mlml import catalogue
from mlml.config import Declared
from mlml.data.dataset import DataSpec
from mlml.method import Composed, Method


class ModelError(ValueError):
    """A model folder that cannot be used; the message names the file and what is wrong with it."""


class Saved(NamedTuple):
    """What a folder holds of a method: model.json, and the bytes of the weights."""

    description: dict[str, Any]
    weights: bytes


def build(
    family: str, method: str, config: Declared | dict[str, Any], spec: DataSpec, base: Method | None = None
) -> Method:
    """Build an untrained method. The caller seeds torch: the weights are drawn here.

    Args:
        family: section of params.yaml, such as "pretext".
        method: name of a file of that family.
        config: the method's own config, or its values.
        spec: of the data set that the method is for.
        base: of a composed method, the trained one that it stands on, which becomes part of it; of no other.

    Raises:
        ModelError: a composed method without a base.
    """
    cls = catalogue.method_class(catalogue.SECTIONS[family], method)
    values = config.model_dump() if isinstance(config, Declared) else config
    parts: list[Any] = [cls.Config.model_validate(values), spec]
    if issubclass(cls, Composed):
        if base is None:
            raise ModelError(f"{family}.{method}: stands on another trained method; give it as 'base'")
        parts.append(base)
    built: Method = cls(*parts)
    return built


def save(folder: Path, family: str, name: str, method: Method) -> None:
    """Write a trained method. The bytes are a function of the weights and the config alone."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({key: value.detach().cpu().contiguous() for key, value in method.state_dict().items()})
    (folder / "model.safetensors").write_bytes(weights)
    description = {**_description(family, name, method), "weights_sha256": hashlib.sha256(weights).hexdigest()}
    (folder / "model.json").write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")


def load(folder: str | Path, device: torch.device | str = "cpu") -> Method:
    """Read a trained method back, in eval mode.

    Args:
        folder: such as models/simclr/seed_0.
        device: where the weights go.

    Raises:
        ModelError: a file is missing, or the weights are not those that were saved.
    """
    return restore(read(Path(folder))).to(device)


def read(folder: Path) -> Saved:
    """Read what `restore` makes a method of.

    Raises:
        ModelError: as `load`.
    """
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
    return Saved(description, weights)


def restore(saved: Saved) -> Method:
    """Make the method that was saved, in eval mode."""
    method = _described(saved.description)
    method.load_state_dict(load_tensors(saved.weights))
    return method.eval()


def base_of(folder: Path) -> Method:
    """Return the base of the composed method in a folder: that which it was trained on.

    Raises:
        ModelError: as `load`.
    """
    method = load(folder)
    assert isinstance(method, Composed), folder
    return method.base


def _description(family: str, name: str, method: Method) -> dict[str, Any]:
    """What `_described` builds a method of."""
    told = {
        "family": family,
        "method": name,
        "config": method.config.model_dump(mode="json"),
        "spec": method.spec.model_dump(mode="json"),
    }
    if isinstance(method, Composed):
        told["base"] = _description(*catalogue.section_and_name(type(method.base)), method.base)
    return told


def _described(description: dict[str, Any]) -> Method:
    base = _described(description["base"]) if "base" in description else None
    spec = DataSpec.model_validate(description["spec"])
    return build(description["family"], description["method"], description["config"], spec, base)


def weights_digest(folder: Path) -> str:
    """Return the sha256 of the weights in a folder that `load` reads, which checks it."""
    return str(json.loads((folder / "model.json").read_text())["weights_sha256"])
