"""What the participant and the train level begin with."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort, read_cohort
from ddae_app.bids.layout import Scan
from ddae_app.bids.query import Selection, find_scans, read_filters
from ddae_app.bids.validation import validate_input
from ddae_app.errors import TemplateError, UsageError, WeightsError
from ddae_app.imaging.templates import TEMPLATES, load_template, write_template
from ddae_app.imaging.weights import check_weights
from ddae_app.methods.device import resolve_device
from ddae_app.settings import Protocol, SelectSettings, Settings
from ddae_app.workflows.derivatives import mask_path, preproc_path, transform_path
from ddae_app.workflows.harmonize import Preprocessed, SiteScan
from ddae_app.workflows.participant import Preprocessing

log = logging.getLogger('ddae_app')


def select_scans(settings: Settings) -> tuple[list[Scan], Cohort]:
    """Find the scans that were asked for, look up their covariates, and say so.

    Raises
    ------
    InvalidBIDSError, NothingSelectedError, UsageError
        See :mod:`ddae_app.bids`.
    """
    select = settings.select
    scans = find_scans(settings.bids_dir, _selection(select))
    if not select.skip_bids_validation:
        validate_input(settings.bids_dir, scans)
    cohort = read_cohort(
        settings.bids_dir,
        scans,
        site_column=select.site_column,
        source_site=select.source_site,
        further=settings.evaluate.biology,
    )
    log.info(cohort.summary(scans))
    return scans, cohort


def _selection(select: SelectSettings) -> Selection:
    return Selection(
        participants=select.participant_label,
        sessions=select.session_label,
        filters=read_filters(select.bids_filter_file) if select.bids_filter_file else {},
        database=select.bids_database_dir,
    )


def check_sites_known(settings: Settings, cohort: Cohort) -> None:
    """Refuse to go on where nothing tells the site of any scan.

    Raises
    ------
    UsageError
        No participants.tsv, or no column of it names the site.
    """
    if cohort.site_column is not None:
        return
    found = (
        f'participants.tsv has no site column (found {", ".join(cohort.columns)})'
        if cohort.columns
        else f'{settings.bids_dir / "participants.tsv"} is not there'
    )
    raise UsageError(
        f'{found}, so the sites of the scans are unknown; name the column with --site-column, '
        'or the one site of all scans with --source-site'
    )


def output_space(protocol: Protocol) -> sidecars.Space:
    """Where the outputs of a protocol lie; needs no template at hand.

    Raises
    ------
    TemplateError
        Unknown template.
    """
    if protocol.template not in TEMPLATES:
        raise TemplateError(
            f'template {protocol.template!r} is unknown; expected {" or ".join(TEMPLATES)}'
        )
    return sidecars.Space(protocol, TEMPLATES[protocol.template])


def prepare_preprocessing(settings: Settings, protocol: Protocol) -> Preprocessing:
    """Load the template and check the weights, before any scan is touched.

    Raises
    ------
    TemplateError, WeightsError, UsageError
        Something is missing; the message says where to get it.
    """
    asked = settings.preproc
    template = load_template(protocol.template, asked.templateflow_home)
    folder = settings.run.work_dir.resolve() / 'templates'
    weights_sha256, device = None, 'cpu'
    if asked.skull_strip == 'hd-bet':
        if asked.hd_bet_weights is None:
            raise WeightsError('no folder of HD-BET weights; give --hd-bet-weights')
        weights_sha256 = check_weights(asked.hd_bet_weights, asked.hd_bet_sha256)
        device = str(resolve_device(settings.harmonize.device))
        log.info('HD-BET weights %s, SHA-256 %s', asked.hd_bet_weights, weights_sha256)
    return Preprocessing(
        template=write_template(template, folder),
        skull_strip=asked.skull_strip,
        weights=asked.hd_bet_weights,
        weights_sha256=weights_sha256,
        device=device,
    )


def find_preprocessed(scan: Scan, space: sidecars.Space, roots: list[Path]) -> Preprocessed | None:
    """What preprocessing wrote of a scan, from the first folder that has it."""
    paths = preproc_path(scan, space), mask_path(scan, space), transform_path(scan, space)
    for root in roots:
        found = Preprocessed(*(root / path for path in paths))
        if all(file.is_file() for file in found):
            return found
    return None


def skull_strip_of(image: Path) -> str:
    """How the brain of a preprocessed image was extracted; empty if no sidecar tells."""
    return str(sidecars.read(image).get('SkullStripMethod', ''))


def derivative_roots(settings: Settings) -> list[Path]:
    """The output folder and those named by --derivatives, where preprocessed scans may lie.

    Raises
    ------
    UsageError
        An entry is not PACKAGE=PATH, of this program, or not there.
    """
    roots = [settings.output_dir]
    for entry in settings.select.derivatives:
        package, _, path = entry.rpartition('=')
        if package not in ('', 'ddae-app') or not Path(path).is_dir():
            raise UsageError(
                f'--derivatives {entry}: expected ddae-app=PATH, an output folder of this program'
            )
        roots.append(Path(path))
    return roots


def scans_by_site(settings: Settings, space: sidecars.Space) -> dict[str, list[SiteScan]]:
    """Every preprocessed scan of the dataset by its site, those of other participants too."""
    roots, found = derivative_roots(settings), dict[str, list[SiteScan]]()
    everybody = replace(settings.select, participant_label=(), session_label=())
    scans = find_scans(settings.bids_dir, _selection(everybody))
    cohort = read_cohort(
        settings.bids_dir,
        scans,
        site_column=settings.select.site_column,
        source_site=settings.select.source_site,
    )
    for scan in scans:
        files = find_preprocessed(scan, space, roots)
        if files and (site := cohort[scan].site):
            found.setdefault(site, []).append(SiteScan(files.image, files.mask, scan.participant))
    return found
