"""Train level: fit a model to every scan of a dataset."""

from __future__ import annotations

import logging
import math
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from ddae_app.bids import sidecars
from ddae_app.bids.dataset import dataset_name, is_phantom, licence, write_description
from ddae_app.bids.layout import Scan
from ddae_app.engine.inputs import (
    check_sites_known,
    derivative_roots,
    find_preprocessed,
    output_space,
    select_scans,
)
from ddae_app.engine.plan import (
    judge_preprocessing,
    listing,
    preprocess_missing,
    summary,
)
from ddae_app.errors import DdaeError, UsageError
from ddae_app.files import staged, write_atomically
from ddae_app.imaging import volumes
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.slices import training_stacks
from ddae_app.levels.participant.level import protocol_without_model
from ddae_app.levels.train.baselines import BASELINES, fit_baseline, images_to_see
from ddae_app.levels.train.card import make_card
from ddae_app.methods.data import SliceData, split_subjects
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.parallel import others_needed, start_fabric
from ddae_app.methods.ddae.train import LOSSES_NAME, Progress, train
from ddae_app.methods.device import resolve_device
from ddae_app.methods.find import (
    SLICE_NETWORKS,
    FoundModel,
    check_protocol,
    find_model,
    training_preset,
)
from ddae_app.methods.load import load_harmonizer
from ddae_app.methods.samples import render_samples, transformed_samples
from ddae_app.methods.suitability import (
    FEWEST_PEOPLE,
    confounded_sites,
    sites_with_few_people,
)
from ddae_app.reports.card import format_card
from ddae_app.reports.charts import plot_losses
from ddae_app.reports.samples import plot_samples
from ddae_app.settings import Protocol, Settings, TrainSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger('ddae_app')

SAMPLES_NAME, STORE_NAME = 'samples.png', 'slices.f32'


def run_train(settings: Settings, log_dir: Path, local_processes: int = 1) -> int:
    """Preprocess whoever is not, train a model, and write it to ``<output_dir>/models/``.

    Parameters
    ----------
    settings : Settings
    log_dir : Path
        Folder of this run's logs.
    local_processes : int
        How many ``torchrun`` started on this node; the first one prepares for all.

    Returns
    -------
    int
        0 if every scan took part in training, else 1.

    Raises
    ------
    DdaeError
        Something is wrong that concerns every scan.
    """
    started = time.monotonic()
    initial = _initial_model(settings)
    protocol = (
        check_protocol(initial[0], settings.preproc.template, settings.preproc.slices)
        if initial
        else protocol_without_model(settings)
    )
    method = settings.harmonize.method
    if method in SLICE_NETWORKS and protocol.slices != 'medial':
        raise UsageError(
            f'--method {method} --slices {protocol.slices}: it takes one slice; give --slices '
            'medial'
        )
    if settings.run.dry_run:
        return _list(settings, protocol)
    device = resolve_device(settings.harmonize.device)
    fabric = start_fabric(device, settings.train.precision, local_processes)
    folder = settings.run.work_dir.resolve() / 'train' / model_name(settings)
    with others_needed(fabric):
        first = _prepare(settings, protocol, folder, log_dir) if fabric.is_global_zero else None
        prepared = fabric.broadcast(first)
        assert prepared is not None
        data = prepared.open(folder / STORE_NAME, protocol)
        if settings.harmonize.method in BASELINES:
            path = None
            if fabric.is_global_zero:
                with _progress(images_to_see(settings)) as progress:
                    path = fit_baseline(
                        settings, data, protocol, folder, model_name(settings), progress
                    )
        else:
            path = _train(settings, data, protocol, folder, initial, fabric, started)
        if path and fabric.is_global_zero:
            _publish(settings, path, data, prepared.warnings)
    for scan, reason in prepared.failures.items():
        log.error('%s was left out: %s', scan.stem, reason)
    return 1 if prepared.failures else 0


def _list(settings: Settings, protocol: Protocol) -> int:
    """Say on standard output which scans would be preprocessed for training, and write nothing."""
    scans, cohort = select_scans(settings)
    check_sites_known(settings, cohort)
    verdicts = judge_preprocessing(settings, scans, cohort, output_space(protocol))
    print('\n'.join(listing(verdicts)))
    for line in summary(verdicts):
        log.info('%s', line)
    counts = Counter(cohort[scan].site or 'not known' for scan in scans)
    log.info('scans to train on: %s', ', '.join(f'{site} {n}' for site, n in counts.items()))
    return 1 if 'not known' in counts else 0


def model_name(settings: Settings) -> str:
    """Of the model that is trained: by default that of the method."""
    return settings.train.model_name or settings.harmonize.method or 'ddae'


@dataclass(frozen=True)
class Prepared:
    """What is known of the scans that lie in the store, for every process.

    Attributes
    ----------
    sites, ages, sexes, subjects
        As in :class:`~ddae_app.methods.data.SliceData`.
    failures : dict of Scan to str
        Scans that are not among them, and why.
    warnings : tuple of str
        What is wrong with the cohort and was allowed.
    """

    sites: tuple[str, ...]
    ages: np.ndarray
    sexes: tuple[str | None, ...]
    subjects: tuple[str, ...]
    failures: dict[Scan, str]
    warnings: tuple[str, ...] = ()

    def open(self, store: Path, protocol: Protocol) -> SliceData:
        """The scans, mapped into memory, with their labels."""
        if not store.is_file():
            raise UsageError(
                f'{store} is not seen by this process, though the first one wrote it; give a '
                '--work-dir that all nodes share'
            )
        shape = (len(self.sites), protocol.depth, *protocol.slice_shape)
        images = np.memmap(store, dtype=np.float32, mode='r', shape=shape)
        return SliceData(images, self.sites, self.ages, self.sexes, self.subjects)


def _prepare(settings: Settings, protocol: Protocol, folder: Path, log_dir: Path) -> Prepared:
    """Preprocess whoever is not, and gather what training sees of all."""
    scans, cohort = select_scans(settings)
    check_sites_known(settings, cohort)
    space = output_space(protocol)
    write_description(settings.output_dir, settings.bids_dir)
    failures = {
        scan: 'its site is not known; fill in the site column, or leave the scan out'
        for scan in scans
        if cohort[scan].site is None
    }
    usable = [scan for scan in scans if scan not in failures]
    failures |= preprocess_missing(settings, usable, cohort, space, log_dir)
    owners, unusable = _gather(settings, usable, space, folder / STORE_NAME)
    known = [cohort[scan] for scan in owners]
    prepared = Prepared(
        sites=tuple(c.site or '' for c in known),
        ages=np.array([c.age for c in known]),
        sexes=tuple(c.sex for c in known),
        subjects=tuple(scan.participant for scan in owners),
        failures=unusable | failures,
    )
    data = prepared.open(folder / STORE_NAME, protocol)
    warnings = _check_cohort(data, settings.train)
    counts = Counter(data.sites)
    log.info('training slices: %s', ', '.join(f'{site} {n}' for site, n in counts.items()))
    return replace(prepared, warnings=warnings)


def _initial_model(settings: Settings) -> tuple[FoundModel, DDAEHarmonizer] | None:
    if settings.train.init_from is None:
        return None
    if settings.harmonize.method in BASELINES:
        method = settings.harmonize.method
        raise UsageError(f'--init-from: {method} is fitted anew each time; leave the flag out')
    found = find_model(settings.train.init_from, None, settings.output_dir, 'ddae')
    log.info('starting from %s', found.describe())
    return found, DDAEHarmonizer.load(found.path, settings.harmonize.device)


def _train(
    settings: Settings,
    data: SliceData,
    protocol: Protocol,
    folder: Path,
    initial: tuple[FoundModel, DDAEHarmonizer] | None,
    fabric: Fabric,
    started: float,
) -> Path | None:
    """Train to the end, or to the time limit, which gives None."""
    asked, hours = settings.train, settings.train.max_hours
    preset = training_preset(asked.preset, asked.train_images)
    model_config, notes, bundle = replace(preset.model, depth=protocol.depth), '', None
    if initial:
        found, harmonizer = initial
        model_config, bundle = harmonizer.info.config, harmonizer.bundle
        notes = f'started from {found.info.name}, SHA-256 {found.sha256}'
    _, held_out = split_subjects(data, preset.train.validation_fraction, settings.random_seed)

    def draw(model, images_seen: int) -> None:
        samples = render_samples(model, data, held_out)
        title = f'{model_name(settings)} after {images_seen:,} images'
        plot_samples(samples.images, samples.sites, folder / SAMPLES_NAME, title)

    with _progress(preset.train.images) as progress:
        path = train(
            data,
            model_config,
            preset.train,
            protocol,
            folder,
            fabric=fabric,
            seed=settings.random_seed,
            name=model_name(settings),
            dataset=dataset_name(settings.bids_dir),
            phantom=is_phantom(settings.bids_dir),
            notes=notes,
            initial=bundle,
            deadline=math.inf if hours is None else started + 3600 * hours,
            snapshot=draw,
            progress=progress,
        )
    if path is None:
        log.info(
            'stopped after --max-hours %g, before the end of training; to go on, run the same '
            'command again, with the same --work-dir', hours,
        )  # fmt: skip
    return path


def _gather(
    settings: Settings, scans: Sequence[Scan], space: sidecars.Space, store: Path
) -> tuple[list[Scan], dict[Scan, str]]:
    """Write all slices to one file; whose each is, and which scans have none."""
    roots = derivative_roots(settings)
    owners: list[Scan] = []
    unusable: dict[Scan, str] = {}
    with staged(store) as temporary, temporary.open('wb') as file:
        for scan in scans:
            try:
                stacks = _stacks_of(scan, space, roots)
            except DdaeError as e:
                unusable[scan] = str(e)
                continue
            file.write(stacks.tobytes())
            owners += [scan] * len(stacks)
    if not owners:
        raise UsageError('no scan could be preprocessed, so there is nothing to train on')
    return owners, unusable


def _stacks_of(scan: Scan, space: sidecars.Space, roots: list[Path]) -> np.ndarray:
    found = find_preprocessed(scan, space, roots)
    if found is None:
        raise DdaeError('it was not preprocessed')
    files = found.image, found.mask
    image, mask = (np.asarray(volumes.read(path).dataobj) for path in files)
    protocol: Protocol = space.protocol
    grid = model_grid(protocol.template, protocol.grid)
    return training_stacks(image, mask > 0, grid, protocol)


def _check_cohort(data: SliceData, asked: TrainSettings) -> tuple[str, ...]:
    """Refuse data from which no site can be learnt; what was allowed is told as a warning."""
    if len(data.site_names) < 2:
        raise UsageError(
            f'all scans come from {data.site_names[0]}; a model that tells sites apart needs at '
            'least two (is --site-column right?)'
        )
    few = [
        f'site {site} has {n} {"person" if n == 1 else "people"}, fewer than {FEWEST_PEOPLE}: '
        'what they happen to be may be taken for the site'
        for site, n in sites_with_few_people(data).items()
    ]
    confounded = [
        f'site {site} cannot be told from {reason}'
        for site, reason in confounded_sites(data).items()
    ]
    for found, allowed, flag in (
        (few, asked.allow_few_scans, '--allow-few-scans'),
        (confounded, asked.allow_confounding, '--allow-confounding'),
    ):
        if found and not allowed:
            raise UsageError(f'{found[0]}; leave its scans out, or give {flag}')
    for warning in (*few, *confounded):
        log.warning('%s', warning)
    return (*few, *confounded)


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


def _publish(settings: Settings, bundle: Path, data: SliceData, warnings: tuple[str, ...]) -> None:
    """Copy the model out of the work directory, with its card and what was drawn of it."""
    models, held_out = settings.output_dir / 'models', np.empty(0, dtype=int)
    model, made = models / bundle.name, {}
    copies = {bundle: model}
    if settings.harmonize.method not in BASELINES:
        losses = models / f'{bundle.stem}_losses.tsv'
        made = {
            'training curve': losses.with_suffix('.svg'),
            'samples': models / f'{bundle.stem}_samples.png',
        }
        copies[bundle.with_name(LOSSES_NAME)] = losses
        copies[bundle.with_name(SAMPLES_NAME)] = made['samples']
        fraction = training_preset(settings.train.preset, None).train.validation_fraction
        _, held_out = split_subjects(data, fraction, settings.random_seed)
    for source, target in copies.items():
        with staged(target) as temporary:
            shutil.copyfile(source, temporary)
    if 'training curve' in made:
        plot_losses(losses, made['training curve'])
    harmonizer = load_harmonizer(model, settings.harmonize.device)
    if settings.harmonize.method in BASELINES and data.depth == 1:
        made['samples'] = models / f'{bundle.stem}_samples.png'
        samples = transformed_samples(harmonizer, data)
        plot_samples(samples.images, samples.sites, made['samples'], bundle.stem)
    card = make_card(harmonizer, data, held_out, licence(settings.bids_dir), warnings)
    page = models / f'{bundle.stem}_MODEL.md'
    write_atomically(page, format_card(card).encode())
    for name, path in {'model': model, **made, 'card': page}.items():
        log.info('%s: %s', name, path)
