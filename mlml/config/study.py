"""What a study looks at."""

from mlml.config.declared import Declared


class StudyConfig(Declared):
    """Base of the configs of mlml/studies.

    Attributes:
        experiment: the trained experiment that is studied; its seeds must hold the study's.
    """

    experiment: str
