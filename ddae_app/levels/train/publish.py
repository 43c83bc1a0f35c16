"""A trained model is brought to the output folder, with its card and its figures."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from ddae_app.bids.dataset import license_of
from ddae_app.bids.layout import ModelFiles
from ddae_app.errors import UsageError
from ddae_app.files import staged, sync, write_atomically
from ddae_app.levels.train.card import make_card
from ddae_app.methods.base import TrainedModel
from ddae_app.methods.data import SliceData
from ddae_app.methods.find import load_harmonizer
from ddae_app.methods.samples import Samples, transformed_samples
from ddae_app.reports.card import format_card
from ddae_app.reports.charts import plot_losses
from ddae_app.reports.samples import plot_samples
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')


def check_replaceable(files: ModelFiles) -> None:
    """Refuse to replace a model that was not trained here.

    Raises
    ------
    UsageError
    """
    if files.model.exists() and not files.card.exists():
        raise UsageError(
            f'{files.model} is there without {files.card.name}, so it comes from elsewhere; give '
            'another --model-name'
        )


def draw(samples: Samples, path: Path, title: str) -> None:
    """Draw one scan of each site, rendered at every site."""
    plot_samples(samples.images, samples.sites, path, title)


def publish(
    settings: Settings,
    files: ModelFiles,
    trained: TrainedModel,
    data: SliceData,
    warnings: tuple[str, ...],
) -> None:
    """Copy the model out of the work directory, after its card and its figures."""
    written = {'model': files.model}
    copies = {}
    if trained.losses:
        copies[trained.losses] = files.losses
        written['training curve'] = files.loss_curve
    if trained.samples:
        copies[trained.samples] = files.samples
        written['samples'] = files.samples
    for source, target in copies.items():
        _copy(source, target)
    if trained.losses:
        plot_losses(files.losses, files.loss_curve)
    harmonizer = load_harmonizer(trained.path, device=settings.harmonize.device)
    if not trained.samples and data.depth == 1:
        written['samples'] = files.samples
        draw(transformed_samples(harmonizer, data), files.samples, files.name)
    data_license = license_of(settings.bids_dir)
    card = make_card(harmonizer, data, trained.held_out, data_license, warnings)
    write_atomically(files.card, format_card(card))
    # An earlier model of this name may have come with more, which would be taken for this one's.
    beside = {files.losses, files.loss_curve, files.samples}
    for path in beside.difference(copies.values(), written.values()):
        path.unlink(missing_ok=True)
    # Last: a model without a card was not trained here.
    _copy(trained.path, files.model)
    for what, path in (written | {'card': files.card}).items():
        log.info('%s: %s', what, path)


def _copy(source: Path, target: Path) -> None:
    with staged(target) as temporary, source.open('rb') as read, temporary.open('wb') as written:
        shutil.copyfileobj(read, written)
        sync(written)
