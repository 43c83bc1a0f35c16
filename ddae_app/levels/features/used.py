"""The model of features that a run uses."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from ddae_app.features.model import FeatureModel


@dataclass(frozen=True)
class UsedModel:
    """The model of a run.

    Attributes
    ----------
    path : Path
    model : FeatureModel
    sha256 : str
    fitted_here : bool
        Whether this run fitted it, to the rows that it harmonizes.
    """

    path: Path
    model: FeatureModel
    sha256: str
    fitted_here: bool = False

    @classmethod
    def read(cls, path: Path, *, fitted_here: bool = False) -> UsedModel:
        """Load a model file.

        Raises
        ------
        ModelError
            It is none, or damaged.
        """
        model = FeatureModel.load(path)
        with path.open('rb') as file:
            return cls(path, model, file_digest(file, 'sha256').hexdigest(), fitted_here)
