"""The whole of params.yaml, read and checked at once: before any stage starts, and before torch is imported.

Every section but `protocol`, `report` and `threads` maps names to entries. An entry of `data` is a data set, one of
`schedules` says when Prefect runs what by itself; an entry of any other section is an experiment: `method` names a file
of the section's folder in mlml/, `dataset` an entry of `data`, `seeds` the seeds to run, and the remaining keys are the
fields of the method's own `Config`. An entry of `illustration` has neither data nor seeds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mlml import catalogue
from mlml.config import ComparisonConfig, DataEntry, DeclarationError, Declared, Schedule, overridden, parse, suggest

FAMILIES = ("supervised", "pretext", "probe", "generative", "evaluation", "search", "study", "illustration")
"""Sections whose entries are experiments."""

OPTIONAL = ("evaluation", "study", "illustration")
"""Families whose section may be left out: dvc.yaml has an empty one for then."""

ENCODERS = ("supervised", "pretext")
"""Families whose models a probe can evaluate."""

GENERATORS = ("generative", "pretext")
"""Families whose models an evaluation can look at, where they sample or reconstruct."""

COMPARED = ("supervised", "pretext", "generative", "probe", "evaluation")
"""Families whose experiments the report can compare."""

TOLD_OF = {"labels": "classes of images", "masks": "pixels", "captions": "words of captions"}
"""What a method tells of, by its `targets`."""

FIXED = ("method", "dataset", "seeds", "encoder", "encoder.network")
"""Paths that no search may vary: its stage would not know of the other's code or data."""

_NAME = r"[A-Za-z0-9_-]+"


class _Common(Declared):
    """Keys of every experiment."""

    method: str
    dataset: str
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"must be different from each other; got {list(seeds)}")
        return seeds


class _Illustrated(Declared):
    """Keys of every illustration."""

    method: str


class ReportConfig(Declared):
    """The `report` section."""

    title: str = "Experiments"
    comparisons: tuple[ComparisonConfig, ...] = ()


@dataclass(frozen=True)
class DataSet:
    """An entry of `data`."""

    name: str
    source: str
    config: Declared  # the source's
    entry: DataEntry
    labelled: bool
    masked: bool
    captioned: bool
    channels: int | None  # of the images; None: not known before they are read

    def targets(self) -> list[str]:
        """What a method can be told of the images."""
        given = {"labels": self.labelled, "masks": self.masked, "captions": self.captioned}
        return [name for name in given if given[name]]


@dataclass(frozen=True)
class Experiment:
    """An entry of any other section; `raw` is the entry as it stands in the file."""

    name: str
    family: str
    method: str
    dataset: str  # "" of an illustration
    seeds: tuple[int, ...]  # none of an illustration
    config: Any  # the method's Config
    raw: Mapping[str, Any] = field(repr=False)

    def resolved(self) -> dict[str, Any]:
        """Everything that the entry says or leaves to defaults, as plain values."""
        common: dict[str, Any] = {"method": self.method}
        if self.family != "illustration":
            common |= {"dataset": self.dataset, "seeds": list(self.seeds)}
        return {**common, **self.config.model_dump(mode="json")}


@dataclass(frozen=True)
class Declaration:
    """A checked declaration.

    Attributes:
        threads: with which every stage computes on the processor; part of what its result depends on, since the order
            of a floating-point sum, and so its last bits, depends on how many threads share it.
        schedules: when Prefect runs what by itself; no result depends on them.
    """

    data: Mapping[str, DataSet]
    experiments: Mapping[str, Experiment]
    report: ReportConfig
    threads: int = 1
    schedules: Mapping[str, Schedule] = field(default_factory=dict)

    def family(self, name: str) -> list[Experiment]:
        """Experiments of one section, in the order of the file."""
        return [experiment for experiment in self.experiments.values() if experiment.family == name]

    def targets(self) -> list[str]:
        """Return what a run can be asked for: groups of stages, experiments, and stages by their full names."""
        families = {family: [experiment.name for experiment in self.family(family)] for family in FAMILIES}
        return _targets({"data": list(self.data), **families})


def read(path: Path = Path("params.yaml")) -> Declaration:
    """Read and check a declaration.

    Raises:
        DeclarationError: with every fault in the file, one sentence each.
    """
    try:
        content = YAML(typ="safe").load(path)
    except FileNotFoundError:
        raise DeclarationError([f"{path}: does not exist; copy one of experiments/*.yaml to it"]) from None
    except YAMLError as error:
        raise DeclarationError([f"{path}: is not valid YAML: {' '.join(str(error).split())}"]) from None
    return check(content)


def check(content: Any) -> Declaration:
    """Check a declaration that was read already.

    Raises:
        DeclarationError: with every fault, one sentence each.
    """
    if not isinstance(content, Mapping):
        raise DeclarationError([f"params.yaml: must be a mapping of sections; got {content!r}"])
    reader = _Reader(content)
    found: list[str] = []
    sections = ("data", *FAMILIES, "report", "protocol", "threads", "schedules")
    found += [f"{key}: unknown section{suggest(str(key), sections)}" for key in content if key not in sections]
    found += [
        f"{section}: required, but not given; write '{section}: {{}}' for none"
        for section in ("data", *FAMILIES)
        if section not in content and section not in OPTIONAL
    ]
    data = reader.section("data", reader.dataset)
    experiments: dict[str, Experiment] = {}
    for family in FAMILIES:
        for name, experiment in reader.section(family, reader.experiment).items():
            if name in experiments:
                where = f"{family}.{name}"
                reader.found.append(
                    f"{where}: the name is taken by {experiments[name].family}.{name}; names are unique"
                )
            experiments[name] = experiment
    schedules = reader.section("schedules", reader.schedule)
    threads: Any = content.get("threads")
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        given = f"got {threads!r}" if "threads" in content else "not given"
        found.append(f"threads: must be a whole number from 1, the threads with which a stage computes; {given}")
    report = ReportConfig()
    try:
        report = parse(ReportConfig, content.get("report") or {}, "report")
    except DeclarationError as error:
        found += error.faults
    found += reader.found
    found += _reference_faults(content, data, experiments)
    found += _schedule_faults(content, schedules)
    found += _comparison_faults(_declared_names(content), experiments, report)
    if found:
        raise DeclarationError(found)
    return Declaration(data, experiments, report, threads, schedules)


def resolve(family: str, name: str, entry: Any) -> Experiment:
    """Check one experiment on its own, without what it refers to: for an entry with other numbers than the file's.

    Raises:
        DeclarationError: with every fault of the entry.
    """
    return _Reader({}).experiment(family, name, entry)


class _Reader:
    """Reads sections, and keeps the faults that it finds."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.found: list[str] = []

    def section(self, section: str, read_entry: Callable[[str, str, Any], Any]) -> dict[str, Any]:
        entries = self.content.get(section)
        if not isinstance(entries, Mapping):
            if section in self.content:
                self.found.append(f"{section}: must be a mapping of names to entries; got {entries!r}")
            return {}
        read: dict[str, Any] = {}
        for name, entry in entries.items():
            try:
                TypeAdapter(Annotated[str, Field(pattern=f"^{_NAME}$")]).validate_python(name)
                read[name] = read_entry(section, name, entry)
            except DeclarationError as error:
                self.found += error.faults
            except ValidationError:
                self.found.append(f"{section}.{name}: a name is made of letters, digits, '_' and '-'; got {name!r}")
        return read

    def dataset(self, section: str, name: str, entry: Any) -> DataSet:
        where = f"{section}.{name}"
        source = _named(entry, "source", where, catalogue.names("data/sources"))
        config, rest = _split(entry, DataEntry, catalogue.config_class("data/sources", source), where)
        labelled, masked, captioned = (
            bool(catalogue.class_constant("data/sources", source, attribute, default))
            for attribute, default in (("labelled", True), ("masked", False), ("captioned", False))
        )
        channels = catalogue.class_constant("data/sources", source, "channels", getattr(rest, "channels", None))
        return DataSet(name, source, rest, config, labelled, masked, captioned, channels)

    def experiment(self, family: str, name: str, entry: Any) -> Experiment:
        where = f"{family}.{name}"
        folder = catalogue.SECTIONS[family]
        method = _named(entry, "method", where, catalogue.names(folder))
        if family == "illustration":
            _, config = _split(entry, _Illustrated, catalogue.config_class(folder, method), where)
            return Experiment(name, family, method, "", (), config, entry)
        common, config = _split(entry, _Common, catalogue.config_class(folder, method), where)
        return Experiment(name, family, method, common.dataset, common.seeds, config, entry)

    def schedule(self, section: str, name: str, entry: Any) -> Schedule:
        if not isinstance(entry, Mapping):
            raise DeclarationError([f"{section}.{name}: must be a mapping; got {entry!r}"])
        return parse(Schedule, entry, f"{section}.{name}")


def _named(entry: Any, key: str, where: str, known: list[str]) -> str:
    """Return entry[key], one of the known names."""
    if not isinstance(entry, Mapping):
        raise DeclarationError([f"{where}: must be a mapping; got {entry!r}"])
    if key not in entry:
        raise DeclarationError([f"{where}.{key}: required, but not given (known: {', '.join(known)})"])
    if entry[key] not in known:
        raise DeclarationError([f"{where}.{key}: unknown name {entry[key]!r}{suggest(str(entry[key]), known)}"])
    return str(entry[key])


def _split(entry: Mapping[str, Any], common: type[Any], own: type[Declared], where: str) -> tuple[Any, Any]:
    """Validate an entry by two schemas side by side: the keys of every entry, and the method's own."""
    found: list[str] = []
    parts: list[Any] = []
    shared = {key: value for key, value in entry.items() if key in common.model_fields}
    rest = {key: value for key, value in entry.items() if key not in common.model_fields}
    for schema, values, others in ((common, shared, own.model_fields), (own, rest, common.model_fields)):
        try:
            parts.append(parse(schema, values, where, others))
        except DeclarationError as error:
            found += error.faults
    if found:
        raise DeclarationError(found)
    return parts[0], parts[1]


def _reference_faults(
    content: Mapping[str, Any], data: Mapping[str, DataSet], experiments: Mapping[str, Experiment]
) -> list[str]:
    """Faults of names that refer to other entries. An entry with faults of its own still counts as existing."""
    found = []
    declared = _declared_names(content)
    for experiment in experiments.values():
        where = f"{experiment.family}.{experiment.name}"
        if experiment.family == "illustration":
            continue
        if experiment.dataset not in declared["data"]:
            hint = suggest(experiment.dataset, declared["data"])
            found.append(f"{where}.dataset: no data set {experiment.dataset!r} is declared{hint}")
        folder, dataset = catalogue.SECTIONS[experiment.family], data.get(experiment.dataset)
        reads = experiment.family in ("supervised", "probe") or (
            experiment.family in ("pretext", "generative")
            and catalogue.class_constant(folder, experiment.method, "reads_labels", False)
        )
        targets = catalogue.class_constant(folder, experiment.method, "targets", "labels" if reads else None)
        if targets is not None and dataset is not None and targets not in dataset.targets():
            found.append(f"{where}.dataset: needs {targets}, but {experiment.dataset!r} has none")
        channels = catalogue.class_constant(folder, experiment.method, "channels", None)
        if channels is not None and dataset is not None and dataset.channels not in (None, channels):
            has = dataset.channels
            found.append(f"{where}.dataset: needs {channels} channels, but images of {experiment.dataset!r} have {has}")
        if experiment.family == "probe":
            found += _reference(experiments, declared, experiment, "encoder", ENCODERS)
        if experiment.family == "search":
            found += _search_faults(experiments, declared, experiment)
        if experiment.family == "evaluation":
            found += _evaluation_faults(experiments, declared, experiment)
        if experiment.family == "study":
            found += _target_faults(experiments, declared, experiment, "study")
            found += _need_faults(experiments, experiment, "experiment")
            found += _studied_metric_faults(experiments, experiment)
    return found


def _schedule_faults(content: Mapping[str, Any], schedules: Mapping[str, Schedule]) -> list[str]:
    """Faults of targets that name nothing declared."""
    known = _targets(_declared_names(content))
    return [
        f"schedules.{name}.targets: {target!r} is no stage, group of stages or experiment{suggest(target, known)}"
        for name, schedule in schedules.items()
        for target in schedule.targets
        if target not in known
    ]


def _comparison_faults(
    declared: Mapping[str, list[str]], experiments: Mapping[str, Experiment], report: ReportConfig
) -> list[str]:
    """Faults of comparisons: names of no experiment, and metrics that an experiment will not have."""
    known = [name for family in COMPARED for name in declared[family]]
    found = []
    for number, comparison in enumerate(report.comparisons):
        where = f"report.comparisons.{number}"
        for name in comparison.of:
            if name not in known:
                families = f"{', '.join(COMPARED[:-1])} or {COMPARED[-1]}"
                found.append(f"{where}.of: no experiment {name!r} is declared in {families}{suggest(name, known)}")
            elif name in experiments:
                metrics = measured(experiments[name], experiments)
                if metrics is not None and comparison.metric not in metrics:
                    hint = suggest(comparison.metric, metrics)
                    found.append(f"{where}.metric: {name!r} will not have {comparison.metric!r}{hint}")
    return found


def measured(experiment: Experiment, experiments: Mapping[str, Experiment]) -> list[str] | None:
    """Return the metrics that an experiment will have, as far as its method's file says; None where it does not.

    Some of an evaluation's hang on what the method of its generator offers.
    """
    folder = catalogue.SECTIONS[experiment.family]
    if catalogue.class_constant(folder, experiment.method, "phases", None) == ():
        return []
    own = catalogue.class_constant(folder, experiment.method, "measures", None)
    if own is None:
        return None
    names = own if experiment.family in ("probe", "evaluation") else ("loss", *own)
    if experiment.family == "evaluation" and (generator := experiments.get(experiment.config.generator)) is not None:
        further = catalogue.class_constant(folder, experiment.method, "measures_if_offered", ())
        names += tuple(name for function, name in further if _offers(generator, function))
    splits = ("validation",) if experiment.family == "pretext" else ("validation", "test")
    splits = catalogue.class_constant(folder, experiment.method, "splits", splits)
    return [f"{split}/{name}" for split in splits for name in names]


def _declared_names(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """Names of the entries of each section, those with faults of their own included."""
    sections = {family: content.get(family) for family in ("data", *FAMILIES)}
    return {family: [*map(str, names)] if isinstance(names, Mapping) else [] for family, names in sections.items()}


def _targets(declared: Mapping[str, list[str]]) -> list[str]:
    """Groups of stages, experiments, and stages by their full names."""
    groups = ["check", "prepare", *FAMILIES, "report"]
    experiments = [(family, name) for family in FAMILIES for name in declared[family]]
    stages = [f"prepare@{name}" for name in declared["data"]] + [f"{family}@{name}" for family, name in experiments]
    # an experiment of a data set's name has to be asked for by the full name of its stage
    plain = [name for _, name in experiments if name not in declared["data"] and name not in groups]
    return [*groups, *plain, *stages]


def _reference(
    experiments: Mapping[str, Experiment],
    declared: Mapping[str, list[str]],
    experiment: Experiment,
    key: str,
    families: tuple[str, ...],
    same_seeds: bool = True,
) -> list[str]:
    """Faults of a key that names another experiment of certain families, trained with the same seeds if they matter."""
    where, name = f"{experiment.family}.{experiment.name}.{key}", getattr(experiment.config, key)
    known = [other for family in families for other in declared[family]]
    if name not in known:
        return [f"{where}: no experiment {name!r} is declared in {' or '.join(families)}{suggest(name, known)}"]
    if same_seeds and name in experiments and not set(experiment.seeds) <= set(experiments[name].seeds):
        return [
            f"{where}: {name!r} has seeds {list(experiments[name].seeds)}, which lack some of {list(experiment.seeds)}"
        ]
    return []


def _target_faults(
    experiments: Mapping[str, Experiment], declared: Mapping[str, list[str]], experiment: Experiment, what: str
) -> list[str]:
    """Faults of the experiment that a search or a study names: it must train, on the data that the entry names."""
    found = _reference(experiments, declared, experiment, "experiment", ("supervised", "pretext", "generative"))
    target = experiments.get(experiment.config.experiment)
    if target is None:
        return found
    where, data = f"{experiment.family}.{experiment.name}", target.dataset
    if experiment.dataset != data:
        found.append(f"{where}.dataset: must be {data!r}, that of {target.name!r}; got {experiment.dataset!r}")
    if "train" not in type(target.config).model_fields:
        found.append(f"{where}.experiment: {target.name!r} trains nothing, so there is nothing to {what}")
    return found


def _evaluation_faults(
    experiments: Mapping[str, Experiment], declared: Mapping[str, list[str]], evaluation: Experiment
) -> list[str]:
    """Faults of an evaluation: a generator that lacks what is evaluated, an extractor of no classes of these images."""
    where, config = f"evaluation.{evaluation.name}", evaluation.config
    generator, extractor = experiments.get(config.generator), experiments.get(config.extractor)
    found = _reference(experiments, declared, evaluation, "generator", GENERATORS)
    if generator is not None and generator.family in GENERATORS:
        if generator.dataset != evaluation.dataset:
            data = generator.dataset
            found.append(f"{where}.dataset: must be {data!r}, that of {generator.name!r}; got {evaluation.dataset!r}")
        found += _need_faults(experiments, evaluation, "generator")
    found += _reference(experiments, declared, evaluation, "extractor", ("supervised",), same_seeds=False)
    if extractor is not None and extractor.family == "supervised":
        if extractor.dataset != evaluation.dataset:
            data = f"{extractor.dataset!r}, not on {evaluation.dataset!r}"
            found.append(
                f"{where}.extractor: {extractor.name!r} is trained on {data}, whose images it is to tell apart"
            )
        has = catalogue.class_constant("supervised", extractor.method, "targets", "labels")
        needed = catalogue.class_constant("evaluations", evaluation.method, "extractor_targets", "labels")
        if has != needed:
            tells, wanted = TOLD_OF[has], TOLD_OF[needed]
            found.append(f"{where}.extractor: {extractor.name!r} tells of {tells}; take one that tells of {wanted}")
    return found


def _offers(experiment: Experiment, function: str) -> bool:
    """Whether the method of an experiment has a function."""
    return catalogue.offers(catalogue.SECTIONS[experiment.family], experiment.method, function)


def _studied_metric_faults(experiments: Mapping[str, Experiment], study: Experiment) -> list[str]:
    """Faults of a study's metric that the experiment will not have."""
    target, metric = experiments.get(study.config.experiment), getattr(study.config, "metric", None)
    metrics = measured(target, experiments) if target is not None else None
    if metric is None or not metrics or metric in metrics:
        return []
    assert target is not None
    hint = suggest(metric, metrics)
    return [f"study.{study.name}.metric: {target.name!r} will not have {metric!r}{hint}"]


def _need_faults(experiments: Mapping[str, Experiment], experiment: Experiment, key: str) -> list[str]:
    """Faults of a key that names an experiment whose method lacks the function that this one's needs, if any."""
    target = experiments.get(getattr(experiment.config, key))
    needs = catalogue.class_constant(catalogue.SECTIONS[experiment.family], experiment.method, "needs", None)
    if target is None or needs is None or _offers(target, needs):
        return []
    hint = suggest(target.name, [name for name, other in experiments.items() if _offers(other, needs)])
    where = f"{experiment.family}.{experiment.name}.{key}"
    return [f"{where}: {target.name!r} is of {target.method!r}, which has no {needs!r}{hint}"]


def _search_faults(
    experiments: Mapping[str, Experiment], declared: Mapping[str, list[str]], search: Experiment
) -> list[str]:
    """Faults of a search: the experiment that it names, and paths that the experiment's entry does not have."""
    found = _target_faults(experiments, declared, search, "search")
    target = experiments.get(search.config.experiment)
    if target is None:
        return found
    where = f"search.{search.name}"
    for path, dimension in search.config.space.items():
        if path in FIXED:
            found.append(f"{where}.space.{path}: cannot be searched: trials are of one method, network and data")
            continue
        for value in dimension.ends():
            try:
                resolve(target.family, target.name, overridden(target.raw, {path: value}))
            except DeclarationError as error:
                found += [f"{where}.space.{path}: {value!r} does not fit: {fault}" for fault in error.faults]
                break
    return found
