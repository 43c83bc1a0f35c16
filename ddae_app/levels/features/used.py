"""The model of features that a run uses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import file_digest
from pathlib import Path

from ddae_app.features.matrix import FeatureMatrix
from ddae_app.features.model import FeatureModel
from ddae_app.features.people import RowLabels


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
    calibrated : tuple of str
        Sites of the model that its file does not know, which were measured in rows of this run.
    """

    path: Path
    model: FeatureModel
    sha256: str
    fitted_here: bool = False
    calibrated: tuple[str, ...] = ()

    @property
    def fitted_sites(self) -> tuple[str, ...]:
        """The sites that the model was fitted to."""
        sites = self.model.info.sites
        return sites[: len(sites) - len(self.calibrated)]

    def unchanged(self, table: FeatureMatrix) -> tuple[str, ...]:
        """The features of a table or of maps that stay as they are, in their order.

        Of maps, these may be other vertices than in the people whom the model was fitted to, since
        the edge of the medial wall differs.
        """
        harmonized = {*self.model.info.features}
        return tuple(name for name in table.features if name not in harmonized)

    def calibrated_to(self, table: FeatureMatrix, labels: RowLabels) -> UsedModel:
        """With the sites of some rows that it does not know, measured in these rows.

        Raises
        ------
        UsageError
            See :meth:`ddae_app.features.model.FeatureModel.calibrated`.
        """
        model = self.model.calibrated(table, labels)
        return replace(
            self, model=model, calibrated=model.info.sites[len(self.model.info.sites) :]
        )

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
        return cls(path, model, sha256, fitted_here)
