"""The deps in dvc.yaml cover what each stage really imports, and imports point one way."""

import ast
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mlml import catalogue, declaration

ROOT = Path.cwd()
PACKAGES = ("mlml", "stages", "pipelines")
FOLDERS = (*catalogue.SECTIONS.values(), "models")
STAGES = YAML(typ="safe").load(Path("dvc.yaml"))["stages"]


def module_file(name: str) -> Path | None:
    """File of a module of the project, relative to its root."""
    path = Path(*name.split("."))
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if (ROOT / candidate).is_file():
            return candidate
    return None


@cache
def imports(file: Path) -> frozenset[Path]:
    """Files of the project that a file imports, anywhere in it, packages' __init__ included."""
    names = set()
    for node in _walk(ast.parse((ROOT / file).read_text()), lazily=file.name != "__init__.py"):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    names = {name for name in names if name.split(".")[0] in PACKAGES}
    parents = {".".join(name.split(".")[:k]) for name in names for k in range(1, name.count(".") + 2)}
    return frozenset(path for name in parents if (path := module_file(name)) is not None)


def _walk(node: ast.AST, lazily: bool):
    """Every node but those under `if TYPE_CHECKING`; those in functions if `lazily`.

    What a package's __init__ imports in a function is a name that it lends out: who uses it imports it by itself.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.FunctionDef) and not lazily:
            continue
        yield child
        yield from _walk(child, lazily)


def closure(files: set[Path]) -> set[Path]:
    """Files reached from `files` by imports, themselves included."""
    reached, waiting = set(), set(files)
    while waiting:
        file = waiting.pop()
        reached.add(file)
        waiting |= imports(file) - reached
    return {file for file in reached if (ROOT / file).read_text().strip().count("\n")}  # one-line __init__ say nothing


def declared(stage: str) -> tuple[set[str], set[Path]]:
    """Patterns of the deps that an entry completes, and the files of the project among the others."""
    body = STAGES[stage].get("do", STAGES[stage])
    code = [dep for dep in body["deps"] if dep.split("/")[0] in PACKAGES]
    plain = [ROOT / dep for dep in code if "${" not in dep]
    files = {file for path in plain for file in (path.rglob("*.py") if path.is_dir() else [path])}
    return {dep for dep in code if "${" in dep}, {file.relative_to(ROOT) for file in files if file.suffix == ".py"}


def methods(stage: str) -> set[Path]:
    """Files of every method and network that an entry of this kind may name."""
    folders = {(ROOT / pattern).parent for pattern in declared(stage)[0]}
    return {file.relative_to(ROOT) for folder in folders for file in folder.glob("*.py") if file.stem[0] != "_"}


def whole_folders(stage: str) -> set[Path]:
    """Every network, or sampler, where a stage names their folder: its entries have none, or several, of their own."""
    named = set(STAGES[stage].get("do", STAGES[stage])["deps"]) if stage != "check" else set()
    folders = {Path(folder) for folder in ("mlml/models", "mlml/search") if folder in named}
    return {file for file in declared(stage)[1] if file.parent in folders}


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_what_the_stage_imports(stage):
    """All that its script and its methods import, but for the methods themselves: an entry names its own."""
    _, given = declared(stage)
    scripts = {Path("stages/__main__.py"), Path("stages") / f"{stage}.py"}
    needed = closure(scripts | methods(stage) | whole_folders(stage)) - methods(stage)
    assert not needed - given, f"dvc.yaml: {stage} lacks {sorted(map(str, needed - given))}"
    extra = {file for file in given - needed if file.name != "__init__.py"}
    if stage == "check":  # it reads the config of every method
        extra = {file for file in extra if not any(str(file).startswith(f"mlml/{folder}/") for folder in FOLDERS)}
    assert not extra, f"dvc.yaml: {stage} names {sorted(map(str, extra))}, which it does not import"


def test_a_method_s_file_is_a_dep_of_its_own_experiments_alone():
    for stage in STAGES:
        assert not declared(stage)[1] & methods(stage), stage
    folders = {pattern.rsplit("/", 1)[0] for stage in STAGES for pattern in declared(stage)[0]}
    assert folders == {f"mlml/{folder}" for folder in FOLDERS}


def test_every_section_is_a_stage():
    assert set(STAGES) == {"check", "prepare", *declaration.FAMILIES, "report"}


def test_every_stage_waits_for_the_check():
    for name, body in STAGES.items():
        assert name == "check" or "data/checked" in body.get("do", body)["deps"], name


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    allowed = {"mlml": {"mlml"}, "stages": {"mlml", "stages"}, "pipelines": set(PACKAGES)}[package]
    for file in (ROOT / package).rglob("*.py"):
        for imported in imports(file.relative_to(ROOT)):
            assert imported.parts[0] in allowed, f"{file} imports {imported}"
