"""What can be declared: the files of the method families, found by name, read without importing torch.

In a family every file without a leading underscore is a method, and the file's stem is its name. Its `Config` is
nested in the class that it configures, beside code that imports torch, which costs over a second. The declaration is
checked before that second is spent: `config_class` runs only the parts of the file that make up the config. So a
`Config` may use the standard library, pydantic, `mlml.config`, constants of its own file, and nothing else.
"""

import ast
import importlib
import os
from functools import cache
from pathlib import Path
from typing import Any

from mlml.config import DeclarationError, Declared, suggest

SECTIONS = {
    "data": "data/sources",
    "supervised": "supervised",
    "pretext": "pretext",
    "probe": "probes",
    "generative": "generative",
    "composed": "composed",
    "evaluation": "evaluations",
    "search": "search",
    "study": "studies",
    "illustration": "illustrations",
}
"""Sections of params.yaml, and the folder of mlml/ that holds their methods."""

_ROOT = Path(__file__).parent
_LIGHT = {"annotated_types", "collections", "enum", "math", "pydantic", "typing"}


def names(folder: str) -> list[str]:
    """Return the names of the methods in a folder of mlml/, such as "pretext" or "data/sources"."""
    found = (name.removesuffix(".py") for name in os.listdir(_ROOT / folder) if name.endswith(".py"))
    return sorted(name for name in found if not name.startswith("_"))


@cache
def config_class(folder: str, name: str) -> type[Declared]:
    """Return the `Config` of a method, without importing the method.

    Raises:
        DeclarationError: no such method, or its file holds no nested `Config`.
    """
    path = method_file(folder, name)
    tree = ast.parse(path.read_text(), str(path))
    kept = [node for node in tree.body if _is_light(node)]
    nested = [node for owner in tree.body if isinstance(owner, ast.ClassDef) for node in owner.body if _is_config(node)]
    if len(nested) != 1:
        raise DeclarationError([f"{path}: must hold exactly one class with a nested 'Config'; found {len(nested)}"])
    namespace: dict[str, Any] = {"__name__": _module(folder, name)}
    exec(compile(ast.Module([*kept, *nested], []), str(path), "exec"), namespace)
    found: type[Declared] = namespace["Config"]
    return found


def class_constant(folder: str, name: str, attribute: str, default: Any) -> Any:
    """Return a literal class attribute of a method, such as a source's `labelled`, without importing the method."""
    tree = ast.parse(method_file(folder, name).read_text())
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef) and any(_is_config(node) for node in owner.body):
            for node in owner.body:
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                value = getattr(node, "value", None)
                if value is not None and any(_is_name(target, attribute) for target in targets if target):
                    return ast.literal_eval(value)
    return default


def offers(folder: str, name: str, function: str) -> bool:
    """Whether a method's class, or one of mlml that it is derived from, defines a function, without importing it."""
    tree = ast.parse(method_file(folder, name).read_text())
    return any(
        _defines(tree, node, function)
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(_is_config(inner) for inner in node.body)
    )


def method_class(folder: str, name: str) -> type[Any]:
    """Import the file of a method and return the one class in it that has a `Config`."""
    method_file(folder, name)
    module = importlib.import_module(_module(folder, name))
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    found = [cls for cls in own if "Config" in vars(cls)]
    if len(found) != 1:
        raise DeclarationError([f"{module.__name__}: must hold exactly one class with a 'Config'; found {len(found)}"])
    return found[0]


def section_and_name(method: type[Any]) -> tuple[str, str]:
    """Return the section and the name of a method, from its class: its module is its file."""
    folder, _, name = method.__module__.removeprefix("mlml.").rpartition(".")
    return next(section for section, place in SECTIONS.items() if place == folder.replace(".", "/")), name


def method_file(folder: str, name: str) -> Path:
    """Return the path of a method's file.

    Raises:
        DeclarationError: there is none.
    """
    if name not in names(folder):
        raise DeclarationError([f"mlml/{folder}: unknown name {name!r}{suggest(name, names(folder))}"])
    return _ROOT / folder / f"{name}.py"


def _defines(tree: ast.Module, owner: ast.ClassDef, function: str) -> bool:
    if any(isinstance(node, ast.FunctionDef) and node.name == function for node in owner.body):
        return True
    bases = [_class(tree, base.id) for base in owner.bases if isinstance(base, ast.Name)]
    return any(_defines(*base, function) for base in bases if base is not None)


def _class(tree: ast.Module, name: str) -> tuple[ast.Module, ast.ClassDef] | None:
    """A class by its name in a file of mlml, and the file where it stands; None when it comes from elsewhere."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return tree, node
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            path = _ROOT.parent / Path(*str(node.module).split(".")).with_suffix(".py")
            return _class(ast.parse(path.read_text()), name) if path.is_file() else None
    return None


def _module(folder: str, name: str) -> str:
    return f"mlml.{folder.replace('/', '.')}.{name}"


def _is_light(node: ast.stmt) -> bool:
    """Whether a top-level statement can be run without torch: light imports, constants, helper configs."""
    match node:
        case ast.Import(names=aliases):
            return all(alias.name.split(".")[0] in _LIGHT for alias in aliases)
        case ast.ImportFrom(module=str(module), level=0):
            return module == "mlml.config" or module.split(".")[0] in _LIGHT
        case ast.ClassDef(bases=[ast.Name(id=("Declared" | "NetworkConfig")), *_]):
            return True
        case ast.Assign(value=value):
            return _is_literal(value)
        case _:
            return False


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _is_config(node: ast.stmt) -> bool:
    return isinstance(node, ast.ClassDef) and node.name == "Config"


def _is_name(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
