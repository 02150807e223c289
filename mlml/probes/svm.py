"""A support vector machine on frozen features (Cortes & Vapnik 1995, "Support-vector networks")."""

from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from mlml.config import Declared, LabelFraction
from mlml.probes._features import FeatureSet

KERNELS = {"linear": "linear", "rbf": "rbf", "polynomial": "poly"}
"""Name in the declaration -> scikit-learn's."""


class SVM:
    """One machine for each penalty and gamma; the one that is best on validation is read on test, once.

    With x, y features: linear <x, y>; rbf exp(-g |x - y|^2); polynomial (g <x, y> + offset)^degree, where g is gamma
    over the width of the features. Classes are told apart in pairs, which vote. Features are standardised. Training is
    scikit-learn's, on the processor, and takes at least the square of the train images: give many a `label_fraction`.
    """

    measures = ("accuracy",)

    class Config(Declared):
        """Numbers of the machine; `encoder` names the experiment whose encoder is evaluated.

        Attributes:
            penalties: of a train image on the wrong side of its margin, the paper's C; the first of equals is taken.
            gammas: times 1 / width of the features; the linear kernel has none.
            degree: of the polynomial.
            offset: of the polynomial.
        """

        encoder: str
        label_fraction: LabelFraction = 1.0
        kernel: Literal["linear", "rbf", "polynomial"] = "rbf"
        penalties: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.01, 0.1, 1.0, 10.0, 100.0)
        gammas: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0,)
        degree: PositiveInt = 3
        offset: NonNegativeFloat = 1.0

        @model_validator(mode="after")
        def _fits(self) -> "SVM.Config":
            if self.kernel == "linear" and self.gammas != (1.0,):
                raise ValueError(f"gammas must not be given with the kernel 'linear'; got {list(self.gammas)}")
            return self

    def __init__(self, config: Config) -> None:
        self.config = config

    def evaluate(self, features: FeatureSet, seed: int, folder: Path) -> dict[str, float]:
        """Return the accuracies of the chosen machine on validation and test, and its numbers. No seed matters."""
        train, validation, test = (
            (part.features.cpu().double().numpy(), part.labels.cpu().numpy()) for part in features.standardised()[:3]
        )
        best: tuple[float, float, float, Any] | None = None
        for penalty, gamma in product(self.config.penalties, self.config.gammas):
            machine = self.machine(penalty, gamma / train[0].shape[1]).fit(*train)
            accuracy = float(machine.score(*validation))
            if best is None or accuracy > best[0]:
                best = (accuracy, penalty, gamma, machine)
        assert best is not None
        chosen = {"penalty": best[1]} | ({} if self.config.kernel == "linear" else {"gamma": best[2]})
        return {"validation/accuracy": best[0], "test/accuracy": float(best[3].score(*test)), **chosen}

    def machine(self, penalty: float, gamma: float) -> Any:
        """Return scikit-learn's estimator, not yet fitted."""
        from sklearn.svm import SVC

        config = self.config
        return SVC(C=penalty, kernel=KERNELS[config.kernel], gamma=gamma, degree=config.degree, coef0=config.offset)
