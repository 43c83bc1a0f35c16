"""Before a run without a model of its own: the packaged networks are calibrated to the dataset."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.dataset import source_of, write_description
from ddae_app.bids.layout import Layout, RunFiles
from ddae_app.bids.output_folder import read_description
from ddae_app.bids.provenance import read_record
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import (
    FOLDER_NAME,
    Selected,
    check_selection,
    check_sites_known,
    derivative_roots,
    derivatives,
    layout_of,
    select_all_scans,
    select_scans,
)
from ddae_app.engine.run import Crashes
from ddae_app.errors import (
    InvalidBIDSError,
    NotCalibratedError,
    NothingSelectedError,
    UsageError,
)
from ddae_app.files import digest_of
from ddae_app.levels.participant.doubts import tell_what_changed
from ddae_app.levels.participant.folder_models import (
    TARGETS,
    model_to_target,
    models_of_dataset,
    name_of_folder,
)
from ddae_app.levels.train.alike import kinds_of, unlike_references
from ddae_app.levels.train.command import train_command
from ddae_app.levels.train.data import Prepared, participants_by_site, people, people_of, to_learn
from ddae_app.levels.train.level import calibrate
from ddae_app.methods import registry
from ddae_app.methods.compatibility import calibrates_first, fate_of_unknown
from ddae_app.methods.find import packaged_model, read_models
from ddae_app.methods.suitability import FEWEST_TO_CALIBRATE, confounded_sites
from ddae_app.settings import CALIBRATED, OWN_DERIVATIVES, RAW, SelectSettings, Settings

log = logging.getLogger('ddae_app')


def calibrate_first(
    settings: Settings, logs: RunFiles, default_model: Path | None
) -> tuple[Settings, Selected | None]:
    """Calibrate the sites of the whole dataset, if a run needs that and no run has done it.

    A run of some participants only, one of many jobs perhaps, takes what is there. With
    ``--target-scans``, these are calibrated as one site, and the sites of the dataset beside it.

    Parameters
    ----------
    settings : Settings
        Of the participant level.
    logs : RunFiles
        Of this run.
    default_model : Path or None
        Model to use where --model is not given.

    Returns
    -------
    settings : Settings
        With the model of the target scans, if they were given.
    selected : tuple of list of Scan and Cohort, or None
        The scans of the run, where they had to be selected, validated and told of for this.

    Raises
    ------
    UsageError
        Nothing names the sites, the target is no site that could be one, or no calibration is
        there for a run of some participants.
    """
    if settings.harmonize.target_scans and settings.harmonize.stage != 'preproc':
        return _with_target_scans(settings, logs, default_model)
    if not lacks_calibration(settings, default_model):
        return settings, None
    scans, cohort = select_all_scans(settings)
    check_sites_known(settings, cohort)
    sites = large_sites(scans, cohort)
    _check_target(settings, sites)
    if sites:
        return settings, _calibrate(settings, logs, sites)
    log.warning(
        'no site has %d participants, so none is calibrated; each scan is %s',
        FEWEST_TO_CALIBRATE,
        fate_of_unknown(settings.harmonize.unseen_site),
    )
    return settings, None


def sites_to_calibrate(settings: Settings, default_model: Path | None) -> dict[str, int]:
    """Participants of each site that :func:`calibrate_first`, of the same arguments, is for."""
    asked = settings.harmonize
    if asked.target_scans:
        own = model_to_target(settings.output_dir, name_of_folder(asked.target_scans))
        lacking = asked.stage != 'preproc' and calibrates_first(asked.unseen_site)
        lacking = lacking and not own.is_made
    else:
        lacking = lacks_calibration(settings, default_model)
    return large_sites(*select_all_scans(settings)) if lacking else {}


def _calibrate(settings: Settings, logs: RunFiles, sites: dict[str, int]) -> Selected | None:
    """Calibrate sites, with the scans of the run, which are returned; in a dry run, say so."""
    if settings.select.participant_label or settings.select.session_label:
        check_selection(settings)
        raise UsageError(
            f'{settings.output_dir} holds no calibration of the sites of this dataset, which '
            f'takes scans of all participants; run it once ({train_command(settings)}), or give '
            '--unseen-site agnostic to harmonize each scan by itself'
        )
    counts = ', '.join(f'{site} {n}' for site, n in sites.items())
    settings = replace(settings, train=replace(settings.train, preset=CALIBRATED))
    if settings.run.dry_run:
        log.info('the sites would be calibrated first (participants): %s', counts)
        to_learn(settings, *select_all_scans(settings))  # refuses what the calibration would
        return None
    log.info('calibrating the sites first (participants): %s', counts)
    selected = select_scans(settings)
    try:
        left_out = calibrate(settings, logs, selected)
    except NotCalibratedError as e:
        log.warning(
            '%s; each scan is %s', e.problem, fate_of_unknown(settings.harmonize.unseen_site)
        )
        return selected
    # What failed is not tried again, and the run reports it at its end.
    failed = Crashes([logs])
    _tell({scan: reason for scan, reason in left_out.items() if not failed.of(scan)})
    return selected


def _tell(left_out: Mapping[Scan, str]) -> None:
    for scan, reason in left_out.items():
        log.warning('%s was left out: %s', scan.stem, reason)


def _with_target_scans(
    settings: Settings, logs: RunFiles, default_model: Path | None
) -> tuple[Settings, Selected | None]:
    """Settings with a model of the sites of the target scans, and of those of the dataset."""
    asked, folder = settings.harmonize, settings.harmonize.target_scans
    assert folder is not None
    if asked.model or default_model:
        raise UsageError(
            '--target-scans is measured for the packaged networks; leave out --model, and '
            'DDAE_MODEL of the environment'
        )
    reference = _reference(settings, folder)
    settings = _without(settings, reference.select.derivatives)
    reference_scans = _reference_scans(reference)
    if not any(c.site_from == FOLDER_NAME for c in reference_scans[1].covariates.values()):
        # The tables name all sites, so that the name of the folder is not needed, nor told of.
        reference = replace(reference, select=replace(reference.select, source_site=None))
    target = _target_among(reference_scans, asked.target_site, folder)
    scans = select_all_scans(settings)
    check_sites_known(settings, scans[1])  # before the work that it would refuse
    sites = large_sites(*scans)
    packaged = packaged_model(settings.preproc.slices or 'all')
    if target in sites or target in packaged.info.sites:
        raise UsageError(
            f'--target-scans {folder}: {target!r} is also a site of the dataset or a packaged '
            'one; name it otherwise in its participants.tsv'
        )
    files = Layout(reference.output_dir).model(CALIBRATED)
    own = model_to_target(settings.output_dir, reference.output_dir.name)
    calibrates = bool(sites) and calibrates_first(asked.unseen_site)
    only_texts = settings.run.reports_only or settings.run.boilerplate_only
    if settings.run.boilerplate_only and not files.is_made:
        raise UsageError(
            f'--boilerplate-only: {folder} has not been calibrated, and the text tells of that; '
            'run the same command without the flag first'
        )
    if files.is_made:
        (model,) = read_models([files.model])
        tell_what_changed(model, *reference_scans, layout_of(reference, model.info.protocol))
    elif settings.run.dry_run:
        log.info('%s would be calibrated as the target site %s', folder, target)
        to_learn(reference, *reference_scans)
    elif not only_texts:
        log.info('calibrating the scans of %s as the target site %s', folder, target)
        # By it the folder is known for ours, where this run is interrupted.
        write_description(
            settings.output_dir, settings.bids_dir, derivatives(settings), settings.run.container
        )
        try:
            _tell(calibrate(reference, RunFiles(_logs_of(reference, logs))))
        except NotCalibratedError as e:
            raise UsageError(
                f'--target-scans {folder}: {e.problem}; mend or replace these scans, or give a '
                'packaged site (--target-site) instead'
            ) from e
    selected = None
    if calibrates and not (own.is_made or only_texts):
        train = replace(settings.train, init_from=files.model, model_name=own.name)
        selected = _calibrate(replace(settings, train=train), logs, sites)
    path = own.model if calibrates and (own.is_made or settings.run.dry_run) else files.model
    for line in _unlike(settings, scans, reference, reference_scans, target):
        log.warning('%s', line)
    if not path.exists():  # in a dry run, or where nothing but pages is written
        path, target = packaged.path, packaged.info.sites[0]
    of_target = replace(asked, model=path, target_site=target)
    return replace(settings, harmonize=of_target), selected


def _reference(settings: Settings, folder: Path) -> Settings:
    """Settings that calibrate the sites of the target scans, in a folder of their own.

    Where nothing names their site, it has the name of the folder.
    """
    if not folder.is_dir():
        raise UsageError(f'--target-scans {folder}: no such folder; expected a BIDS dataset')
    if folder.resolve() == settings.bids_dir.resolve():
        raise UsageError(
            f'--target-scans {folder}: this is the dataset itself; name one of its sites '
            '(--target-site) instead'
        )
    if read_description(folder).get('DatasetType') == 'derivative':
        raise UsageError(
            f'--target-scans {folder}: its images are derivatives of scans; give the dataset of '
            'the scans themselves, which are prepared like those that are harmonized'
        )
    name = name_of_folder(folder)
    output_dir = settings.output_dir / TARGETS / name
    # A dataset that is no longer there may have been moved here.
    if (earlier := source_of(output_dir)) not in (None, folder.resolve()) and earlier.exists():
        raise UsageError(
            f'--target-scans {folder}: {output_dir} was made of {earlier}, which has the same '
            'name; rename the folder, or give another output folder'
        )
    return replace(
        settings,
        bids_dir=folder,
        output_dir=output_dir,
        select=SelectSettings(
            source_site=name,
            skip_bids_validation=settings.select.skip_bids_validation,
            derivatives=_preprocessed(settings, folder, name),
        ),
        train=replace(settings.train, preset=CALIBRATED, model_name=CALIBRATED),
        # They are few, and where the scans of the dataset were preprocessed nobody asked for them.
        harmonize=replace(settings.harmonize, stage='all'),
        # Its participants may have the labels of others.
        run=replace(settings.run, work_dir=settings.run.work_dir / TARGETS / name),
    )


def _preprocessed(settings: Settings, folder: Path, name: str) -> tuple[str, ...]:
    """What --derivatives names of earlier runs on the target scans, or with them as the target."""
    own = [root for kind, root in derivatives(settings) if kind == OWN_DERIVATIVES]
    places = [place for root in own for place in (root, root / TARGETS / name)]
    return tuple(f'{OWN_DERIVATIVES}={p}' for p in places if _is_made_of(p, folder.resolve()))


def _is_made_of(derived: Path, folder: Path) -> bool:
    """Whether an earlier run preprocessed the scans of a folder, wherever they were then."""
    source = source_of(derived)
    if source is None or source == folder or source.exists():
        return source == folder
    # The dataset is gone: it was moved here, or another one was removed.
    same = []
    for image in derived.glob('sub-*/**/anat/sub-*_desc-preproc_T1w.nii.gz'):
        sources = sidecars.read(image).get('Sources')
        raw = str(sources[0]) if isinstance(sources, list) and sources else ''
        scan = folder / raw.removeprefix(f'bids:{RAW}:')
        if scan.is_file():
            same.append(digest_of(scan) == (read_record(image) or {}).get('RawSHA256'))
    return bool(same) and all(same)


def _without(settings: Settings, of_target: Sequence[str]) -> Settings:
    """Settings whose own scans are not looked for among the target scans, of the same labels."""
    kept = tuple(entry for entry in settings.select.derivatives if entry not in of_target)
    return replace(settings, select=replace(settings.select, derivatives=kept))


def _reference_scans(reference: Settings) -> tuple[list[Scan], Cohort]:
    try:
        return select_all_scans(reference)
    except (InvalidBIDSError, NothingSelectedError, UsageError) as e:
        raise UsageError(f'--target-scans {e}') from e


def _target_among(
    reference_scans: tuple[list[Scan], Cohort], target: str | None, folder: Path
) -> str:
    """The site of the reference scans that is the target: the one that was named, or the only."""
    counts = participants_by_site(*reference_scans)
    offered = [site for site, n in counts.items() if n >= FEWEST_TO_CALIBRATE]
    named = target or next(iter(offered), None)
    if named in offered and (target or len(offered) == 1):
        return named
    found = ', '.join(f'{site} {people(n)}' for site, n in counts.items()) or 'none has a site'
    if not offered:
        raise UsageError(
            f'--target-scans {folder}: no site has scans of {FEWEST_TO_CALIBRATE} participants '
            f'({found}); add scans of others, or give a packaged site (--target-site) instead'
        )
    raise UsageError(
        f'--target-scans {folder}: --target-site has to name one of its sites with '
        f'{FEWEST_TO_CALIBRATE} participants ({found})'
    )


def _unlike(
    settings: Settings,
    here: tuple[list[Scan], Cohort],
    reference: Settings,
    there: tuple[list[Scan], Cohort],
    target: str,
) -> list[str]:
    """Why reference scans may be no target for those of a dataset, as sentences."""
    scans, cohort = here
    chosen = [scan for scan in there[0] if there[1][scan].site == target]
    protocol = packaged_model(settings.preproc.slices or 'all').info.protocol
    found = [
        kinds_of(some, layout_of(level, protocol), derivative_roots(level))
        for some, level in ((chosen, reference), (scans, settings))
    ]
    lines = [unlike_references(a, b, target) for a, b in zip(*found, strict=True)]
    reason = confounded_sites(_both(people_of(chosen, there[1]), people_of(scans, cohort), target))
    if target in reason:
        lines.append(
            f'the target {target} is confounded with {reason[target]}, so that what harmonization '
            'adds as the look of the target may be an effect of that; choose reference scans of '
            'people like those of the dataset'
        )
    return [line for line in lines if line]


def _both(references: Prepared, scans: Prepared, target: str) -> Prepared:
    """The people of the target, and all of the dataset as those of one other site."""
    n, others = len(references.sites), len(scans.sites)
    return Prepared(
        sites=(target,) * n + (f'not {target}',) * others,
        ages=np.concatenate([references.ages, scans.ages]),
        sexes=references.sexes + scans.sexes,
        subjects=references.subjects + scans.subjects,
    )


def _logs_of(reference: Settings, logs: RunFiles) -> Path:
    folder = reference.output_dir / 'logs' / logs.folder.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def large_sites(scans: Sequence[Scan], cohort: Cohort) -> dict[str, int]:
    """Participants of each site that has enough of them to be calibrated."""
    by_site = participants_by_site(scans, cohort)
    return {site: n for site, n in by_site.items() if n >= FEWEST_TO_CALIBRATE}


def _check_target(settings: Settings, sites: dict[str, int]) -> None:
    """Refuse a target that neither the dataset nor the packaged model has."""
    packaged = packaged_model(settings.preproc.slices or 'all').info.sites
    target = settings.harmonize.target_site
    if target in sites or target in packaged:
        return
    problem = 'is missing' if target is None else f'{target!r} is no site that can be a target'
    of_packaged = f'a packaged one ({", ".join(packaged)})'
    if sites:
        choice = f'choose one of the dataset ({", ".join(sites)}) or {of_packaged}'
    else:
        fewest = FEWEST_TO_CALIBRATE
        choice = f'choose {of_packaged}; no site of the dataset has {fewest} participants'
    raise UsageError(f'--target-site {problem}; {choice}')


def lacks_calibration(settings: Settings, default_model: Path | None) -> bool:
    """Whether a run needs a calibration that is not there."""
    asked, run = settings.harmonize, settings.run
    return (
        asked.stage != 'preproc'
        and calibrates_first(asked.unseen_site)
        and asked.method in (None, registry.DEFAULT)
        and asked.model is None
        and default_model is None
        and not run.reports_only
        and not run.boilerplate_only
        and not any(
            asked.method in (None, model.info.method)
            for model in read_models(models_of_dataset(settings.output_dir))
        )
    )
