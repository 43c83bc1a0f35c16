"""Train level: fit a model to every scan of a dataset."""

from __future__ import annotations

import logging
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.dataset import dataset_name, is_phantom, write_description
from ddae_app.bids.names import Scan
from ddae_app.errors import DdaeError, UsageError
from ddae_app.files import staged
from ddae_app.harmonize.device import resolve_device
from ddae_app.harmonize.models import training_preset
from ddae_app.imaging import volumes
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.slices import training_slices
from ddae_app.levels.participant import protocol_without_model
from ddae_app.levels.preparation import (
    check_sites_known,
    derivative_roots,
    find_preprocessed,
    output_space,
    preprocess_missing,
    select_scans,
)
from ddae_app.reports.charts import plot_losses
from ddae_app.settings import Protocol, Settings
from ddae_app.training.dataset import SliceData
from ddae_app.training.loop import Progress, train

log = logging.getLogger('ddae_app')


def run_train(settings: Settings, log_dir: Path) -> int:
    """Preprocess whoever is not, train a model, and write it to ``<output_dir>/models/``.

    Parameters
    ----------
    settings : Settings
    log_dir : Path
        Folder of this run's logs.

    Returns
    -------
    int
        0 if every scan took part in training, else 1.

    Raises
    ------
    DdaeError
        Something is wrong that concerns every scan.
    """
    scans, cohort = select_scans(settings)
    check_sites_known(settings, cohort)
    protocol = protocol_without_model(settings)
    space = output_space(protocol)
    write_description(settings.output_dir, settings.bids_dir)
    failures = {
        scan: 'its site is not known; fill in the site column, or leave the scan out'
        for scan in scans
        if cohort[scan].site is None
    }
    usable = [scan for scan in scans if scan not in failures]
    failures |= preprocess_missing(settings, usable, cohort, space, log_dir)
    folder = settings.run.work_dir.resolve() / 'train' / settings.train.model_name
    data, unusable = _gather(settings, usable, cohort, space, folder)
    failures = unusable | failures
    _check_enough(data)
    counts = Counter(data.sites)
    log.info('training slices: %s', ', '.join(f'{site} {n}' for site, n in counts.items()))
    preset = training_preset(settings.train.preset, settings.train.train_images)
    with _progress(preset.train.images) as progress:
        path = train(
            data,
            preset.model,
            preset.train,
            protocol,
            folder,
            device=resolve_device(settings.harmonize.device),
            seed=settings.random_seed,
            name=settings.train.model_name,
            dataset=dataset_name(settings.bids_dir),
            phantom=is_phantom(settings.bids_dir),
            progress=progress,
        )
    _publish(path, settings.output_dir / 'models')
    for scan, reason in failures.items():
        log.error('%s was left out: %s', scan.stem, reason)
    return 1 if failures else 0


def _gather(
    settings: Settings,
    scans: Sequence[Scan],
    cohort: Cohort,
    space: sidecars.Space,
    folder: Path,
) -> tuple[SliceData, dict[Scan, str]]:
    """All slices, in one file that is mapped into memory, and what is known of each."""
    protocol, roots = space.protocol, derivative_roots(settings)
    owners: list[Scan] = []
    unusable: dict[Scan, str] = {}
    store = folder / 'slices.f32'
    with staged(store) as temporary, temporary.open('wb') as file:
        for scan in scans:
            try:
                stack = _slices_of(scan, space, roots)
            except DdaeError as e:
                unusable[scan] = str(e)
                continue
            file.write(stack.tobytes())
            owners += [scan] * len(stack)
    if not owners:
        raise UsageError('no scan could be preprocessed, so there is nothing to train on')
    known = [cohort[scan] for scan in owners]
    return SliceData(
        images=np.memmap(
            store, dtype=np.float32, mode='r', shape=(len(owners), *protocol.slice_shape)
        ),
        sites=tuple(c.site or '' for c in known),
        ages=np.array([c.age for c in known]),
        sexes=tuple(c.sex for c in known),
        subjects=tuple(scan.participant for scan in owners),
    ), unusable


def _slices_of(scan: Scan, space: sidecars.Space, roots: list[Path]) -> np.ndarray:
    found = find_preprocessed(scan, space, roots)
    if found is None:
        raise DdaeError('it was not preprocessed')
    image, mask = (np.asarray(volumes.read(path).dataobj) for path in found)
    protocol: Protocol = space.protocol
    grid = model_grid(protocol.template, protocol.grid)
    return training_slices(image, mask > 0, grid, protocol)


def _check_enough(data: SliceData) -> None:
    if len(data.site_names) < 2:
        raise UsageError(
            f'all scans come from {data.site_names[0]}; a model that tells sites apart needs at '
            'least two (is --site-column right?)'
        )


class _progress:  # noqa: N801 - used like a function
    """A progress bar on a terminal, a line now and then elsewhere."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.bar = tqdm(total=images, unit='img', disable=not sys.stderr.isatty(), leave=False)
        self.said = 0

    def __enter__(self) -> Callable[[Progress], None]:
        return self._tell

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def _tell(self, now: Progress) -> None:
        loss = f'loss {now.loss:.4f}'
        if now.validation_loss is not None:
            loss += f', validation {now.validation_loss:.4f}'
        self.bar.set_postfix_str(loss)
        self.bar.update(min(now.images_seen, self.images) - self.bar.n)
        twentieth = now.images_seen * 20 // self.images
        if self.bar.disable and twentieth > self.said:
            self.said = twentieth
            log.info(
                'trained on %d of %d images, %s, %.0f s left',
                min(now.images_seen, self.images), self.images, loss, now.seconds_left,
            )  # fmt: skip


def _publish(bundle: Path, models: Path) -> None:
    model = models / bundle.name
    losses = models / f'{bundle.stem}_losses.tsv'
    for source, target in ((bundle, model), (bundle.with_name('losses.tsv'), losses)):
        with staged(target) as temporary:
            shutil.copyfile(source, temporary)
    plot_losses(losses, losses.with_suffix('.svg'))
    log.info('model: %s', model)
    log.info('training curve: %s', losses.with_suffix('.svg'))
