"""An experiment with what a search found."""

from mlml.config.declared import Declared, Seeds


class SearchedEntry(Declared):
    """An entry of `searched`: another experiment, with the best values of a search of it.

    Attributes:
        experiment: the experiment that the search varied; all that the search did not vary is its.
        from_search: the search.
        dataset: the experiment's.
        seeds: some of the experiment's, so that the two compare seed by seed, and none of the search's, which chose
            the values that are best for its own.
    """

    experiment: str
    from_search: str
    dataset: str
    seeds: Seeds
