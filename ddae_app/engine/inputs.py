"""Which scans a run takes, what is known about them, and what preprocessing needs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ddae_app.bids import sidecars, understood
from ddae_app.bids.cohort import SOURCE_SITE, Cohort, read_cohort
from ddae_app.bids.dataset import link_names
from ddae_app.bids.extraction import MASK_FILTER, Extraction, read_mask_filter
from ddae_app.bids.layout import Layout, Preprocessed, SpaceLayout, read_name, sidecar
from ddae_app.bids.metadata import ScanMetadata
from ddae_app.bids.provenance import read_record
from ddae_app.bids.query import Selection, find_scans, read_filters
from ddae_app.bids.scan import Scan, Space, participants_in
from ddae_app.bids.validation import validate_input
from ddae_app.errors import InvalidBIDSError, TemplateError, UsageError, WeightsError
from ddae_app.files import not_fetched
from ddae_app.imaging.templates import TEMPLATES
from ddae_app.imaging.weights import CHECKPOINT, WEIGHTS_FILES, check_weights
from ddae_app.methods.registry import METHODS
from ddae_app.settings import (
    OWN_DERIVATIVES,
    PreprocSettings,
    Protocol,
    Settings,
    read_derivative,
)

log = logging.getLogger('ddae_app')

FOLDER_NAME = 'the name of the folder'
"""What gives a site to scans of ``--target-scans`` of which nothing else names it."""

NO_WEIGHTS = {
    'deepbet': 'deepbet',
    'template': 'the brain mask of the template, warped to each scan',
    'none': 'none, since --skull-strip says that the scans are skull-stripped already',
}
"""What the log says of the ways to extract brains that need no weights of HD-BET."""

Selected = tuple[list[Scan], Cohort]
"""Scans, and what is known about each."""


def select_scans(settings: Settings) -> Selected:
    """Find the scans that were asked for, look up their covariates, and log both.

    Raises
    ------
    InvalidBIDSError, NothingSelectedError, UsageError
        See :mod:`ddae_app.bids`.
    """
    select = settings.select
    scans = find_scans(settings.bids_dir, _selection(settings))
    check_tables(settings.bids_dir, scans)
    if select.skip_bids_validation:
        log.warning(
            'The dataset was not validated (--skip-bids-validation): what is wrong in it may not '
            'be noticed.'
        )
    else:
        validate_input(settings.bids_dir, scans)
    metadata = ScanMetadata(settings.bids_dir)
    cohort = read_cohort(
        settings.bids_dir,
        scans,
        site_column=select.site_column,
        source_site=select.source_site,
        source_site_from=_source_site_from(settings),
        further=settings.evaluate.biology,
        metadata=metadata,
    )
    for line in understood.facts(cohort, scans):
        log.info('%s', line)
    for line in understood.warnings(cohort, scans, metadata):
        log.warning('%s', line)
    if not (select.participant_label or select.session_label or select.bids_filter_file):
        others = set(participants_in(settings.bids_dir)) - {scan.participant for scan in scans}
        if others:
            log.warning('%s', understood.without_scan(sorted(others)))
    return scans, cohort


def select_all_scans(settings: Settings) -> Selected:
    """The scans of the whole dataset, those of participants that were not asked for too."""
    everybody = replace(settings.select, participant_label=(), session_label=())
    selection = _selection(replace(settings, select=everybody))
    scans = find_scans(settings.bids_dir, selection, quiet=True)
    check_tables(settings.bids_dir, scans)
    cohort = read_cohort(
        settings.bids_dir,
        scans,
        site_column=settings.select.site_column,
        source_site=settings.select.source_site,
        source_site_from=_source_site_from(settings),
    )
    return scans, cohort


def _source_site_from(settings: Settings) -> str:
    """What says of which site scans are of which nothing else does."""
    return FOLDER_NAME if settings.bids_dir == settings.harmonize.target_scans else SOURCE_SITE


def check_selection(settings: Settings) -> None:
    """Refuse a selection that no scan of the dataset fits.

    Raises
    ------
    NothingSelectedError
    """
    find_scans(settings.bids_dir, _selection(settings), quiet=True)


def check_tables(bids_dir: Path, scans: Sequence[Scan]) -> None:
    """Refuse to take a table that was not fetched for one that is missing.

    Raises
    ------
    UsageError
        With the command that fetches it.
    """
    tables = {bids_dir / 'participants': None, bids_dir / 'sessions': None}
    tables |= {
        bids_dir / f'sub-{scan.participant}' / f'sub-{scan.participant}_sessions': None
        for scan in scans
    }
    for table in tables:
        for ending in ('.tsv', '.json'):
            if message := not_fetched(table.with_name(table.name + ending)):
                raise UsageError(message)


def _selection(settings: Settings) -> Selection:
    select = settings.select
    return Selection(
        participants=select.participant_label,
        sessions=select.session_label,
        filters=read_filters(select.bids_filter_file) if select.bids_filter_file else {},
        database=select.bids_database_dir,
        read_only=settings.run.dry_run,
    )


def check_sites_known(settings: Settings, cohort: Cohort) -> None:
    """Refuse to go on where nothing names the site of any scan.

    Raises
    ------
    UsageError
        No participants.tsv, or no column of it names the site.
    """
    if cohort.site_column is not None:
        return
    fields = ', '.join(cohort.site_fields)
    if cohort.columns:
        problem = f'participants.tsv has no site column (found {", ".join(cohort.columns)})'
        or_field = f', or a field of the JSON of the scans ({fields}),' if fields else ''
        remedy = f'name the column{or_field} with --site-column'
    else:
        problem = f'{settings.bids_dir / "participants.tsv"} is not there'
        or_field = f', name a field of the JSON of the scans ({fields}) with --site-column'
        remedy = f'write it, with a column site{or_field if fields else ""}'
    raise UsageError(
        f'{problem}, so the sites of the scans are unknown; {remedy}, or name the one site of '
        'all scans with --source-site'
    )


def check_understood(cohort: Cohort, scans: Sequence[Scan], what: str = 'scan') -> None:
    """Refuse to go on where the tables say of a scan what is not understood.

    For what is computed from all scans together: leaving a scan out would change the result. It is
    called `what`, such as the row of a table.

    Raises
    ------
    InvalidBIDSError
        The first problem, and how many more scans have one.
    """
    problems = {
        scan: problem
        for scan in scans
        if (problem := cohort[scan].fault or next(iter(cohort[scan].unread.values()), None))
    }
    if not problems:
        return
    scan, problem = next(iter(problems.items()))
    more = len(problems) - 1
    others = f' ({more} more {what}{"s" * (more != 1)} with such a problem)' if more else ''
    raise InvalidBIDSError(f'{scan.stem}: {problem}{others}')


def space_of(protocol: Protocol) -> Space:
    """The space of the outputs of a protocol; needs no template at hand.

    Raises
    ------
    TemplateError
        Unknown template.
    """
    if protocol.template not in TEMPLATES:
        raise TemplateError(
            f'template {protocol.template!r} is unknown; expected {" or ".join(TEMPLATES)}'
        )
    return Space(protocol, TEMPLATES[protocol.template])


def protocol_without_model(settings: Settings) -> Protocol:
    """The protocol of a run that has no model to ask: the paper's, but of all slices.

    Methods that take single slices, and the DDAE of the paper, take the medial one only.
    """
    asked, usual, method = settings.preproc, Protocol(), settings.harmonize.method
    as_published = settings.train.preset == 'paper' or (
        method is not None and not METHODS[method].whole_scans
    )
    slices = asked.slices or ('medial' if as_published else 'all')
    return replace(usual, template=asked.template or usual.template, slices=slices)


def extraction_of(asked: PreprocSettings) -> Extraction:
    """How brains are extracted where the user brings no masks, after checking the weights.

    ``auto`` is HD-BET where its weights are, and else the packaged networks of deepbet. The log
    says which way it is.

    Raises
    ------
    WeightsError
        HD-BET was asked for, and its weights are not there, or not those that are trusted.
    """
    method, weights = asked.skull_strip, asked.hd_bet_weights
    files = [weights / name for name in WEIGHTS_FILES] if weights else []
    lacking = next((message for file in files if (message := not_fetched(file))), None)
    if method == 'auto' and not lacking and not (weights and (weights / CHECKPOINT).exists()):
        log.info('Brain extraction: deepbet, since %s has no weights of HD-BET', weights)
        return Extraction('deepbet')
    if method not in ('auto', 'hd-bet'):
        log.info('Brain extraction: %s', NO_WEIGHTS[method])
        return Extraction(method)
    if weights is None:
        raise WeightsError('no folder of HD-BET weights; give --hd-bet-weights')
    try:
        if lacking:
            raise WeightsError(lacking)
        digest = check_weights(weights, asked.hd_bet_sha256)
    except WeightsError as e:
        if method == 'hd-bet':
            raise
        log.warning('Brain extraction: deepbet, since HD-BET cannot be used: %s', e)
        return Extraction('deepbet')
    log.info('Brain extraction: HD-BET, weights %s, SHA-256 %s', weights, digest)
    return Extraction('hd-bet', weights, digest)


def tell_of_masks(folders: Sequence[Path], asked: PreprocSettings) -> None:
    """Log that brains are those of masks, and that another way that was asked for is not taken."""
    where = ', '.join(map(str, folders))
    if asked.skull_strip == 'auto':
        log.info('Brain extraction: the brain masks in %s', where)
    else:
        log.warning(
            'Brain extraction: the brain masks in %s, and not --skull-strip %s; leave out the '
            'flag, or the dataset after -d', where, asked.skull_strip,
        )  # fmt: skip


def mask_filter(settings: Settings) -> dict[str, str | None]:
    """Which brain masks are taken of these datasets."""
    file = settings.preproc.brain_mask_filter
    return read_mask_filter(file) if file else MASK_FILTER


def derivatives(settings: Settings) -> list[tuple[str, Path]]:
    """The names and the folders of the datasets of --derivatives.

    Raises
    ------
    UsageError
        An entry is not NAME=PATH, or there is no such folder.
    """
    named = [read_derivative(entry) for entry in settings.select.derivatives]
    for name, folder in named:
        if not folder.is_dir():
            raise UsageError(f'--derivatives {name}={folder}: no such folder')
    return named


def derivative_roots(settings: Settings) -> list[Path]:
    """The folders of earlier runs, and last the output folder, where preprocessed scans may lie.

    What the user names is taken before what lies in the output folder, perhaps of other flags.

    Raises
    ------
    UsageError
        As :func:`derivatives`.
    """
    folders = [folder for name, folder in derivatives(settings) if name == OWN_DERIVATIVES]
    return [*folders, settings.output_dir]


def mask_folders(settings: Settings) -> list[Path]:
    """The datasets of --derivatives that hold brain masks: all but our own outputs.

    Raises
    ------
    UsageError
        As :func:`derivatives`, or --brain-mask-filter is given without any.
    """
    folders = [folder for name, folder in derivatives(settings) if name != OWN_DERIVATIVES]
    if settings.preproc.brain_mask_filter and not folders:
        raise UsageError(
            '--brain-mask-filter: name the dataset of the masks as well, as -d NAME=PATH'
        )
    return folders


def dataset_links(settings: Settings) -> dict[str, Path]:
    """The folders of --derivatives by their names in ``DatasetLinks`` of the output."""
    return link_names(settings.output_dir, derivatives(settings))


def find_preprocessed(scan: Scan, space: Space, roots: Sequence[Path]) -> Preprocessed | None:
    """What preprocessing wrote of a scan, from the first folder that has it whole.

    Files without a record of what they were made from may not belong together: preprocessing was
    interrupted.
    """
    for root in roots:
        files = SpaceLayout(root, space).preprocessed(scan)
        if all(file.is_file() for file in files) and read_record(files.image) is not None:
            return files
    return None


def scans_in(bids_dir: Path, participant: str) -> list[Scan]:
    """The T1w images of a participant, by the names of files alone, whatever a run may take."""
    folder = bids_dir / f'sub-{participant}'
    paths = [p for anat in ('anat', 'ses-*/anat') for p in folder.glob(f'{anat}/sub-*_T1w.nii*')]
    return [_scan_of(path, participant, path.name.partition('_T1w.')[0]) for path in sorted(paths)]


def _scan_of(path: Path, participant: str, stem: str) -> Scan:
    parts = dict(part.split('-', 1) for part in stem.split('_') if '-' in part)
    return Scan(path, participant, parts.get('ses'), stem)


def scans_with_outputs(bids_dir: Path, layout: SpaceLayout, participant: str) -> list[Scan]:
    """The scans of a participant of which the output folder holds whole images, by name.

    Any run may have written them, for example another job of an array. Whether the dataset still
    has these scans is not looked up.
    """
    found = {}
    for kind in ('preproc', 'harmonized'):
        folder = layout.root / f'sub-{participant}'
        for image in folder.glob(f'**/anat/*{layout.ending(kind)}'):
            if (name := read_name(image)) is None:
                continue
            scan = _scan_of(Path(), participant, name.stem)
            path = bids_dir / scan.folder / f'{scan.stem}_T1w.nii'
            scan = replace(scan, path=path if path.exists() else path.with_suffix('.nii.gz'))
            whole = (
                find_preprocessed(scan, layout.space, [layout.root]) is not None
                if kind == 'preproc'
                else read_record(image) is not None
            )
            if whole and image == layout.image(kind, scan):
                found[scan.stem] = scan
    return [found[stem] for stem in sorted(found)]


def preprocessed_not_fetched(scan: Scan, space: Space, roots: Sequence[Path]) -> str | None:
    """What to do about a preprocessed scan whose files are there, but without their content."""
    found = find_preprocessed(scan, space, roots)
    looked_at = [found] if found else [SpaceLayout(r, space).preprocessed(scan) for r in roots]
    needed = (file for files in looked_at for file in (*files, sidecar(files.image)))
    messages = (not_fetched(file) for file in needed)
    return next((message for message in messages if message), None)


def skull_strip_of(image: Path) -> str:
    """How the brain of a preprocessed image was extracted; empty if its sidecar does not say."""
    return str(sidecars.read(image).get('SkullStripMethod', ''))


def layout_of(settings: Settings, protocol: Protocol) -> SpaceLayout:
    """The files of a run's output folder."""
    return Layout(settings.output_dir).in_space(space_of(protocol))
