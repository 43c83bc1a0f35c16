"""The table that is read from stats files, as it stands in the output folder."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ddae_app import __version__
from ddae_app.bids import sidecars
from ddae_app.bids.dataset import file_of, generator, write_json
from ddae_app.bids.feature_files import FeatureFiles
from ddae_app.bids.layout import Layout, sidecar
from ddae_app.bids.recons import Recon, find_recons
from ddae_app.bids.tables import Table, read_table
from ddae_app.engine.inputs import derivatives
from ddae_app.errors import UsageError
from ddae_app.features.matrix import folders_left_out, listed
from ddae_app.features.stats_table import StatsTable, file_names, read_stats_table
from ddae_app.features.table import PERSON, SESSION, FeatureTable
from ddae_app.files import write_atomically
from ddae_app.levels.features.dataset import datasets, describe_dataset, writes_outputs
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')


@dataclass(frozen=True)
class StatsSource:
    """What was read from stats files.

    Attributes
    ----------
    table : FeatureTable
    versions : tuple of str, length N
        What wrote the files of each row.
    warnings : tuple of str
        Which folders are left out and why; it was logged.
    """

    table: FeatureTable
    versions: tuple[str, ...]
    warnings: tuple[str, ...]

    def other_versions(self, sites: Sequence[str] | np.ndarray) -> list[str]:
        """How many rows of each site which version wrote, in a sentence; none if one did."""
        counts: dict[str, Counter[str]] = {}
        for version, site in zip(self.versions, sites, strict=True):
            counts.setdefault(version, Counter())[str(site)] += 1
        if len(counts) < 2:
            return []
        shares = '; '.join(
            f'{version}: ' + ', '.join(f'{n} of site {site}' for site, n in sorted(of.items()))
            for version, of in sorted(counts.items())
        )
        return [
            f'the stats files were written by {len(counts)} versions ({shares}), which differ as '
            'scanners do; run one version for all, or take scanner and version together as '
            '--site-column'
        ]


def read_source(settings: Settings) -> StatsSource:
    """Read the stats files of the people of the dataset.

    At the levels that write, the table is written at once, so that what is said of it later can
    be looked up in it.

    Raises
    ------
    UsageError
        There are no stats files of these people, or some cannot be used; or, at the group level,
        they have changed since the table was written.
    """
    what = settings.table.surfer_stats
    assert what is not None
    files = FeatureFiles(settings.output_dir, what)
    people = read_table(settings.bids_dir / 'participants.tsv', 'participant_id', 'sub-')
    roots = list(dict.fromkeys(folder for _, folder in derivatives(settings)))
    recons, warnings = _recons(roots, what, people)
    stats = read_stats_table(what, recons, files.source)
    if stats.unfinished:
        n = len(stats.unfinished)
        warnings.append(
            f'{n} recon{"s" * (n != 1)} without all stats of {what} left out: '
            f'{listed(stats.unfinished)}'
        )
    text = stats.table.written(stats.table.values)
    writes = writes_outputs(settings)
    if writes and (others := _read_elsewhere(files, roots, text)):
        warnings.append(
            f'the outputs of {listed(list(map(str, roots)))} replace those of '
            f'{listed(list(map(str, others)))}; to have all people in one table, name all folders '
            'after -d; to keep both, give another output folder'
        )
    for line in warnings:
        log.warning('%s', line)
    if settings.analysis_level == 'group':
        _check_unchanged(files, text)
    if writes:
        describe_dataset(settings)
        write_json(sidecar(files.source), _sidecar(settings, what, stats))
        write_atomically(files.source, text)
        log.info('table as read from stats files: %s', files.source)
    return StatsSource(stats.table, stats.versions, tuple(warnings))


def _recons(roots: list[Path], what: str, people: Table) -> tuple[list[Recon], list[str]]:
    """The recons to read, and which folders are left out and why, in sentences."""
    recons = find_recons(roots)
    where = ', '.join(map(str, roots))
    if not recons.found:
        expected = ' or '.join(f'sub-<label>/stats/{names[0]}' for names in file_names(what))
        raise UsageError(
            f'no stats of {what} in {where}; expected {expected}, or sub-<label>_ses-<label>/...'
            + (f' (found {listed(recons.misnamed)})' if recons.misnamed else '')
            + ''.join(f'; give {folder} instead' for root in roots for folder in _nearby(root))
        )
    known = [recon for recon in recons.found if recon.participant in people.rows]
    strangers = [recon for recon in recons.found if recon.participant not in people.rows]
    hint = people.hint_at([recon.participant for recon in strangers])
    if not known:
        raise UsageError(
            f'{where}: none of {listed([recon.folder.name for recon in strangers])} is in '
            f'participants.tsv{hint}, which has to tell the site; add the rows there'
        )
    names = tuple(recon.folder.name for recon in strangers)
    left_out = [(names, f'not in participants.tsv{hint}'), *recons.left_out]
    return known, folders_left_out('stats', left_out)


def _read_elsewhere(files: FeatureFiles, roots: list[Path], text: str) -> list[Path]:
    """The folders of which an earlier run read another table, and which are not named now.

    One that is not there may have been moved, and a copy gives the same table.
    """
    sources = sidecars.read(files.source).get('Sources')
    if not isinstance(sources, list) or not files.source.is_file():
        return []
    if files.source.read_bytes() == text.encode():
        return []
    datasets_of = {str(uri).rpartition(':')[0] for uri in sources}
    earlier = {folder for name in datasets_of if (folder := file_of(files.root, f'{name}:'))}
    now = {root.resolve() for root in roots}
    return sorted(folder for folder in earlier - now if folder.is_dir())


def _nearby(root: Path) -> list[Path]:
    """Where the folders of people are if the user named the folder around them, or one of them."""
    inside = [root / 'sourcedata' / 'freesurfer', root / 'freesurfer']
    return [root.parent] if (root / 'stats').is_dir() else [p for p in inside if p.is_dir()]


def _check_unchanged(files: FeatureFiles, text: str) -> None:
    """Refuse stats files that are not those of the table; that it is there is checked later."""
    if files.source.is_file() and files.source.read_bytes() != text.encode():
        raise UsageError(
            f'the stats files are not those that {files.source} was read from; run the '
            'participant level again'
        )


def _sidecar(settings: Settings, what: str, stats: StatsTable) -> dict[str, Any]:
    """Which files the table was read from, and what each column is."""
    layout, links = Layout(settings.output_dir), datasets(settings)
    files = [file for row in stats.files for file in row]
    lines = sorted(
        f'{file.path.parent.parent.name}/{file.path.name} {file.sha256}\n' for file in files
    )
    labels = {PERSON: 'Label of the person', SESSION: 'Label of the session'}
    columns = {
        name: {'Description': labels[name]} for name in stats.table.header if name in labels
    }
    return {
        'Description': f'{what} of each person, as the stats files of FreeSurfer or FastSurfer '
        'say it; n/a where a region is not there',
        'GeneratedBy': [generator(settings.run.container)],
        'Sources': [layout.uri(file.path, links) for file in files],
        'SourcesSHA256': sha256(''.join(lines).encode()).hexdigest(),
        'StatsVersions': [f'{name}: {n} rows' for name, n in Counter(stats.versions).items()],
        'SoftwareVersion': __version__,
        **columns,
        **{c.name: {'Description': c.meaning, 'Units': c.unit} for c in stats.columns},
    }
