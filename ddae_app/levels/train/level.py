"""Train level: fit a model to every scan of a dataset."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from ddae_app.bids.dataset import dataset_name, is_phantom
from ddae_app.bids.layout import Layout, RunFiles, SpaceLayout
from ddae_app.bids.output_folder import locked
from ddae_app.bids.scan import Scan
from ddae_app.engine.decision import listing, summary
from ddae_app.engine.inputs import (
    Selected,
    check_sites_known,
    check_understood,
    layout_of,
    protocol_without_model,
    select_scans,
)
from ddae_app.engine.plan import decide_preprocessing
from ddae_app.errors import ModelError, UsageError
from ddae_app.levels.train.command import next_command
from ddae_app.levels.train.data import check_cohort, of_no_site, people_of, prepare, to_use
from ddae_app.levels.train.publish import check_replaceable, draw, publish
from ddae_app.methods import registry
from ddae_app.methods.base import Progress, ProgressCallback, TrainingRequest
from ddae_app.methods.compatibility import check_protocol
from ddae_app.methods.data import SliceData
from ddae_app.methods.ddae.info import DDAEInfo
from ddae_app.methods.device import resolve_device
from ddae_app.methods.find import PACKAGED, FoundModel, find_model
from ddae_app.methods.modelfile import ModelIdentity, read_model_info
from ddae_app.methods.suitability import ages_beyond
from ddae_app.settings import CALIBRATED, Settings, TrainSettings

log = logging.getLogger('ddae_app')

STORE_NAME = 'slices.f32'


def run_train(settings: Settings, logs: RunFiles, local_processes: int = 1) -> int:
    """Preprocess scans that are not preprocessed yet, train a model, and write it.

    Parameters
    ----------
    settings : Settings
    logs : RunFiles
        Of this run.
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
    settings = _like_the_one_before(with_preset(settings))
    initial = _initial_model(settings)
    layout = _layout(settings, initial)
    if settings.run.dry_run:
        return _dry_run(settings, layout)
    failures, complete = _train(settings, logs, layout, initial, local_processes)
    for scan, reason in failures.items():
        log.error('%s was left out: %s', scan.stem, reason)
    # An interrupted training is resumed by the same command, which then names these scans again.
    return 1 if failures and complete else 0


def calibrate(
    settings: Settings, logs: RunFiles, selected: Selected | None = None
) -> dict[Scan, str]:
    """Calibrate the sites of a dataset for a run that goes on with the model.

    Nothing is done where another run has made the model by the time it is this one's turn.

    Parameters
    ----------
    settings : Settings
        With the preset that trains no network.
    logs : RunFiles
        Of this run.
    selected : tuple of list of Scan and Cohort, optional
        The scans of these settings, where they have been selected.

    Returns
    -------
    dict of Scan to str
        Scans that were left out, and why.

    Raises
    ------
    DdaeError
        Something is wrong that concerns every scan.
    """
    initial = _initial_model(settings)
    layout = _layout(settings, initial)
    return _train(settings, logs, layout, initial, selected=selected, unless_there=True)[0]


def _like_the_one_before(settings: Settings) -> Settings:
    """Settings with the slices of the calibration that is made anew, where none are asked for."""
    file = Layout(settings.output_dir).model(model_name(settings)).model
    asked = settings.preproc
    if settings.train.preset != CALIBRATED or asked.slices or settings.train.init_from:
        return settings
    if not file.is_file():
        return settings
    try:
        slices = read_model_info(file).protocol.slices
    except ModelError:  # a damaged one is made anew as well, and may be of any slices
        return settings
    return replace(settings, preproc=replace(asked, slices=slices))


def _layout(settings: Settings, initial: FoundModel | None) -> SpaceLayout:
    """The files of the output folder, in the space of the model."""
    name = _method(settings)
    if initial:
        asked = settings.preproc
        protocol = check_protocol(initial.info, asked.template, asked.slices)
    else:
        protocol = protocol_without_model(settings)
    if protocol.slices != 'medial' and not registry.METHODS[name].whole_scans:
        raise UsageError(
            f'--method {name} --slices {protocol.slices}: it takes one slice; give --slices medial'
        )
    return layout_of(settings, protocol)


def _train(
    settings: Settings,
    logs: RunFiles,
    layout: SpaceLayout,
    initial: FoundModel | None,
    local_processes: int = 1,
    *,
    selected: Selected | None = None,
    unless_there: bool = False,
) -> tuple[dict[Scan, str], bool]:
    """Train and write a model; the scans that were left out, and whether it came to its end.

    Of several processes, the first one tells of the scans.

    `unless_there` does nothing where another run has made the model by the time it is this one's
    turn; runs that calibrate take turns.
    """
    started = time.monotonic()
    from ddae_app.methods.parallel import others_needed, start_fabric  # takes seconds

    device = resolve_device(settings.harmonize.device)
    fabric = start_fabric(device, settings.train.precision, local_processes)
    files = layout.model(model_name(settings))
    check_replaceable(files)
    folder = settings.run.work_dir.resolve() / 'train' / files.name
    calibrates = settings.train.preset == CALIBRATED
    turn = locked(files.model) if calibrates and _first(fabric) else nullcontext()
    with turn, others_needed(fabric):
        if unless_there and files.is_made:
            log.info('%s was made by another run in the meantime', files.model)
            return {}, True
        first = None
        if _first(fabric):
            first = prepare(settings, layout, folder / STORE_NAME, logs, selected)
        prepared = fabric.broadcast(first)
        assert prepared is not None
        protocol = layout.space.protocol
        data = prepared.open(folder / STORE_NAME, protocol)
        warnings = (*prepared.warnings, *_beyond_packaged(initial, data))
        trained = None
        method = registry.METHODS[_method(settings)]
        if method.parallel or _first(fabric):
            with _progress() as progress:
                request = TrainingRequest(
                    data=data,
                    protocol=protocol,
                    folder=folder,
                    identity=ModelIdentity(
                        files.name, dataset_name(settings.bids_dir), is_phantom(settings.bids_dir)
                    ),
                    seed=settings.random_seed,
                    device=settings.harmonize.device,
                    images=settings.train.train_images,
                    preset=settings.train.preset,
                    initial=initial.path if initial else None,
                    deadline=_deadline(settings, started),
                    progress=progress,
                    draw=draw,
                    fabric=fabric,
                )
                trained = registry.imported(method.trainer)(request)
        if _first(fabric):
            if trained is None:
                log.info(
                    'stopped after --max-hours %g, before the end of training; to resume, run '
                    'the same command again, with the same --work-dir', settings.train.max_hours,
                )  # fmt: skip
            else:
                publish(settings, files, trained, data, warnings)
                if not unless_there:
                    log.info(
                        'to harmonize with this model: %s (--target-site help lists the names)',
                        next_command(settings, files.model),
                    )
    # torchrun ends all processes as soon as one fails, and the first may still write the model.
    return prepared.failures if _first(fabric) else {}, trained is not None


def _beyond_packaged(initial: FoundModel | None, data: SliceData) -> tuple[str, ...]:
    """A warning where scans are calibrated that packaged ones say little of."""
    if initial is None or initial.origin != PACKAGED or not isinstance(initial.info, DDAEInfo):
        return ()
    line = ages_beyond(data, initial.info.age_mean, initial.info.age_sd)
    if line is None:
        return ()
    log.warning('%s', line)
    return (line,)


def with_preset(settings: Settings) -> Settings:
    """Settings with the preset that ``auto`` stands for.

    Raises
    ------
    UsageError
        A flag was given that the method has no use for.
    """
    continues = registry.METHODS[_method(settings)].continues
    if not continues:
        _check_fitted_at_once(settings)
    if settings.train.preset != 'auto':
        return settings
    preset = CALIBRATED if continues else 'base'
    return replace(settings, train=replace(settings.train, preset=preset))


def _check_fitted_at_once(settings: Settings) -> None:
    """Refuse the flags of networks that are trained in stages, or not at all."""
    asked, given = settings.train, TrainSettings()
    for flag in 'preset', 'init_from':
        if (value := getattr(asked, flag)) != getattr(given, flag):
            raise UsageError(
                f'--{flag.replace("_", "-")} {value}: {_method(settings)} is fitted anew each '
                'time, in one way; leave the flag out'
            )


def model_name(settings: Settings) -> str:
    """What the model of a run is called."""
    return settings.train.model_name or (
        CALIBRATED if settings.train.preset == CALIBRATED else _method(settings)
    )


def _method(settings: Settings) -> str:
    return settings.harmonize.method or registry.DEFAULT


def _first(fabric: Any) -> bool:
    """Whether this process is the one that writes files."""
    return fabric.is_global_zero


def _deadline(settings: Settings, started: float) -> float:
    hours = settings.train.max_hours
    return math.inf if hours is None else started + 3600 * hours


def _dry_run(settings: Settings, layout: SpaceLayout) -> int:
    """Print which scans would be preprocessed for a model, and write nothing."""
    check_replaceable(layout.model(model_name(settings)))
    scans, cohort = select_scans(settings)
    check_sites_known(settings, cohort)
    check_understood(cohort, scans)
    failures, refusal = of_no_site(scans, cohort), None
    usable = [scan for scan in scans if scan not in failures]
    try:
        usable = to_use(usable, cohort, settings, failures)
        for warning in check_cohort(people_of(usable, cohort), settings):
            log.warning('%s', warning)
    except UsageError as e:
        refusal = e
    _, decisions = decide_preprocessing(settings, usable, cohort, layout)
    if refused := {d.scan: d.refusal for d in decisions if d.refusal}:
        failures |= refused
        usable = [scan for scan in usable if scan not in refused]
        try:
            usable = to_use(usable, cohort, settings, failures)
        except UsageError as e:
            refusal = e
    print('\n'.join(listing(decisions)))
    for line in summary(decisions):
        log.info('%s', line)
    for scan, reason in failures.items():
        log.warning('%s would be left out: %s', scan.stem, reason)
    calibrates = settings.train.preset == CALIBRATED
    if refusal:
        work = 'calibration' if calibrates else 'training'
        log.warning('%s would be refused: %s', work, refusal)
    counts = Counter(cohort[scan].site for scan in usable)
    listed = ', '.join(f'{site} {n}' for site, n in counts.items())
    log.info('scans to %s: %s', 'calibrate in' if calibrates else 'train on', listed or 'none')
    return 1 if failures else 0


def _initial_model(settings: Settings) -> FoundModel | None:
    """The model that training starts from, or whose networks are calibrated; None without one."""
    asked = settings.train
    calibrates = asked.preset == CALIBRATED
    if asked.init_from is None and not calibrates:
        return None
    if calibrates and asked.train_images is not None:
        raise UsageError(
            f'--train-images {asked.train_images}: --preset {CALIBRATED}, the default, trains no '
            'network; give another preset, or leave the flag out'
        )
    slices = settings.preproc.slices
    initial = find_model(asked.init_from, None, (), _method(settings), slices, flag='--init-from')
    info = initial.info
    if calibrates and isinstance(info, DDAEInfo) and not info.can_be_calibrated:
        raise UsageError(
            f'--init-from {initial.path}: its networks, as those of --preset paper, know no site '
            'but those that they were trained on, so none can be calibrated; give a preset to '
            'train them on these scans, or leave the flag out'
        )
    log.info('%s %s', 'calibrating' if calibrates else 'starting from', initial.describe())
    return initial


@contextmanager
def _progress() -> Iterator[ProgressCallback]:
    """A progress bar on a terminal, a line now and then elsewhere."""
    reported = 0
    with tqdm(unit='img', disable=not sys.stderr.isatty(), leave=False) as bar:

        def report(now: Progress) -> None:
            nonlocal reported
            loss = f'loss {now.loss:.4f}'
            if now.validation_loss is not None:
                loss += f', validation {now.validation_loss:.4f}'
            seen = min(now.images_seen, now.images)
            bar.total = now.images
            bar.set_postfix_str(loss)
            bar.update(seen - bar.n)
            twentieth = now.images_seen * 20 // now.images
            if bar.disable and twentieth > reported:
                reported = twentieth
                log.info(
                    'trained on %d of %d images, %s, %.0f s left',
                    seen, now.images, loss, now.seconds_left,
                )  # fmt: skip

        yield report
