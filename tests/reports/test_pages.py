"""Pages hold what they are given, escaped, and take nothing from the network."""

from __future__ import annotations

import re

from ddae_app.reports.group import write_group_report
from ddae_app.reports.participant import (
    Measure,
    ParticipantReport,
    Picture,
    ScanReport,
    write_participant_report,
)

HOSTILE = '<script>alert("x")</script>'


def report(**changes):
    scan = ScanReport(
        name='sub-01_run-1',
        error=None,
        summary=(('Site', HOSTILE),),
        quality=(Measure('ssim', '0.98', 'similarity'),),
        figures=(Picture('Brain mask', 'outline', 'sub-01/figures/a.svg'),),
    )
    failed = ScanReport('sub-01_run-2', 'the file is truncated', (), (), ())
    values = {
        'participant': '01', 'version': '1', 'run_id': 'r', 'warnings': ('a phantom model',),
        'scans': (scan, failed), 'methods': 'Scans were registered.',
    } | changes  # fmt: skip
    return ParticipantReport(**values)


def test_participant_page_says_everything(tmp_path):
    path = tmp_path / 'sub-01.html'
    write_participant_report(path, report())
    page = path.read_text()
    for words in (
        'sub-01_run-1', 'a phantom model', 'the file is truncated', 'sub-01/figures/a.svg',
        '0.98', 'Scans were registered.',
    ):  # fmt: skip
        assert words in page


def test_participant_page_escapes_what_it_is_given(tmp_path):
    path = tmp_path / 'sub-01.html'
    write_participant_report(path, report(methods=HOSTILE, warnings=(HOSTILE,)))
    assert '<script' not in path.read_text()
    assert path.read_text().count('&lt;script&gt;') == 3


def test_pages_need_no_network(tmp_path):
    write_participant_report(tmp_path / 'a.html', report())
    write_group_report(tmp_path / 'b.html', [{'bids_name': 's', 'ssim': '1'}], {}, {})
    for name in ('a.html', 'b.html'):
        page = (tmp_path / name).read_text()
        assert not re.search(r'(src|href)="(https?:)?//', page)
        assert '@import' not in page


def test_group_page_has_a_dot_per_scan_and_measure(tmp_path):
    rows = [
        {'bids_name': f'sub-{i:02}', 'source_site': site, 'ssim': f'0.{i}', 'note': HOSTILE}
        for i, site in enumerate(['A', 'A', 'B'])
    ]
    path = tmp_path / 'group.html'
    write_group_report(path, rows, {'ssim': 'similarity'}, {'sub-00': 'sub-00.html'})
    page = path.read_text()
    assert page.count('<circle') == 3
    assert page.count('<svg') == 1
    assert 'href="sub-00.html"' in page
    assert '<script' not in page


def test_group_page_leaves_missing_values_out(tmp_path):
    rows = [
        {'bids_name': 'a', 'source_site': 'A', 'ssim': 'n/a'},
        {'bids_name': 'b', 'source_site': 'A', 'ssim': '0.5'},
    ]
    write_group_report(tmp_path / 'g.html', rows, {}, {})
    assert (tmp_path / 'g.html').read_text().count('<circle') == 1
