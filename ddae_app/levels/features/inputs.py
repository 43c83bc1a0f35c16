"""The table or the maps of a run, and what the dataset says of each row."""

from __future__ import annotations

import logging
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ddae_app.bids import sidecars, understood
from ddae_app.bids.cohort import Cohort, read_cohort
from ddae_app.bids.covariates import AGE_COLUMNS, SEX_COLUMNS, SITE_COLUMNS
from ddae_app.bids.dataset import file_of
from ddae_app.bids.feature_files import FeatureFiles, table_name
from ddae_app.bids.layout import sidecar
from ddae_app.bids.metadata import ScanMetadata
from ddae_app.bids.query import check_description
from ddae_app.bids.scan import Scan
from ddae_app.bids.tables import Dictionary, Table, read_dictionary, read_table
from ddae_app.engine.inputs import (
    check_sites_known,
    check_tables,
    check_understood,
    derivatives,
)
from ddae_app.errors import ModelError, UsageError
from ddae_app.features.checks import same_values
from ddae_app.features.maps import SurfaceMaps, read_surface_maps
from ddae_app.features.matrix import listed
from ddae_app.features.model import read_features_info
from ddae_app.features.people import RowLabels, digest_of_rows
from ddae_app.features.table import FeatureTable, read_feature_table
from ddae_app.files import digest_of
from ddae_app.levels.features.dataset import writes_outputs
from ddae_app.levels.features.source import read_source
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')

METHOD_ENTRY = 'HarmonizationMethod'
"""In the sidecar of what was harmonized."""


@dataclass(frozen=True)
class FeatureInputs:
    """What a run takes.

    Attributes
    ----------
    table : FeatureTable or SurfaceMaps
    labels : RowLabels
    files : FeatureFiles
        Of the output folder.
    warnings : tuple of str
        What is doubtful, for the page; it was logged.
    dictionary : dict of str to dict
        What the JSON beside a table says of each column, by its name in lower case.
    """

    table: FeatureTable | SurfaceMaps
    labels: RowLabels
    files: FeatureFiles
    warnings: tuple[str, ...]
    dictionary: Dictionary

    @property
    def cortex(self) -> np.ndarray | None:
        """Which vertices are no medial wall, shape (F,); None of a table."""
        return self.table.vertices if isinstance(self.table, SurfaceMaps) else None

    @cached_property
    def digest(self) -> str:
        """A SHA-256 of the rows and what is known of them, which outputs and models keep."""
        return digest_of_rows(self.table, self.labels)


def read_inputs(settings: Settings) -> FeatureInputs:
    """Read the table, look up site, age and sex of each row as for images, and log both.

    Raises
    ------
    UsageError
        The table is not of the right form, or the dataset does not know a person or a site.
    InvalidBIDSError
        The tables of the dataset say of a row what is not understood, or the JSON beside the table
        is not readable.
    """
    path, bids_dir, select = settings.table.features, settings.bids_dir, settings.select
    assert path is not None
    check_description(bids_dir)
    source = read_source(settings) if settings.table.surfer_stats else None
    table, said = (source.table, []) if source else _read(settings, path)
    rows = [
        Scan(bids_dir / name, participant, session, name)
        for name, participant, session in zip(
            table.names, table.participants, table.sessions, strict=True
        )
    ]
    check_tables(bids_dir, rows)
    metadata = ScanMetadata(bids_dir)
    cohort = read_cohort(
        bids_dir,
        rows,
        site_column=select.site_column,
        source_site=select.source_site,
        metadata=metadata,
    )
    sessions = len(set(table.sessions) - {None})
    log.info(
        'input: %d rows of %d people%s, %d features', len(rows), len(set(table.participants)),
        f' in {sessions} different sessions' if sessions else '', len(table.features),
    )  # fmt: skip
    for line in said:
        log.info('%s', line)
    for line in understood.facts(cohort, rows)[1:]:
        log.info('%s', line)
    # A dataset whose scans are elsewhere has no folders of people.
    warnings = understood.warnings(replace(cohort, without_folder=()), rows, metadata)
    warnings += same_values(table)
    if isinstance(table, SurfaceMaps):
        warnings = [*table.left_out, *warnings]
    for line in warnings:
        log.warning('%s', line)
    check_understood(cohort, rows, 'row')
    people = read_table(bids_dir / 'participants.tsv', 'participant_id', 'sub-')
    _check_known(settings, table.path, cohort, rows, people)
    _check_no_covariates(table, people, from_stats=source is not None)
    missing = sorted(set(people.rows) - set(table.participants))
    if missing and not settings.select.participant_label:
        what = f'no {path} map' if table.maps else f'no row in {table.path.name}'
        line = f'{what} of {_persons(missing)}, whom participants.tsv knows'
        log.warning('%s', line)
        warnings.append(line)
    labels = RowLabels(
        sites=np.array([str(cohort[row].site) for row in rows]),
        subjects=np.array(table.participants),
        ages=np.array([cohort[row].age for row in rows]),
        sexes=np.array([cohort[row].sex for row in rows], dtype=object),
    )
    if source:
        versions = source.other_versions(labels.sites)
        for line in versions:
            log.warning('%s', line)
        warnings = [*source.warnings, *versions, *warnings]
    files = FeatureFiles(settings.output_dir, table_name(path if table.maps else table.path))
    _check_pages(files)
    if settings.analysis_level == 'participant':
        _check_kind(files, bool(table.maps))
    if isinstance(table, FeatureTable):
        _check_own(files, table.path)
    if writes_outputs(settings) and (line := _replaces(table, files)):
        log.warning('%s', line)
        warnings.append(line)
    # Read now, so that a damaged one is told before anything is fitted.
    dictionary = {} if table.maps else read_dictionary(table.path.with_suffix('.json'))
    return FeatureInputs(table, labels, files, tuple(warnings), dictionary)


def _read(settings: Settings, path: Path) -> tuple[FeatureTable | SurfaceMaps, list[str]]:
    """The table or the maps, and what was taken, in sentences."""
    if measure := settings.table.measure:
        folders = [folder for _, folder in derivatives(settings)]
        people = {label.removeprefix('sub-') for label in settings.select.participant_label}
        return read_surface_maps(folders, measure, people, _cortex_of_model(settings, path))
    _check_not_harmonized(path)
    return read_feature_table(path), []


def _cortex_of_model(settings: Settings, measure: Path) -> tuple[str, ...]:
    """The vertices that a stored model harmonizes; none where a run has no model yet."""
    if settings.analysis_level != 'participant':
        return ()
    files = FeatureFiles(settings.output_dir, table_name(measure))
    model = settings.harmonize.model or files.model(settings.train.model_name).model
    with suppress(ModelError):  # it is told when the model is loaded
        info = read_features_info(model) if model.is_file() else None
        return info.features if info and info.maps else ()
    return ()


def _check_not_harmonized(path: Path) -> None:
    """Refuse what an earlier run harmonized, as its sidecar says: twice is too much."""
    said = sidecars.read(path)
    if METHOD_ENTRY in said:
        sources = said.get('Sources')
        made_of = f' from {sources[0]}' if isinstance(sources, list) and sources else ''
        raise UsageError(
            f'--features {path}: harmonized already ({said[METHOD_ENTRY]}{made_of}), as '
            f'{sidecar(path).name} says; give the table that it was made from'
        )


def _check_no_covariates(
    table: FeatureTable | SurfaceMaps, people: Table, *, from_stats: bool
) -> None:
    """Refuse columns that say who people are: an age would lose its differences between sites."""
    named = {*people.by_name, *AGE_COLUMNS, *SEX_COLUMNS, *SITE_COLUMNS}
    names = [] if table.maps else [name for name in table.features if name.lower() in named]
    if names:
        remedy = 'remove the column here'
        if from_stats:
            remedy = (
                'rename the column there, or remove it in a copy of this table, and give that '
                'with --features COPY'
            )
        raise UsageError(
            f'{table.path}: {listed(names)} {"is" if len(names) == 1 else "are"} of the people '
            'and no feature; expected in participants.tsv, from where age, sex and site are read: '
            f'{remedy}'
        )


def _check_known(
    settings: Settings, path: Path, cohort: Cohort, rows: list[Scan], people: Table
) -> None:
    """Refuse rows of people or sites that are not known: a table is harmonized whole."""
    if unknown := cohort.without_row:
        raise UsageError(
            f'{path}: {_persons(unknown)} {"is" if len(unknown) == 1 else "are"} not in '
            f'participants.tsv{people.hint_at(unknown)}, which has to tell the site; add the rows '
            'there, or leave these people out'
        )
    check_sites_known(settings, cohort)
    if without := [row for row in rows if cohort[row].site is None]:
        raise UsageError(
            f'{path}: the site of {listed([row.stem for row in without])} is not known '
            f'({cohort[without[0]].no_site}); fill it in, give --source-site, or leave the rows '
            'out'
        )


def _check_own(files: FeatureFiles, path: Path) -> None:
    """Refuse a table whose outputs would take the place of those of one of another name."""
    for earlier in _tables_of(files):
        if unicodedata.normalize('NFC', earlier) != unicodedata.normalize('NFC', path.name):
            raise UsageError(
                f'{files.root} holds outputs of {earlier}, and those of {path.name} would have '
                f'the same names ({files.name}); rename the table, or give another output folder'
            )


def _check_pages(files: FeatureFiles) -> None:
    """Refuse outputs whose page would have the name of the evaluation of others."""
    for other in {f'group_{files.name}', files.name.removeprefix('group_')} - {files.name}:
        if FeatureFiles(files.root, other).anatomy.is_file():
            raise UsageError(
                f'{files.root} holds outputs of {other}, and those of {files.name} would be mixed '
                'with them (group_NAME_features.html is the evaluation of one and the page of the '
                'other); rename the table, or give another output folder'
            )


def _check_kind(files: FeatureFiles, maps: bool) -> None:
    """Refuse a table whose outputs would take the place of those of maps, or the other way round.

    The table of the guard of either is there, and only that of a table names what it was made of.
    """
    said = sidecars.read(files.anatomy)
    if files.anatomy.is_file() and said and ('Sources' not in said) != maps:
        what, other = ('maps', 'a table') if maps else ('a table', 'maps')
        raise UsageError(
            f'{files.root} holds outputs of {other}, and those of {what} would have the same '
            f'names ({files.name}); rename the table, or give another output folder'
        )


def _replaces(table: FeatureTable | SurfaceMaps, files: FeatureFiles) -> str:
    """That outputs take the place of those of another source, in a sentence; empty if not."""
    root = files.root
    if isinstance(table, FeatureTable):
        other = _elsewhere(root, files.harmonized, table.path)
        return other and (
            f'the outputs of {table.path} replace those of {other}, another table of that name; '
            'to keep both, rename one of them, or give another output folder'
        )
    maps = dict.fromkeys(file for row in table.files for file in row.values())
    written = {file: file.harmonized(root, table.measure, table.mesh) for file in maps}
    found = [_elsewhere(root, path, file.path) for file, path in written.items()]
    if not (others := list(filter(None, found))):
        return ''
    return (
        f'outputs replace those of other maps of the same people, {listed(others)}; to keep '
        'both, give another output folder'
    )


def _elsewhere(root: Path, harmonized: Path, source: Path) -> str:
    """The source of which an output was made, if it is still there and another one; else empty.

    One that is not there may have been moved, and one of the same content is a copy.
    """
    said = sidecars.read(harmonized)
    sources = said.get('Sources')
    if not isinstance(sources, list) or not sources:
        return ''
    earlier = file_of(root, str(sources[0]))
    if earlier is None or not earlier.is_file() or earlier.samefile(source):
        return ''
    same = digest_of(source) in (said.get('SourceSHA256'), digest_of(earlier))
    return '' if same else str(earlier)


def _tables_of(files: FeatureFiles) -> list[str]:
    """The file names of the tables that outputs of these names were made of."""
    names, model = [], files.model().model
    if model.is_file():
        with suppress(ModelError):  # a damaged one may go
            info = read_features_info(model)
            names += [] if info.maps else [info.table]
    sources = sidecars.read(files.harmonized).get('Sources')
    if isinstance(sources, list) and sources:
        names.append(str(sources[0]).split(':', 2)[-1].rpartition('/')[2])
    return names


def _persons(labels: list[str] | tuple[str, ...]) -> str:
    return listed([f'sub-{label}' for label in labels])
