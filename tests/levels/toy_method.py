"""A toy method, as a contributor would write it: one file, and one row of the registry.

It multiplies each scan so that the median intensity of its brain is that of the target site.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy

from ddae_app.files import write_atomically
from ddae_app.methods.base import (
    TrainedModel,
    TrainingRequest,
    check_request,
    cohort_of,
    model_info,
    training_data,
)
from ddae_app.methods.modelfile import ModelInfo, metadata_of, open_model, parse_info
from ddae_app.methods.registry import Method
from ddae_app.settings import Protocol

# start of the row
ROW = Method(
    label='Toy',
    description='Intensities were scaled so that the median of each scan is that of the target '
    'site, a simple location and scale correction [@johnson2007].',
    card='A toy method',
    loader='tests.levels.toy_method:ToyHarmonizer.load',
    trainer='tests.levels.toy_method:train_model',
    software=('numpy',),
)
# end of the row


# start of the method
@dataclass(frozen=True)
class ToyHarmonizer:
    """Sets the median intensity of the brain."""

    medians: np.ndarray | None = None
    known: ModelInfo | None = None
    protocol: Protocol = Protocol()

    @property
    def info(self) -> ModelInfo:
        """What its file says of itself."""
        assert self.known is not None
        return self.known

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that it was fitted on."""
        return self.info.sites

    def fit(self, images: np.ndarray, cohort: pd.DataFrame) -> ToyHarmonizer:
        """A copy fitted to these scans."""
        data = training_data(images, cohort)
        medians = np.array([np.median(image[image > 0]) for image in data.images])
        sites = np.array(data.sites)
        of_sites = np.array([np.median(medians[sites == site]) for site in data.site_names])
        return replace(self, medians=of_sites, known=model_info('toy', data, self.protocol))

    def transform(self, images: np.ndarray, cohort: pd.DataFrame, target_site: str) -> np.ndarray:
        """Scans at the target site."""
        check_request(images, cohort, target_site, self.sites)
        assert self.medians is not None
        wanted = self.medians[self.sites.index(target_site)]
        scaled = [x * (wanted / np.median(x[x > 0])) if x.any() else x for x in images]
        return np.stack(scaled).astype(np.float32)

    def facts(self) -> dict[str, Any]:
        """What it does, for sidecars."""
        return {'LabelBlind': True}

    def save(self, path: str | Path) -> None:
        """Write it to one file."""
        assert self.medians is not None
        content = safetensors.numpy.save({'medians': self.medians}, metadata_of(self.info))
        write_atomically(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> ToyHarmonizer:
        """Read what :meth:`save` wrote."""
        with open_model(Path(path), 'np') as file:
            info = parse_info(Path(path), file.metadata() or {}, 'toy')
            return cls(file.get_tensor('medians'), info, info.protocol)


def train_model(request: TrainingRequest) -> TrainedModel:
    """Fit it for the train level."""
    fitted = ToyHarmonizer(protocol=request.protocol)
    fitted = fitted.fit(request.data.images, cohort_of(request.data))
    return request.saved(replace(fitted, known=request.identified(fitted.info)))


# end of the method
