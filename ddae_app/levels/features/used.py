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
        Sites of these rows that its file does not know are measured, and were added.
    sha256 : str
    fitted_here : bool
        Whether this run fitted it, to the rows that it harmonizes.
    stored_sites : tuple of str
        Those that its file knows.
    """

    path: Path
    model: FeatureModel
    sha256: str
    fitted_here: bool = False
    stored_sites: tuple[str, ...] = ()

    @property
    def calibrated(self) -> tuple[str, ...]:
        """The sites that were measured in the rows of this run."""
        return self.model.info.sites[len(self.stored_sites) :]

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
            sha256 = file_digest(file, 'sha256').hexdigest()
        return cls(path, model, sha256, fitted_here, model.info.sites)
