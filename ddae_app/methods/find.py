"""Finding the model that a run uses, and loading it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import file_digest
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddae_app.errors import ModelError
from ddae_app.methods import registry
from ddae_app.methods.base import StoredHarmonizer
from ddae_app.methods.modelfile import ModelInfo, read_model_info
from ddae_app.methods.registry import Method

PACKAGED = 'packaged'
"""The origin of a model that comes with the program."""


@dataclass(frozen=True)
class FoundModel:
    """A model and where it was found.

    Attributes
    ----------
    path : Path
    info : ModelInfo
    sha256 : str
    origin : str
        Which rule found it.
    """

    path: Path
    info: ModelInfo
    sha256: str
    origin: str

    @property
    def method(self) -> Method:
        """The row of its method."""
        return registry.METHODS[self.info.method]

    def describe(self) -> str:
        """One line for the log."""
        kind = 'PHANTOM model, of simulated scans only' if self.info.phantom else 'model'
        return (
            f'{kind} {self.info.name!r} from {self.path} ({self.origin}); '
            f'sites: {", ".join(self.info.sites)}; SHA-256 {self.sha256[:16]}'
        )

    def describe_site(self, site: str) -> str:
        """What a target site is, for the log: a site of the dataset may have its name."""
        n = self.info.training.subjects_per_site[self.info.sites.index(site)]
        packaged = '' if site in self.info.source_sites else 'packaged with the program, '
        return f'{site} ({packaged}{n} participants)'

    def reference(self, site: str) -> dict[str, list[float]]:
        """Brain-intensity quantiles of a site: ``levels``, ``p25``, ``median``, ``p75``."""
        row, quantiles = self.info.sites.index(site), self.info.quantiles
        tables = {'p25': quantiles.low, 'median': quantiles.median, 'p75': quantiles.high}
        return {'levels': list(quantiles.levels)} | {k: list(t[row]) for k, t in tables.items()}


def find_model(
    named: Path | None,
    environment: Path | None,
    trained: Sequence[Path],
    method: str | None = None,
    slices: str | None = None,
    *,
    flag: str = '--model',
) -> FoundModel:
    """The model of a run: ``--model``, ``$DDAE_MODEL``, the trained one, or the packaged.

    Parameters
    ----------
    named, environment : Path or None
        What ``--model`` and ``$DDAE_MODEL`` name.
    trained : sequence of Path
        The models that the train level wrote to the output folder.
    method : str, optional
        What the model has to be of.
    slices : {'all', 'medial'}, optional
        What the packaged model is to take; all by default.
    flag : str
        The flag that gave `named`, for messages.

    Raises
    ------
    ModelError
        The file is missing, corrupt, of another version or of another method than was asked
        for, or several were trained.
    """
    if named is not None or environment is not None:
        origin = 'DDAE_MODEL' if named is None else flag
        model = _read(named or environment or Path(), origin)
        if method not in (None, model.info.method):
            raise ModelError(
                f'{model.path} ({origin}) is a model of {model.info.method}, where one of '
                f'{method} is expected; give another model, or another --method'
            )
        return model
    fitting = [model for model in read_models(trained) if method in (None, model.info.method)]
    if len(fitting) > 1:
        raise ModelError(
            f'{fitting[0].path.parent} holds {len(fitting)} models '
            f'({", ".join(model.path.name for model in fitting)}); choose one with --model'
            + ('' if method else ' or --method')
        )
    if fitting:
        return fitting[0]
    if method not in (None, registry.DEFAULT):
        raise ModelError(
            f'--method {method}: the output folder holds no such model; fit one (ddae-app '
            f'BIDS_DIR OUTPUT_DIR train --method {method}), or name one with --model'
        )
    return packaged_model(slices or 'all')


def packaged_model(slices: str) -> FoundModel:
    """The model that comes with the program, for whole volumes or the medial slice.

    Its networks learned from scanners drawn at random, to serve any; its sites are the packaged
    references.
    """
    return _read(
        Path(str(files('ddae_app') / 'data' / f'universal-{slices}.safetensors')), PACKAGED
    )


def read_models(paths: Sequence[Path]) -> list[FoundModel]:
    """The models in files that the train level wrote.

    Raises
    ------
    ModelError
        If a file is no model.
    """
    return [_read(path, 'made in this output folder') for path in paths]


def load_harmonizer(path: str | Path, **options: Any) -> StoredHarmonizer:
    """The harmonizer in a model file, whatever its method.

    Parameters
    ----------
    path : path
    **options
        ``device``, ``batch_size``, ``steps``, ``unseen_site``, ``keep_noise``. Those that the
        method has no use for are left out: whether it supports what a user asked for is checked
        before (:func:`ddae_app.methods.compatibility.check_options`).

    Raises
    ------
    ModelError
        If the file is unusable.
    UsageError
        If the device is not there.
    """
    method = registry.METHODS[read_model_info(path).method]
    taken = {name: value for name, value in options.items() if method.supports(name)}
    return registry.imported(method.loader)(path, **taken)


def _read(path: Path, origin: str) -> FoundModel:
    info = read_model_info(path)
    with path.open('rb') as file:
        return FoundModel(path, info, file_digest(file, 'sha256').hexdigest(), origin)
