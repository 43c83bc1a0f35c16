"""Pages hold what they are given, escaped, and take nothing from the network."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from ddae_app.evaluation.estimates import Estimate
from ddae_app.reports import boilerplate
from ddae_app.reports.evaluation import EvaluationReport, MethodReport
from ddae_app.reports.group import LEFT, MAX_DOTS, RIGHT, write_group_report
from ddae_app.reports.participant import (
    Measure,
    ParticipantReport,
    Picture,
    ScanReport,
    write_participant_report,
)

HOSTILE = '<script>alert("x")</script>'


class Balance(HTMLParser):
    """Fails on a tag that is closed without having been opened."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ('meta', 'br', 'img', 'input'):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def report(**changes):
    scan = ScanReport(
        name='sub-01_run-1',
        error=None,
        summary=(('Site', HOSTILE),),
        quality=(Measure('ssim', '0.98', 'similarity'),),
        figures=(Picture('Anatomical', 'Brain mask', 'outline', 'sub-01/figures/a.svg'),),
    )
    failed = ScanReport(
        'sub-01_run-2', 'the file is truncated', (), (), (), crash=('logs/r/crash-1.txt', HOSTILE)
    )
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
    # The site, the warning, the crash file, and the methods as HTML, Markdown and LaTeX.
    assert path.read_text().count('&lt;script&gt;') == 6


def test_the_scans_of_a_participant_stand_side_by_side(tmp_path):
    first, failed = report().scans
    second = ScanReport(
        'sub-01_ses-2',
        None,
        (('Site', 'B'), ('Space', 'MNI')),
        (Measure('ssim', '0.71', 'similarity', flagged=True), Measure('cjv', '0.4', 'noise')),
        (Picture('Anatomical', 'Brain mask', 'outline', 'sub-01/figures/b.svg'),),
    )
    path = tmp_path / 'sub-01.html'
    both = report(scans=(first, failed, second))
    assert both.differing == {'Site': [HOSTILE, 'B'], 'Space': ['', 'MNI']}
    write_participant_report(path, both)
    page = path.read_text()
    Balance().feed(page)
    (table,) = re.findall(r'<section id="compared">.*?</section>', page, re.DOTALL)
    rows = re.findall(r'<tr>(.*?)</tr>', table, re.DOTALL)
    assert 'href="#sub-01_run-1"' in rows[0] and 'href="#sub-01_ses-2"' in rows[0]
    (ssim,) = (row for row in rows if 'ssim' in row)
    assert re.search('0.98.*&#9873;.*0.71', ssim)
    (cjv,) = (row for row in rows if 'cjv' in row)
    assert re.search('n/a.*0.4', cjv)
    assert re.search(r'figures/a\.svg.*figures/b\.svg', table, re.DOTALL)
    write_participant_report(path, report())
    assert 'id="compared"' not in path.read_text(), 'there is one scan to show'


def test_pages_need_no_network(tmp_path):
    write_participant_report(tmp_path / 'a.html', report())
    write_group_report(tmp_path / 'b.html', [{'bids_name': 's', 'ssim': '1'}], {}, {})
    for name in ('a.html', 'b.html'):
        page = (tmp_path / name).read_text()
        assert not re.search(r'(src|data)="(https?:)?//', page)
        # Links that are followed by hand lead elsewhere, nothing else does.
        assert not re.search(r'<(?!a )[^>]*href="(https?:)?//', page)
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
    assert page.count('href="sub-00.html"') == 2  # from the table and from the dot
    assert HOSTILE not in page
    assert page.count('<script') == 1  # our own
    assert page.count('<tr>') == 1 + len(rows)


def test_group_page_leaves_missing_values_out(tmp_path):
    rows = [
        {'bids_name': 'a', 'source_site': 'A', 'ssim': 'n/a'},
        {'bids_name': 'b', 'source_site': 'A', 'ssim': '0.5'},
    ]
    write_group_report(tmp_path / 'g.html', rows, {}, {})
    assert (tmp_path / 'g.html').read_text().count('<circle') == 1


def test_group_page_does_not_take_sites_for_measures(tmp_path):
    rows = [{'bids_name': 'a', 'source_site': '1', 'target_site': '2', 'ssim': '0.5'}]
    write_group_report(tmp_path / 'g.html', rows, {}, {})
    assert (tmp_path / 'g.html').read_text().count('<svg') == 1


def test_group_page_stays_small_and_keeps_the_extremes(tmp_path):
    rows = [{'bids_name': f's{i}', 'source_site': 'A', 'ssim': f'{i / 1000}'} for i in range(1000)]
    write_group_report(tmp_path / 'g.html', rows, {}, {})
    page = (tmp_path / 'g.html').read_text()
    assert page.count('<circle') == MAX_DOTS
    assert f'{1000 - MAX_DOTS} scans' in page
    assert '<title>s0: 0</title>' in page
    assert '<title>s999: 0.999</title>' in page


def test_group_page_has_room_for_long_names_and_counts_in_the_singular(tmp_path):
    """Labels of up to 23 letters were cut off at the left."""
    names = {
        'S' * 22: 'SSSSSSSSS…SSSSSSSS',
        'North-Eastern site 1': 'North-Eas…n site 1',
        'A': 'A',
    }
    rows = [
        {'bids_name': f's{i}', 'source_site': site, 'ssim': f'{i / 1000}'}
        for site, number in zip(names, (1, 2, MAX_DOTS + 1), strict=True)
        for i in range(number)
    ]
    write_group_report(tmp_path / 'g.html', rows, {}, {})
    page = (tmp_path / 'g.html').read_text()
    for (site, label), scans in zip(
        names.items(), ('1 scan', '2 scans', '301 scans'), strict=True
    ):
        assert f'>{label}<title>{site}, {scans}</title>' in page
    assert '>1 scan with values near the median of their site is not drawn.<' in page
    assert f'<td class="site">{"S" * 22}</td>' in page


def test_group_page_draws_inside_its_frame(tmp_path):
    values = ['-1e-7', '0', '3', '1e9', 'inf']
    rows = [
        {'bids_name': f's{i}', 'source_site': 'A', 'x': v, 'same': '5'}
        for i, v in enumerate(values)
    ]
    write_group_report(tmp_path / 'g.html', rows, {}, {})
    places = [float(x) for x in re.findall(r'cx="([^"]+)"', (tmp_path / 'g.html').read_text())]
    assert len(places) == 9  # infinity has no place
    assert all(LEFT <= x <= RIGHT for x in places)


@pytest.mark.parametrize('value', ['0', '5', '-0.002', '1e-13'])
def test_the_axis_of_a_measure_that_all_scans_share_is_of_its_size(tmp_path, value):
    """A share of 0 in all scans was drawn on an axis from -1e-13 to 1e-13."""
    rows = [{'bids_name': f's{i}', 'source_site': 'A', 'same': value} for i in range(6)]
    write_group_report(tmp_path / 'g.html', rows, {}, {})
    (svg,) = re.findall(r'<svg.*?</svg>', (tmp_path / 'g.html').read_text(), re.DOTALL)
    texts = (text.strip() for text in re.findall(r'<text[^>]*>([^<]*)</text>', svg))
    ticks = [float(text) for text in texts if text not in ('A', '')]
    size = abs(float(value)) or 1
    # No share is below 0.
    assert ticks[0] < float(value) < ticks[-1] or ticks[0] == float(value) == 0
    assert 0.9 * size <= ticks[-1] - ticks[0] <= 3 * size


def test_flags_and_warnings_show(tmp_path):
    path = tmp_path / 'sub-01.html'
    scans = (
        ScanReport('a', None, (), (Measure('dice', '0.5', 'overlap', flagged=True),), ()),
        ScanReport('b', None, (), (), (), warnings=('age is not known',)),
    )
    write_participant_report(path, report(scans=scans))
    page = path.read_text()
    assert page.count('(check)') == 2
    assert page.count('class="flagged"') == 1
    assert 'age is not known' in page


def test_figure_paths_cannot_leave_the_folder_for_the_network(tmp_path):
    path = tmp_path / 'sub-01.html'
    picture = Picture('Anatomical', 't', 'c', 'https://example.org/a b.svg')
    write_participant_report(path, report(scans=(ScanReport('a', None, (), (), (picture,)),)))
    assert 'src="https%3A//example.org/a%20b.svg"' in path.read_text()


def test_alternating_figures_are_embedded_so_that_they_react_to_the_mouse(tmp_path):
    path = tmp_path / 'sub-01.html'
    pictures = (Picture('A', 'still', 'c', 'a.svg'), Picture('A', 'turn', 'c', 'b c.svg', True))
    write_participant_report(path, report(scans=(ScanReport('a', None, (), (), pictures),)))
    page = path.read_text()
    assert '<img src="a.svg"' in page and 'data="b%20c.svg"' in page
    assert page.count('<img') == page.count('<object') == 1


def test_methods_come_in_four_forms(tmp_path):
    path = tmp_path / 'sub-01.html'
    write_participant_report(path, report(methods=f'One [@tustison2010].\n\nTwo {HOSTILE}\n'))
    page = path.read_text()
    assert '<p>One (<a href="#ref-tustison2010">Tustison et al., 2010</a>).</p>' in page
    assert 'One [@tustison2010].' in page  # Markdown
    assert r'\citep{tustison2010}' in page
    assert '@article{tustison2010,' in page
    assert HOSTILE not in page
    assert page.count('type="radio"') == page.count('class="format"') == 4


def test_the_methods_text_of_many_pages_is_formatted_once(tmp_path, monkeypatch):
    """Its references take a second, which thousands of participants need not wait for."""

    def spy(*names):
        loaded.append(names)
        return find_plugin(*names)

    loaded, find_plugin = [], boilerplate.find_plugin
    monkeypatch.setattr(boilerplate, 'find_plugin', spy)
    for participant in ('1', '2', '3'):
        text = 'These scans were corrected with N4 [@tustison2010].'
        page = tmp_path / f'{participant}.html'
        write_participant_report(page, report(participant=participant, methods=text))
        assert 'Tustison' in page.read_text()
    # The formatting, and what writes it, for the page and for Markdown.
    assert len(loaded) == 4


def test_a_page_without_methods_says_so(tmp_path):
    path = tmp_path / 'sub-01.html'
    write_participant_report(path, report(methods=''))
    assert 'No workflow was run' in path.read_text()
    assert 'type="radio"' not in path.read_text()


def test_errors_show_the_crash_of_their_scan_alone(tmp_path):
    path = tmp_path / 'sub-01.html'
    write_participant_report(path, report())
    errors = path.read_text().partition('id="errors"')[2]
    assert 'the file is truncated' in errors and 'logs/r/crash-1.txt' in errors
    assert '&lt;script&gt;' in errors and 'No errors' not in errors
    fine = ScanReport('a', None, (), (), ())
    write_participant_report(path, report(scans=(fine,)))
    assert 'No errors to report!' in path.read_text()


def test_facts_that_all_scans_share_are_shown_once(tmp_path):
    path = tmp_path / 'sub-01.html'
    scans = [
        ScanReport(
            f'sub-01_run-{i}', None, (('Target', 'Everywhere'), ('T1w', f'own-{i}')), (), ()
        )
        for i in (1, 2)
    ]
    failed = ScanReport('sub-01_run-3', 'cut short', (('T1w', 'own-3'),), (), ())
    write_participant_report(path, report(scans=(*scans, failed)))
    page = path.read_text()
    assert page.count('Everywhere') == 1 and '3, of which 1 failed' in page
    assert [page.count(f'own-{i}') for i in (1, 2, 3)] == [1, 1, 1]
    write_participant_report(path, report(scans=(failed,)))
    assert 'own-3' in path.read_text()


def test_the_navigation_leads_to_every_part_of_every_scan(tmp_path):
    path = tmp_path / 'sub-01.html'
    for scans in (report().scans, report().scans[:1]):
        write_participant_report(path, report(scans=scans))
        page = path.read_text()
        targets = re.findall('href="#([^"]+)"', page.partition('</nav>')[0])
        assert all(page.count(f'id="{target}"') == 1 for target in targets)
        wanted = {'summary', 'about', 'methods', 'errors'}
        wanted |= {f'{part}-{scan.name}' for scan in scans for part in scan.parts}
        wanted |= {scan.name for scan in scans if len(scans) > 1}
        assert set(targets) == wanted


def test_about_names_the_command(tmp_path):
    path = tmp_path / 'sub-01.html'
    write_participant_report(path, report(command=f'ddae-app in out participant {HOSTILE}'))
    assert 'ddae-app in out participant &lt;script&gt;' in path.read_text()


@pytest.mark.parametrize('write', ['participant', 'group'])
def test_pages_are_well_formed(write, tmp_path):
    path = tmp_path / 'page.html'
    if write == 'participant':
        write_participant_report(path, report(methods='a && b'))
    else:
        rows = [{'bids_name': f's{i}', 'source_site': '<A>', 'x': f'{i}'} for i in range(6)]
        write_group_report(path, rows, {'x': '"quoted"'}, {'s1': 'sub-1.html'})
    checker = Balance()
    checker.feed(path.read_text())
    assert checker.open == []


def evaluated(**measured: Estimate) -> EvaluationReport:
    """An evaluation of the original scans alone."""
    source = MethodReport('source', 'not needed', [], measured)
    meanings = dict.fromkeys(measured, 'what it means')
    return EvaluationReport('All is well.', 60, '<b>A', 0.5, 'As it is.', meanings, {}, [source])


def test_group_page_shows_no_number_for_what_is_none(tmp_path):
    """As edges of images without any, and intervals of too few scans."""
    nothing = float('nan')
    report = evaluated(
        edges=Estimate(nothing, nothing, nothing, 9),
        icc=Estimate(0.25, nothing, nothing, 9),
        rank=Estimate(0.5, 0.4, 0.6, 9),
    )
    write_group_report(tmp_path / 'g.html', [{'bids_name': 's', 'ssim': '1'}], {}, {}, report)
    page = (tmp_path / 'g.html').read_text()
    cells = re.findall(r'<td[^>]*>(.*?)</td>', page.partition('<td>source</td>')[2])
    assert cells[:2] == ['n/a', '0.250']
    assert cells[2] == '0.500<br><span class="quiet">0.400 to 0.600</span>'
    assert 'nan' not in page.partition('<script>')[0]


def test_group_page_does_not_say_that_original_scans_are_harmonized(tmp_path):
    write_group_report(tmp_path / 'g.html', [{'bids_name': 's'}], {}, {}, evaluated())
    page = (tmp_path / 'g.html').read_text()
    assert 'includes 60 scans. The target of the harmonization is the site &lt;b&gt;A. As' in page
    assert 'are harmonized' not in page
