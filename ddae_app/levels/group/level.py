"""Group level: evaluate the harmonization, and gather the quality measures of all scans."""

from __future__ import annotations

import logging
from pathlib import Path

from ddae_app.bids.dataset import read_scans, to_tsv
from ddae_app.bids.layout import Layout, read_name
from ddae_app.bids.measures import MEASURES
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
    evaluation, ``group_metrics.json``; if not, that of an earlier run is removed.

    Raises
    ------
    NothingSelectedError
        The output folder holds no participant-level results.
    UsageError
        A flag names a column, a site or a file that does not exist.
    InvalidBIDSError
        The tables say of a scan what is not understood.
    """
    layout = Layout(settings.output_dir)
    rows, pages = quality_of_all(layout)
    write_atomically(layout.group_table, to_tsv(rows))
    evaluation: EvaluationReport | str
    try:
        evaluation = evaluate_outputs(settings, default_model)
        write_atomically(layout.group_metrics, metrics_json(evaluation))
        log.info('The measures of the evaluation were written to %s.', layout.group_metrics)
    except NotEvaluableError as error:
        evaluation = str(error)
        # Those of an earlier run would contradict the page.
        layout.group_metrics.unlink(missing_ok=True)
        log.warning('The harmonization was not evaluated: %s.', error)
    meanings = {name: measure.meaning for name, measure in MEASURES.items()}
    write_group_report(layout.group_page, rows, meanings, pages, evaluation)
    count = f'{len(rows)} scan{"" if len(rows) == 1 else "s"}'
    log.info('The quality measures of %s were written to %s.', count, layout.group_table)
    log.info('The report was written to %s.', layout.group_page)
    return 0


def quality_of_all(layout: Layout) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Read the quality measures of every scan, and find the page of its participant, if any.

    Raises
    ------
    NothingSelectedError
        There are no tables of scans.
    InvalidBIDSError
        A table is damaged.
    """
    rows, pages = [], {}
    for path in layout.scans_tables():
        for row in read_scans(path):
            name = row.pop('filename').split('/')[-1]
            rows.append({'bids_name': name, **row})
            image = read_name(name)
            if image and (page := layout.page(image.participant)).is_file():
                pages[name] = page.name
    if not rows:
        raise NothingSelectedError(
            f'{layout.root}: no sub-*_scans.tsv; run the participant level first'
        )
    return rows, pages
