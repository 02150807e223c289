"""Faults of what the entries of a declaration say of each other: names of nothing, and what does not suit."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlml import catalogue
from mlml.config import (
    NUM_PARAMETERS,
    ComparisonConfig,
    DeclarationError,
    SearchedEntry,
    conditions,
    overridden,
    suggest,
)

if TYPE_CHECKING:
    from mlml.declaration import DataSet, Experiment

ENCODERS = ("supervised", "pretext")
"""Families whose models a probe can evaluate."""

GENERATORS = ("generative", "composed", "pretext")
"""Families whose models an evaluation can look at, where they sample or reconstruct."""

TARGETS = ("supervised", "pretext", "generative", "composed")
"""Families whose experiments a search or a study can be about."""

COMPARED = ("supervised", "pretext", "generative", "composed", "probe", "evaluation")
"""Families whose experiments the report can compare."""

TOLD_OF = {"labels": "classes of images", "masks": "pixels", "captions": "words of captions"}
"""What a method tells of, by its `targets`."""

FIXED = ("method", "dataset", "seeds", "encoder", "encoder.network", "base")
"""Paths that no search may vary: its stage would not know of the other's code or data."""

Resolve = Callable[[str, str, Any], Any]
"""Takes (family, name, entry) and returns the experiment: `mlml.declaration.resolve`."""


def reference_faults(
    declared: Mapping[str, list[str]],
    data: Mapping[str, "DataSet"],
    experiments: Mapping[str, "Experiment"],
    resolve: Resolve,
) -> list[str]:
    """Faults of names that refer to other entries. An entry with faults of its own still counts as existing.

    Args:
        declared: names of the experiments of each family, and of data sets, those with faults of their own included.
        data: data sets without faults of their own.
        experiments: the same.
        resolve: checks an entry on its own.
    """
    found = []
    for experiment in experiments.values():
        where = f"{experiment.family}.{experiment.name}"
        if experiment.family == "illustration" or experiment.searched is not None:
            continue
        if experiment.dataset not in declared["data"]:
            hint = suggest(experiment.dataset, declared["data"])
            found.append(f"{where}.dataset: no data set {experiment.dataset!r} is declared{hint}")
        folder, dataset = catalogue.SECTIONS[experiment.family], data.get(experiment.dataset)
        reads = experiment.family in ("supervised", "probe") or (
            experiment.family in ("pretext", "generative", "composed")
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
        if experiment.family == "composed":
            found += _base_faults(experiments, declared, experiment)
        if experiment.family == "search":
            found += _search_faults(experiments, declared, experiment, resolve)
        if experiment.family == "evaluation":
            found += _evaluation_faults(experiments, declared, experiment)
        if experiment.family == "study":
            found += _target_faults(experiments, declared, experiment, "study")
            found += _need_faults(experiments, experiment, "experiment")
            found += _studied_metric_faults(experiments, experiment)
            target = experiments.get(experiment.config.experiment)
            if target is not None and "space" in type(experiment.config).model_fields:
                found += _space_faults(experiment, target, resolve)
    return found


def searched_faults(
    declared: Mapping[str, list[str]],
    experiments: Mapping[str, "Experiment"],
    searched: Mapping[str, SearchedEntry],
) -> list[str]:
    """Faults of entries of `searched`: what does not go together, and what could not be compared with the experiment.

    Args:
        declared: names of the entries of each section, those with faults of their own included.
        experiments: without faults of their own.
        searched: entries without faults of their own.
    """
    found = []
    for name, entry in searched.items():
        found += _found_for_faults(declared, experiments, name, entry)
        found += _found_by_faults(declared, experiments, name, entry)
    return found


def comparison_faults(
    declared: Mapping[str, list[str]],
    experiments: Mapping[str, "Experiment"],
    comparisons: Sequence[ComparisonConfig],
) -> list[str]:
    """Faults of comparisons: names of no experiment, and metrics that an experiment will not have."""
    known = [name for family in COMPARED for name in declared[family]]
    found = []
    for number, comparison in enumerate(comparisons):
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


def measured(
    experiment: "Experiment", experiments: Mapping[str, "Experiment"], trials: bool = False
) -> list[str] | None:
    """Return the metrics that an experiment will have, as far as its method's file says; None where it does not.

    Some of an evaluation's hang on what the method of its generator offers. It looks at the test split, but at the
    `trials` of a search at the validation split.
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
    own_splits = {"pretext": ("validation",), "evaluation": ("validation" if trials else "test",)}
    splits = own_splits.get(experiment.family, ("validation", "test"))
    splits = catalogue.class_constant(folder, experiment.method, "splits", splits)
    return [f"{split}/{name}" for split in splits for name in names]


def _reference(
    experiments: Mapping[str, "Experiment"],
    declared: Mapping[str, list[str]],
    experiment: "Experiment",
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


def _base_faults(
    experiments: Mapping[str, "Experiment"], declared: Mapping[str, list[str]], composed: "Experiment"
) -> list[str]:
    """Faults of the base of a composed experiment: its family, data, seeds and functions, and what the method says."""
    where, folder = f"composed.{composed.name}", catalogue.SECTIONS["composed"]

    def told(attribute: str, default: Any) -> Any:
        return catalogue.class_constant(folder, composed.method, attribute, default)

    families, needed = told("base_families", ()), told("base_needs", ())
    found = _reference(experiments, declared, composed, "base", families, told("base_seed", "same") == "same")
    base = experiments.get(composed.config.base)
    if base is None or base.family not in families:
        return found
    if _stands_on(experiments, base, composed.name):
        return [*found, f"{where}.base: {base.name!r} stands on {composed.name!r} itself; name one that does not"]
    if base.dataset != composed.dataset:
        data = f"{base.dataset!r}, not on {composed.dataset!r}"
        found.append(f"{where}.base: {base.name!r} is trained on {data}; the two must have one data set")
    lacking = [function for function in needed if not _offers(base, function)]
    if lacking:
        able = [
            name
            for name, other in experiments.items()
            if other.family in families and name != composed.name and all(_offers(other, each) for each in needed)
        ]
        hint = suggest(base.name, able)
        found.append(f"{where}.base: {base.name!r} is of {base.method!r}, which has no {lacking[0]!r}{hint}")
    elif (misfit := composed.config.misfit(base.config)) is not None:
        found.append(f"{where}.{misfit}")
    return found


def _stands_on(experiments: Mapping[str, "Experiment"], experiment: "Experiment", name: str) -> bool:
    """Whether an experiment is one of that name, or has it below it."""
    below: set[str] = set()
    waiting = [experiment]
    while waiting:
        each = waiting.pop()
        names = [each.searched.experiment] if each.searched is not None else []
        names += [each.config.base] if each.family == "composed" else []
        waiting += [experiments[other] for other in names if other in experiments and other not in below | {each.name}]
        below.add(each.name)
    return name in below


def _target_faults(
    experiments: Mapping[str, "Experiment"], declared: Mapping[str, list[str]], experiment: "Experiment", what: str
) -> list[str]:
    """Faults of the experiment that a search or a study names: it must train, on the data that the entry names."""
    found = _reference(experiments, declared, experiment, "experiment", TARGETS)
    target = experiments.get(experiment.config.experiment)
    if target is None:
        return found
    where = f"{experiment.family}.{experiment.name}"
    found += _data_faults(where, experiment.dataset, target)
    if "train" not in type(target.config).model_fields:
        found.append(f"{where}.experiment: {target.name!r} trains nothing, so there is nothing to {what}")
    return found


def _data_faults(where: str, dataset: str, target: "Experiment") -> list[str]:
    """Faults of the data set of an entry about another experiment: it must be that one's."""
    if dataset == target.dataset:
        return []
    return [f"{where}.dataset: must be {target.dataset!r}, that of {target.name!r}; got {dataset!r}"]


def _found_for_faults(
    declared: Mapping[str, list[str]], experiments: Mapping[str, "Experiment"], name: str, entry: SearchedEntry
) -> list[str]:
    """Faults of the experiment that a searched one is, and of what makes the two compare."""
    where, target = f"searched.{name}", experiments.get(entry.experiment)
    known = [other for family in TARGETS for other in declared[family]]
    if entry.experiment not in known:
        hint = f"{' or '.join(TARGETS)}{suggest(entry.experiment, known)}"
        return [f"{where}.experiment: no experiment {entry.experiment!r} is declared in {hint}"]
    if target is None:
        return []
    found = _data_faults(where, entry.dataset, target)
    lacking = [seed for seed in entry.seeds if seed not in target.seeds]
    if lacking:
        has = f"{target.name!r} has {list(target.seeds)}"
        found.append(f"{where}.seeds: must be among the experiment's, to be compared with it; {has}, not {lacking}")
    return found


def _found_by_faults(
    declared: Mapping[str, list[str]], experiments: Mapping[str, "Experiment"], name: str, entry: SearchedEntry
) -> list[str]:
    """Faults of the search of a searched experiment: what it varied, and what it has seen."""
    where, search = f"searched.{name}", experiments.get(entry.from_search)
    if entry.from_search not in declared["search"]:
        hint = suggest(entry.from_search, declared["search"])
        return [f"{where}.from_search: no search {entry.from_search!r} is declared{hint}"]
    if search is None or search.family != "search":  # it has faults of its own
        return []
    if search.config.experiment != entry.experiment:
        return [f"{where}.from_search: {search.name!r} varies {search.config.experiment!r}, not {entry.experiment!r}"]
    return [
        f"{where}.seeds: {seed} is a seed that {search.name!r} searched with; take others"
        for seed in entry.seeds
        if seed in search.seeds
    ]


def _evaluation_faults(
    experiments: Mapping[str, "Experiment"], declared: Mapping[str, list[str]], evaluation: "Experiment"
) -> list[str]:
    """Faults of an evaluation: a generator that lacks what is evaluated, an extractor of no classes of these images."""
    where, config = f"evaluation.{evaluation.name}", evaluation.config
    generator, extractor = experiments.get(config.generator), experiments.get(config.extractor)
    found = _reference(experiments, declared, evaluation, "generator", GENERATORS)
    if generator is not None and generator.family in GENERATORS:
        found += _data_faults(where, evaluation.dataset, generator)
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


def _offers(experiment: "Experiment", function: str) -> bool:
    """Whether the method of an experiment has a function."""
    return catalogue.offers(catalogue.SECTIONS[experiment.family], experiment.method, function)


def _studied_metric_faults(experiments: Mapping[str, "Experiment"], study: "Experiment") -> list[str]:
    """Faults of a study's metric that the experiment will not have."""
    target, metric = experiments.get(study.config.experiment), getattr(study.config, "metric", None)
    metrics = measured(target, experiments) if target is not None else None
    if metric is None or not metrics or metric in metrics:
        return []
    assert target is not None
    hint = suggest(metric, metrics)
    return [f"study.{study.name}.metric: {target.name!r} will not have {metric!r}{hint}"]


def _need_faults(experiments: Mapping[str, "Experiment"], experiment: "Experiment", key: str) -> list[str]:
    """Faults of a key that names an experiment whose method lacks the function that this one's needs, if any."""
    target = experiments.get(getattr(experiment.config, key))
    needs = catalogue.class_constant(catalogue.SECTIONS[experiment.family], experiment.method, "needs", None)
    if target is None or needs is None or _offers(target, needs):
        return []
    hint = suggest(target.name, [name for name, other in experiments.items() if _offers(other, needs)])
    where = f"{experiment.family}.{experiment.name}.{key}"
    return [f"{where}: {target.name!r} is of {target.method!r}, which has no {needs!r}{hint}"]


def _objective_faults(experiments: Mapping[str, "Experiment"], search: "Experiment", target: "Experiment") -> list[str]:
    """Faults of what judges a search's trials: something that looks at what they train, and has the metrics."""
    where, config = f"search.{search.name}", search.config
    looking = [
        name
        for name, other in experiments.items()
        if (other.family == "probe" and other.config.encoder == target.name)
        or (other.family == "evaluation" and other.config.generator == target.name)
    ]
    if config.objective not in [target.name, *looking]:
        hint = suggest(config.objective, [target.name, *looking])
        return [
            f"{where}.objective: {config.objective!r} does not measure what a trial of {target.name!r} trains{hint}"
        ]
    found = []
    if config.objective != target.name and config.pruner != "none" and "pruner" in config.model_fields_set:
        found.append(
            f"{where}.pruner: must be 'none', for {config.objective!r} measures a trial at its end alone; "
            f"got {config.pruner!r}"
        )
    metrics = measured(experiments[config.objective], experiments, trials=True)
    if metrics is None:
        return found
    for metric in config.directions:
        chooses = [name for name in metrics if name.startswith("validation/")]
        if metric not in [*chooses, NUM_PARAMETERS]:
            key = "metric" if metric == config.metric else "further_objectives"
            found.append(f"{where}.{key}: {config.objective!r} will not have {metric!r}{suggest(metric, chooses)}")
    return found


def _search_faults(
    experiments: Mapping[str, "Experiment"],
    declared: Mapping[str, list[str]],
    search: "Experiment",
    resolve: Resolve,
) -> list[str]:
    """Faults of a search: the experiment that it names, and paths that the experiment's entry does not have."""
    where, target = f"search.{search.name}", experiments.get(search.config.experiment)
    if target is not None and target.searched is not None:
        before, plain = target.searched.from_search, target.searched.experiment
        return [f"{where}.experiment: {target.name!r} has what {before!r} found; search {plain!r} itself"]
    found = _target_faults(experiments, declared, search, "search")
    if target is None:
        return found
    found += _objective_faults(experiments, search, target)
    return found + _space_faults(search, target, resolve)


def _space_faults(searching: "Experiment", target: "Experiment", resolve: Resolve) -> list[str]:
    """Faults of paths of a space that the target's entry does not have, and of values that it cannot have there."""
    found = []
    where = f"{searching.family}.{searching.name}"
    for path, dimension in searching.config.space.items():
        if path in FIXED:
            found.append(f"{where}.space.{path}: cannot be searched: trials are of one method, network and data")
            continue
        parents = conditions(searching.config.space, path)
        for value in dimension.ends():
            try:
                resolve(target.family, target.name, overridden(target.raw, {**parents, path: value}))
            except DeclarationError as error:
                found += [f"{where}.space.{path}: {value!r} does not fit: {fault}" for fault in error.faults]
                break
    return found
