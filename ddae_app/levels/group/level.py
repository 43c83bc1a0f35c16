"""Group level: evaluate the harmonization, and gather the quality measures of all scans."""

from __future__ import annotations

import logging
from pathlib import Path

from ddae_app.bids.dataset import QC_MEANING, read_scans, to_tsv
from ddae_app.errors import NotEvaluableError, NothingSelectedError
from ddae_app.files import write_atomically
from ddae_app.levels.group.evaluate import evaluate_outputs, metrics_json
from ddae_app.reports.evaluation import EvaluationReport
from ddae_app.reports.group import write_group_report
from ddae_app.settings import Settings

log = logging.getLogger('ddae_app')


def run_group(settings: Settings, default_model: Path | None = None) -> int:
    """Gather every ``*_scans.tsv``, and evaluate residual site effects and preserved biology.

    Writes ``group_T1w.tsv``, ``group_T1w.html`` and, if there are enough participants for an
    evaluation, ``group_metrics.json``.

    Raises
    ------
    NothingSelectedError
        The output folder holds no participant-level results.
    UsageError
        A flag names a column, a site or a file that does not exist.
    """
    rows, pages = quality_of_all(settings.output_dir)
    table = settings.output_dir / 'group_T1w.tsv'
    write_atomically(table, to_tsv(rows))
    evaluation: EvaluationReport | str
    try:
        evaluation = evaluate_outputs(settings, default_model)
        metrics = settings.output_dir / 'group_metrics.json'
        write_atomically(metrics, metrics_json(evaluation))
        log.info('The measures of the evaluation were written to %s.', metrics)
    except NotEvaluableError as error:
        evaluation = str(error)
        log.warning('The harmonization was not evaluated: %s.', error)
    page = settings.output_dir / 'group_T1w.html'
    write_group_report(page, rows, QC_MEANING, pages, evaluation)
    log.info('The quality measures of %d scans were written to %s.', len(rows), table)
    log.info('The report was written to %s.', page)
    return 0


def quality_of_all(output_dir: Path) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Read the quality measures of every scan, and find the page of its participant.

    Raises
    ------
    NothingSelectedError
        There are no tables of scans.
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
