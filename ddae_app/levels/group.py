"""Group level: the quality measures of all participants in one table and one page."""

from __future__ import annotations

import logging

from ddae_app.bids.dataset import QC_MEANING, read_tsv, to_tsv
from ddae_app.errors import NothingSelectedError
from ddae_app.files import write_atomically
from ddae_app.reports.group import write_group_report
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')


def run_group(settings: Settings) -> int:
    """Gather every ``*_scans.tsv`` into ``group_T1w.tsv`` and ``group_T1w.html``.

    Raises
    ------
    NothingSelectedError
        The output folder holds no participant-level results.
    """
    rows, pages = [], {}
    for path in sorted(settings.output_dir.glob('sub-*/**/*_scans.tsv')):
        for row in read_tsv(path):
            name = row.pop('filename').split('/')[-1]
            rows.append({'bids_name': name, **row})
            pages[name] = f'{name.split("_")[0]}.html'
    if not rows:
        raise NothingSelectedError(
            f'{settings.output_dir}: no sub-*_scans.tsv; run the participant level first'
        )
    table = settings.output_dir / 'group_T1w.tsv'
    write_atomically(table, to_tsv(rows))
    page = settings.output_dir / 'group_T1w.html'
    write_group_report(page, rows, QC_MEANING, pages)
    log.info('%d scans: %s', len(rows), table)
    log.info('report: %s', page)
    return 0
