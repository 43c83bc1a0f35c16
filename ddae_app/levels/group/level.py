"""Group level: the quality measures of all participants in one table and one page."""

from __future__ import annotations

import logging
from pathlib import Path

from ddae_app.bids.dataset import read_scans, to_tsv
from ddae_app.bids.layout import Layout, read_name
from ddae_app.bids.measures import MEASURES
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
    layout = Layout(settings.output_dir)
    rows, pages = quality_of_all(layout)
    write_atomically(layout.group_table, to_tsv(rows))
    evaluation: EvaluationReport | str
    try:
        evaluation = evaluate_outputs(settings, default_model)
        write_atomically(layout.group_metrics, metrics_json(evaluation))
        log.info('measures: %s', layout.group_metrics)
    except NotJudgedError as error:
        evaluation = str(error)
        log.warning('whether the site is gone was not measured: %s', error)
    meanings = {name: measure.meaning for name, measure in MEASURES.items()}
    write_group_report(layout.group_page, rows, meanings, pages, evaluation)
    log.info('%d scans: %s', len(rows), layout.group_table)
    log.info('report: %s', layout.group_page)
    return 0


def quality_of_all(layout: Layout) -> tuple[list[dict[str, str]], dict[str, str]]:
    """The quality measures of every scan, and its participant's page by its name.

    Raises
    ------
    NothingSelectedError
        There are none.
    InvalidBIDSError
        A table is damaged.
    """
    rows, pages = [], {}
    for path in layout.scans_tables():
        for row in read_scans(path):
            name = row.pop('filename').split('/')[-1]
            rows.append({'bids_name': name, **row})
            image = read_name(name)
            if image:
                pages[name] = layout.page(image.participant).name
    if not rows:
        raise NothingSelectedError(
            f'{layout.root}: no sub-*_scans.tsv; run the participant level first'
        )
    return rows, pages
