"""What a model is trained on: all scans of the dataset, preprocessed, in one file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ddae_app.bids.cohort import Cohort
from ddae_app.bids.dataset import write_description
from ddae_app.bids.layout import RunFiles, SpaceLayout
from ddae_app.bids.metadata import ScanMetadata
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import (
    Selected,
    check_sites_known,
    check_understood,
    derivative_roots,
    derivatives,
    find_preprocessed,
    select_scans,
)
from ddae_app.engine.plan import preprocess_missing
from ddae_app.errors import DdaeError, NotCalibratedError, UsageError
from ddae_app.files import staged
from ddae_app.imaging import volumes
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.intensities import brain_scale
from ddae_app.imaging.slices import training_stacks
from ddae_app.levels.train.alike import unlike_scans
from ddae_app.methods import registry
from ddae_app.methods.compatibility import fate_of_unknown
from ddae_app.methods.data import SliceData
from ddae_app.methods.suitability import (
    FEWEST_TO_CALIBRATE,
    FEWEST_TO_TRAIN,
    People,
    confounded_sites,
    sites_with_few_subjects,
    unexamined_sites,
)
from ddae_app.settings import CALIBRATED, Protocol, Settings

log = logging.getLogger('ddae_app')


@dataclass(frozen=True)
class Prepared:
    """The labels of the scans in the store, for every process.

    Attributes
    ----------
    sites, ages, sexes, subjects
        As in :class:`~ddae_app.methods.data.SliceData`.
    failures : dict of Scan to str
        Scans that are not among them, and why.
    warnings : tuple of str
        What is wrong with the cohort and was allowed, and what could not be examined.
    """

    sites: tuple[str, ...]
    ages: np.ndarray
    sexes: tuple[str | None, ...]
    subjects: tuple[str, ...]
    failures: dict[Scan, str] = field(default_factory=dict)
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


def prepare(
    settings: Settings,
    layout: SpaceLayout,
    store: Path,
    logs: RunFiles,
    selected: Selected | None = None,
) -> Prepared:
    """Preprocess scans that are not preprocessed yet, and write the slices of all to one file.

    Parameters
    ----------
    settings : Settings
    layout : SpaceLayout
        Of the output folder.
    store : Path
        The file to write.
    logs : RunFiles
        Of this run.
    selected : tuple of list of Scan and Cohort, optional
        The scans of these settings, where they have been selected.

    Raises
    ------
    UsageError
        No scan can be used, or the cohort is not suitable and that was not allowed.
    InvalidBIDSError
        The tables say of a scan what is not understood.
    DdaeError
        A scan failed, and the run is to stop then.
    """
    scans, cohort = selected or select_scans(settings)
    usable, failures = to_learn(settings, scans, cohort)
    write_description(
        settings.output_dir, settings.bids_dir, derivatives(settings), settings.run.container
    )
    failed = preprocess_missing(settings, usable, cohort, layout, logs)
    for scan, reason in failed.items() if settings.run.stop_on_first_crash else ():
        raise DdaeError(f'{scan.stem} failed: {reason} (--stop-on-first-crash)')
    failures |= failed
    usable = [scan for scan in usable if scan not in failures]
    if failures:
        usable = to_use(usable, cohort, settings, failures)
    roots = derivative_roots(settings)
    stored, unusable = _store(roots, usable, layout, store)
    if unusable:
        failures |= unusable
        left = [scan for scan in usable if scan not in unusable]
        stored, _ = _store(roots, to_use(left, cohort, settings, failures), layout, store)
    if not stored:
        scan, reason = next(iter(failures.items()))
        raise UsageError(
            f'no scan can be used, so no model can be made; the first, {scan.stem}: {reason}'
        )
    prepared = replace(people_of(stored, cohort), failures=failures)
    data = prepared.open(store, layout.space.protocol)
    warnings = check_cohort(prepared, settings)
    metadata = ScanMetadata(settings.bids_dir)
    warnings += tuple(unlike_scans(stored, cohort, layout, roots, metadata))
    for warning in warnings:
        log.warning('%s', warning)
    if settings.train.preset == CALIBRATED:
        scans_by_site = Counter(cohort[scan].site or '' for scan in dict.fromkeys(stored))
        log.info('calibrating in %d scans: %s', scans_by_site.total(), _listed(scans_by_site))
    else:
        slices = {site: n * data.depth for site, n in Counter(data.sites).items()}
        log.info('training slices: %s', _listed(slices))
    return replace(prepared, warnings=warnings)


def to_learn(
    settings: Settings, scans: Sequence[Scan], cohort: Cohort
) -> tuple[list[Scan], dict[Scan, str]]:
    """The scans that a model is to be made of, and why others are left out, before any work.

    Hours of preprocessing later, what is wrong with them would be refused as well.

    Raises
    ------
    UsageError
        Nothing names the sites, or the cohort is not suitable and that was not allowed.
    InvalidBIDSError
        The tables say of a scan what is not understood.
    """
    check_sites_known(settings, cohort)
    check_understood(cohort, scans)
    failures = of_no_site(scans, cohort)
    usable = [scan for scan in scans if scan not in failures]
    usable = to_use(usable, cohort, settings, failures)
    check_cohort(people_of(usable, cohort), settings)
    return usable, failures


def _listed(counts: Mapping[str, int]) -> str:
    return ', '.join(f'{site} {n}' for site, n in counts.items())


def of_no_site(scans: Sequence[Scan], cohort: Cohort) -> dict[Scan, str]:
    """The scans that cannot be used since their site is not known, and why."""
    return {
        scan: f'its site is not known: {cohort[scan].no_site}; fill it in, or leave the scan out'
        for scan in scans
        if cohort[scan].site is None
    }


def participants_by_site(scans: Sequence[Scan], cohort: Cohort) -> dict[str, int]:
    """Participants of each known site of some scans."""
    pairs = {(site, scan.participant) for scan in scans if (site := cohort[scan].site)}
    return dict(sorted(Counter(site for site, _ in pairs).items()))


def people(n: int) -> str:
    """A number of participants, in words; several scans of one person are one participant."""
    return f'{n} participant{"s" * (n != 1)}'


def to_use(
    scans: Sequence[Scan], cohort: Cohort, settings: Settings, failures: Mapping[Scan, str]
) -> list[Scan]:
    """The scans to use: where no network is trained, those of sites that can be measured.

    Parameters
    ----------
    scans : sequence of Scan
        Of known sites.
    cohort : Cohort
    settings : Settings
    failures : mapping of Scan to str
        Other scans, which cannot be used, and why.

    Raises
    ------
    NotCalibratedError
        No site has enough participants.
    """
    asked = settings.train
    if asked.preset != CALIBRATED or asked.allow_few_scans:
        return list(scans)
    counts = participants_by_site(scans, cohort)
    small = {site: n for site, n in counts.items() if n < FEWEST_TO_CALIBRATE}
    if len(small) == len(counts):
        problem = (
            f'no site has {FEWEST_TO_CALIBRATE} participants with usable scans, so none can be '
            'calibrated'
        )
        for scan, reason in list(failures.items())[:1]:
            problem += f' ({len(failures)} cannot be used, the first, {scan.stem}: {reason})'
        raise NotCalibratedError(problem)
    for site, n in small.items():
        log.warning(
            'site %s is not calibrated, since it has %s and %d are needed; each of its scans is '
            '%s', site, people(n), FEWEST_TO_CALIBRATE,
            fate_of_unknown(settings.harmonize.unseen_site),
        )  # fmt: skip
    return [scan for scan in scans if cohort[scan].site not in small]


def people_of(scans: Sequence[Scan], cohort: Cohort) -> Prepared:
    """The labels of some scans."""
    covariates = [cohort[scan] for scan in scans]
    return Prepared(
        sites=tuple(c.site or '' for c in covariates),
        ages=np.array([c.age for c in covariates]),
        sexes=tuple(c.sex for c in covariates),
        subjects=tuple(scan.participant for scan in scans),
    )


def _store(
    roots: Sequence[Path], scans: Sequence[Scan], layout: SpaceLayout, store: Path
) -> tuple[list[Scan], dict[Scan, str]]:
    """Write the slices of all scans to one file; the scan of each stack, and which have none."""
    stored: list[Scan] = []
    unusable: dict[Scan, str] = {}
    with staged(store) as temporary, temporary.open('wb') as file:
        for scan in scans:
            try:
                stacks = _stacks_of(scan, layout, roots)
            except DdaeError as e:
                unusable[scan] = str(e)
                continue
            file.write(stacks.tobytes())
            stored += [scan] * len(stacks)
    return stored, unusable


def _stacks_of(scan: Scan, layout: SpaceLayout, roots: Sequence[Path]) -> np.ndarray:
    files = find_preprocessed(scan, layout.space, roots)
    if files is None:
        raise DdaeError('it was not preprocessed')
    image, mask = (np.asarray(volumes.read(path).dataobj) for path in (files.image, files.mask))
    protocol = layout.space.protocol
    _, left_out = brain_scale(image[mask > 0], protocol.intensity_percentile)
    if left_out:
        log.warning(
            '%s: %.2g %% of the brain outshines all tissue and was left out of the intensity '
            'scale; exclude contrast-enhanced scans', scan.stem, 100 * left_out,
        )  # fmt: skip
    return training_stacks(image, mask > 0, model_grid(protocol.template, protocol.grid), protocol)


def check_cohort(data: People, settings: Settings) -> tuple[str, ...]:
    """Refuse data in which no site effect can be estimated, or not with the method of the run.

    Returns
    -------
    tuple of str
        What was allowed, and what could not be examined.

    Raises
    ------
    UsageError
        There is one site, or a site of few subjects or one that is confounded, unless allowed;
        or too few for the method.
    """
    asked = settings.train
    sites = sorted(set(data.sites))
    if not sites:
        raise UsageError('no scan has a known site, so no model can be made')
    if len(sites) < 2 and asked.preset != CALIBRATED:
        raise UsageError(
            f'all scans come from {sites[0]}; a model that separates sites needs at '
            'least two (is --site-column right?)'
        )
    fewest = FEWEST_TO_CALIBRATE if asked.preset == CALIBRATED else FEWEST_TO_TRAIN
    few = [
        f'site {site} has {n} {"subject" if n == 1 else "subjects"}, fewer than '
        f'{fewest}: features of these subjects may be attributed to the site'
        for site, n in sites_with_few_subjects(data, fewest).items()
    ]
    confounded = [
        f'site {site} is confounded with {reason}, so that an effect of that may be removed as '
        'one of the site'
        for site, reason in confounded_sites(data).items()
    ]
    unexamined = unexamined_sites(data)
    for problems, allowed, flag in (
        (few, asked.allow_few_scans, '--allow-few-scans'),
        (confounded, asked.allow_confounding, '--allow-confounding'),
    ):
        if problems and not allowed:
            raise UsageError(f'{problems[0]}; leave its scans out, or give {flag}')
    if check := registry.METHODS[settings.harmonize.method or registry.DEFAULT].check:
        registry.imported(check)(data)
    return (*few, *confounded, *unexamined)
