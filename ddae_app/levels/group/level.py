"""Group level: the quality measures of all participants in one table and one page."""

from __future__ import annotations

import logging
from pathlib import Path

from ddae_app.bids.dataset import QC_MEANING, read_scans, to_tsv
from ddae_app.errors import NothingSelectedError, NotJudgedError
from ddae_app.files import write_atomically
from ddae_app.levels.group.evaluate import evaluate_outputs, metrics_json
from ddae_app.reports.evaluation import EvaluationReport
from ddae_app.reports.group import write_group_report
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')


def run_group(settings: Settings, default_model: Path | None = None) -> int:
    """Gather every ``*_scans.tsv``, and judge whether the site is gone and the person still there.

    Writes ``group_T1w.tsv``, ``group_T1w.html`` and, where there are people enough to judge,
    ``group_metrics.json``.

    Raises
    ------
    NothingSelectedError
        The output folder holds no participant-level results.
    UsageError
        A flag asks for what is not there.
    """
    rows, pages = quality_of_all(settings.output_dir)
    table = settings.output_dir / 'group_T1w.tsv'
    write_atomically(table, to_tsv(rows))
    evaluation: EvaluationReport | str
    try:
        evaluation = evaluate_outputs(settings, default_model)
        metrics = settings.output_dir / 'group_metrics.json'
        write_atomically(metrics, metrics_json(evaluation))
        log.info('figures: %s', metrics)
    except NotJudgedError as error:
        evaluation = str(error)
        log.warning('whether the site is gone was not measured: %s', error)
    page = settings.output_dir / 'group_T1w.html'
    write_group_report(page, rows, QC_MEANING, pages, evaluation)
    log.info('%d scans: %s', len(rows), table)
    log.info('report: %s', page)
    return 0


def quality_of_all(output_dir: Path) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The quality measures of every scan, and its participant's page by its name.

    Raises
    ------
    NothingSelectedError
        There are none.
    InvalidBIDSError
        A table is damaged.
    """
    rows, pages = [], {}
    for path in sorted(output_dir.glob('sub-*/**/*_scans.tsv')):
        for row in read_scans(path):
            name = row.pop('filename').split('/')[-1]
            rows.append({'bids_name': name, **row})
            pages[name] = f'{name.split("_")[0]}.html'
    if not rows:
        raise NothingSelectedError(
            f'{output_dir}: no sub-*_scans.tsv; run the participant level first'
        )
    return rows, pages
