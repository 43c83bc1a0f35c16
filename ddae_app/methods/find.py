"""Finding the model that a run uses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import file_digest
from importlib.resources import files
from pathlib import Path

from ddae_app.errors import ModelError, UsageError
from ddae_app.methods.ddae.config import PRESETS, Preset
from ddae_app.methods.modelfile import ModelInfo, read_model_info
from ddae_app.settings import Protocol

PHANTOM_MODEL = 'phantom-tiny.safetensors'
"""The packaged model, trained on simulated scanners by ``make demo-model``."""

SLICE_NETWORKS = ('cvae', 'style-gan')
"""Methods that take single slices only: the paper's baselines that are networks."""

FEWEST_PEOPLE = 5
"""With fewer, the look of a site is worse known from its scans than from each scan itself."""


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

    def describe(self) -> str:
        """One line for the log."""
        kind = 'PHANTOM model, of simulated scanners only' if self.info.phantom else 'model'
        return (
            f'{kind} {self.info.name!r} from {self.path} ({self.origin}); '
            f'sites: {", ".join(self.info.sites)}; SHA-256 {self.sha256[:16]}'
        )

    def reference(self, site: str) -> dict[str, list[float]]:
        """Brain-intensity quantiles of a site: ``levels``, ``p25``, ``median``, ``p75``."""
        row, quantiles = self.info.sites.index(site), self.info.quantiles
        tables = {'p25': quantiles.low, 'median': quantiles.median, 'p75': quantiles.high}
        return {'levels': list(quantiles.levels)} | {k: list(t[row]) for k, t in tables.items()}


def find_model(
    named: Path | None, environment: Path | None, output_dir: Path, method: str | None = None
) -> FoundModel:
    """The model of a run: ``--model``, ``$DDAE_MODEL``, ``<output_dir>/models/``, the packaged.

    Raises
    ------
    ModelError
        The file is missing, corrupt, of another version or of another method than was asked
        for, or several lie in the folder.
    """
    if named is not None or environment is not None:
        origin = 'DDAE_MODEL' if named is None else '--model'
        found = _read(named or environment or Path(), origin)
        if method not in (None, found.info.method):
            raise ModelError(
                f'--method {method}: {found.path} ({origin}) is a model of {found.info.method}; '
                'leave --method out, or give another model'
            )
        return found
    folder = output_dir / 'models'
    trained = [
        found
        for found in trained_models(output_dir)
        if found.info.method == (method or found.info.method)
    ]
    if len(trained) > 1:
        raise ModelError(
            f'{folder} holds {len(trained)} models '
            f'({", ".join(found.path.name for found in trained)}); choose one with --model'
            + ('' if method else ' or --method')
        )
    if trained:
        return trained[0]
    if method not in (None, 'ddae'):
        raise ModelError(
            f'--method {method}: {folder} holds no such model; fit one (ddae-app BIDS_DIR '
            f'OUTPUT_DIR train --method {method}), or name one with --model'
        )
    return _read(Path(str(files('ddae_app') / 'data' / PHANTOM_MODEL)), 'packaged')


def trained_models(output_dir: Path) -> list[FoundModel]:
    """The models that the train level left in an output folder, by name.

    Raises
    ------
    ModelError
        If a file is no model.
    """
    files = sorted((output_dir / 'models').glob('*.safetensors'))
    return [_read(path, 'trained in this output folder') for path in files]


def check_options(model: FoundModel, unseen_site: str, keep_noise: bool) -> None:
    """Refuse what only a DDAE can do of a model of another method.

    Raises
    ------
    UsageError
    """
    for flag, asked in (
        (f'--unseen-site {unseen_site}', unseen_site != 'refuse'),
        ('--keep-noise', keep_noise),
    ):
        if asked and model.info.method != 'ddae':
            raise UsageError(
                f'{flag}: {model.info.name!r} is a model of {model.info.method}, which cannot; '
                'leave the flag out, or give a DDAE'
            )


def check_target(model: FoundModel, target_site: str | None) -> str:
    """The target site, if the model knows it.

    Raises
    ------
    UsageError
        Not given, or not one of the model's.
    """
    if target_site not in model.info.sites:
        found = 'is missing' if target_site is None else f'{target_site!r} is unknown to the model'
        raise UsageError(
            f'--target-site {found}; {model.info.name!r} knows {", ".join(model.info.sites)}'
        )
    return target_site


def too_few_to_adapt(site: str, people: int) -> str:
    """Why ``--unseen-site adapt`` cannot be done for a site."""
    return (
        f'site {site} is unknown to the model, and --unseen-site adapt needs preprocessed scans '
        f'of {FEWEST_PEOPLE} of its people, {people} are there; preprocess more of them, or give '
        '--unseen-site agnostic'
    )


def check_protocol(model: FoundModel, template: str | None, slices: str | None) -> Protocol:
    """The model's preprocessing protocol, if it is what was asked for.

    Raises
    ------
    ModelError
        A flag asks for another template or other slices.
    """
    protocol = model.info.protocol
    for flag, asked, needed in (
        ('--template', template, protocol.template),
        ('--slices', slices, protocol.slices),
    ):
        if asked is not None and asked != needed:
            raise ModelError(
                f'{flag} {asked}: the model {model.info.name!r} was trained with {needed}; '
                f'leave the flag out, or give a model that was trained with {asked}'
            )
    return protocol


def training_preset(name: str, images: int | None) -> Preset:
    """A preset, with another length of training where one is asked for."""
    preset = PRESETS[name]
    if images is None:
        return preset
    # Averaging and warm-up keep their share of the run.
    shrink = min(1.0, images / preset.train.images)
    train = replace(
        preset.train,
        images=images,
        warmup_images=int(preset.train.warmup_images * shrink),
        ema_halflife_images=max(1, int(preset.train.ema_halflife_images * shrink)),
        validation_interval_images=max(1, int(preset.train.validation_interval_images * shrink)),
    )
    return replace(preset, train=train)


def _read(path: Path, origin: str) -> FoundModel:
    info = read_model_info(path)
    with path.open('rb') as file:
        return FoundModel(path.resolve(), info, file_digest(file, 'sha256').hexdigest(), origin)
