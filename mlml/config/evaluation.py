"""What an evaluation looks at."""

from typing import Annotated

from pydantic import Field

from mlml.config.declared import Declared


class EvaluationConfig(Declared):
    """Base of the configs of mlml/evaluations.

    Where trials of a search are evaluated, what is said there of test is true of validation.

    Attributes:
        generator: the trained experiment that is evaluated; its seeds must hold the evaluation's.
        extractor: the `supervised` experiment that looks at the images: a classifier, or a tagger where words are
            looked for; its first seed, for all seeds of the generator.
    """

    generator: str
    extractor: str


class ComparingConfig(EvaluationConfig):
    """Base of those that compare a generator's images with real ones.

    Attributes:
        num_samples: images of each kind that are compared; as many as the smaller one of train and test has, where
            that is fewer; of a search's trials, of train and validation.
    """

    num_samples: Annotated[int, Field(ge=10)] = 10_000
