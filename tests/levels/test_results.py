"""What the pages of a run mark as unusual, and how failures are reported."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddae_app.bids.cohort import Cohort, read_cohort
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.dataset import read_scans
from ddae_app.bids.layout import Layout, RunFiles, sidecar
from ddae_app.bids.measures import MEASURES
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import space_of
from ddae_app.engine.run import Crashes, _Narrator, crash_reason, log
from ddae_app.levels.participant.results import (
    Results,
    _failed_report,
    _row,
    _scan_warnings,
    entries_of,
    write_results,
)
from ddae_app.settings import Protocol, Settings


@pytest.mark.parametrize(
    ('name', 'value', 'unusual'),
    [
        ('registration_correlation', 0.5, False),
        ('registration_correlation', 0.35, True),
        ('target_distance_after', 0.065, False),
        ('target_distance_after', 0.08, True),
        ('mask_template_dice', 0.91, True),
        ('anatomy_unexplained', 0.11, True),
        ('csf_share_change', -0.16, True),
        ('csf_share_change', 0.14, False),
        ('ssim', 0.1, False),
    ],
)
def test_measures_outside_of_what_is_usual_are_flagged(name, value, unusual):
    entries = {'target_distance_before': 0.06, name: value}
    assert MEASURES[name].is_unusual(value, entries) is unusual


@pytest.mark.parametrize(
    ('entries', 'words'),
    [
        ({'anatomy_flag': 'none', 'brain_unchecked': 'none', 'bright_share': 0.0}, ()),
        ({}, ()),
        ({'anatomy_flag': 'CSF +20 % of the brain volume'}, ('changed the anatomy: CSF',)),
        (
            {
                'anatomy_flag': 'not checked',
                'harmonization_unchecked': 'anatomy_unexplained, because no brain lies deep',
            },
            ('Could not be checked: anatomy_unexplained, because no brain lies deep.',),
        ),
        ({'brain_unchecked': 'cjv, because x'}, ('Could not be checked: cjv, because x.',)),
        (
            {'SourceSiteKnown': False},
            ('this scan alone, and may contain features of its subject.',),
        ),
        (
            {'SourceSiteKnown': False, 'ScansAdaptedTo': 5},
            ('5 scans of the site, and may contain features of these subjects.',),
        ),
        ({'bright_share': 0.0134}, ('1.3 % of the brain outshines all tissue',)),
    ],
)
def test_what_is_unusual_or_unchecked_is_said_on_the_page(entries, words):
    warnings = _scan_warnings(entries)
    assert len(warnings) == len(words)
    assert all(word in warning for word, warning in zip(words, warnings, strict=True))


def crash(logs, run, scan, end):
    file = logs / run / f'crash-{scan.workflow}.txt'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'Node: ddae_wf.{scan.workflow}.preproc_wf.conform\n\nTraceback:\n{end}\n\n')
    return file


def test_a_failed_scan_shows_its_own_latest_crash(tmp_path):
    scan, other = (
        Scan(Path(f'{stem}_T1w.nii.gz'), '1', None, stem)
        for stem in ('sub-1_run-1', 'sub-1_run-10')
    )
    crash(tmp_path, '2026-1', scan, 'ddae_app.errors.ImageError: an old reason')
    crash(tmp_path, '2026-2', scan, 'ddae_app.errors.ImageError: cut <short>')
    crash(tmp_path, '2026-2', other, 'ddae_app.errors.ImageError: of another')
    runs = [RunFiles(tmp_path / name) for name in ('2026-3', '2026-2', '2026-1')]
    report = _failed_report(scan, 'x was not written', Crashes(runs))
    assert report.error == 'x was not written; an earlier run failed: cut <short>'
    name, text = report.crash
    assert name.startswith('logs/2026-2/crash-') and 'cut <short>' in text
    assert _failed_report(scan, 'a: cut <short>', Crashes(runs[1:2])).error == 'a: cut <short>'
    assert _failed_report(scan, 'refused', Crashes(runs[:1])).crash is None


def test_results_of_many_scans_look_at_each_of_them_once(tmp_path, monkeypatch):
    """Ten times as many scans, all of which failed, take ten times as long."""

    class Watched(Scan):
        def __getattribute__(self, name):
            looks[name] += 1
            return super().__getattribute__(name)

    def read(path, **options):
        looks['read'] += path.name.startswith('crash-')
        return read_text(path, **options)

    read_text, looks = Path.read_text, Counter()
    monkeypatch.setattr(Path, 'read_text', read)

    def needed(n):
        logs = RunFiles(tmp_path / 'logs' / f'of {n}')
        names = [f'sub-{i}' for i in range(n)]
        scans = [Watched(Path(f'{name}_T1w.nii'), name[4:], None, name) for name in names]
        for scan in scans:
            crash(logs.folder.parent, logs.run_id, scan, 'ddae_app.errors.ImageError: bad')
        settings = Settings(tmp_path, tmp_path / 'out', 'participant')
        layout = Layout(settings.output_dir).in_space(space_of(Protocol()))
        cohort = Cohort({name: Covariates() for name in names}, None, ())
        looks.clear()
        results = Results(settings, layout, cohort, None, logs, '')
        pages = write_results(results, scans, dict.fromkeys(scans, 'failed'))
        assert all('ImageError: bad' in page.read_text() for page in pages)
        return {name: looks[name] for name in ('participant', 'workflow', 'read')}

    assert needed(20) == {name: 10 * number for name, number in needed(2).items()}


def test_the_page_of_a_scan_that_another_run_works_on_is_left_to_it(tmp_path):
    gone = "FileNotFoundError: [Errno 2] No such file or directory: '/w/_0x0cd2_unfinished.json'"
    scans = [Scan(Path(f'sub-{i}_T1w.nii'), i, None, f'sub-{i}') for i in ('1', '2')]
    reasons = {
        scan: crash_reason(crash(tmp_path / 'logs', 'r', scan, end))
        for scan, end in zip(scans, (gone, 'ddae_app.errors.ImageError: bad'), strict=True)
    }
    settings = Settings(tmp_path, tmp_path / 'out', 'participant')
    layout = Layout(settings.output_dir).in_space(space_of(Protocol()))
    cohort = Cohort({scan.stem: Covariates() for scan in scans}, None, ())
    results = Results(settings, layout, cohort, None, RunFiles(tmp_path / 'logs' / 'r'), '')
    layout.root.mkdir()
    layout.page('1').write_text('by the other run')
    assert write_results(results, scans, reasons) == [layout.page('2')]
    assert layout.page('1').read_text() == 'by the other run'
    assert 'bad' in layout.page('2').read_text()


def test_the_page_shows_the_settings_that_repeat_the_run(tmp_path):
    """Not those that it found out, such as the folder of this dataset in the work directory."""
    scan = Scan(Path('sub-1_T1w.nii'), '1', None, 'sub-1')
    logs = RunFiles(tmp_path / 'logs' / 'r')
    settings = Settings(tmp_path, tmp_path / 'out', 'participant')
    layout = Layout(settings.output_dir).in_space(space_of(Protocol()))
    results = Results(settings, layout, Cohort({'sub-1': Covariates()}, None, ()), None, logs, '')
    (page,) = write_results(results, [scan], {scan: 'bad'})
    assert 'analysis_level = ' in page.read_text()
    logs.folder.mkdir(parents=True)
    logs.settings.write_text('unseen_site = auto')
    (page,) = write_results(results, [scan], {scan: 'bad'})
    assert 'unseen_site = auto' in page.read_text()
    assert 'analysis_level' not in page.read_text()


def outputs(layout, scan, *, harmonized):
    """The images of a scan, empty, with sidecars that say what the page needs."""
    said = {'MadeFrom': {}, 'SkullStripMethod': 'deepbet', 'Resolution': 'of a test'}
    for path in layout.preprocessed(scan):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    sidecar(layout.image('preproc', scan)).write_text(json.dumps(said))
    if harmonized:
        image = layout.image('harmonized', scan)
        image.touch()
        of = {'SourceSite': 'London', 'SourceSiteFrom': 'column site', 'Age': 31, 'Sex': 'F'}
        said |= of | {'TargetSite': 'Paris', 'ssim': 0.91}
        sidecar(image).write_text(json.dumps(said))


def test_jobs_of_single_sessions_write_one_page_of_all_sessions(tmp_path):
    """Of sessions that a run did not select, it shows what the outputs say, if they are whole."""
    bids = tmp_path / 'bids'
    scans = [
        Scan(bids / f'sub-1/ses-{i}/anat/sub-1_ses-{i}_T1w.nii.gz', '1', i, f'sub-1_ses-{i}')
        for i in '1234'
    ]
    settings = Settings(bids, tmp_path / 'out', 'participant')
    layout = Layout(settings.output_dir).in_space(space_of(Protocol()))
    first, second, unfinished, preprocessed = scans
    outputs(layout, first, harmonized=True)
    layout.image('preproc', unfinished).parent.mkdir(parents=True)
    layout.image('preproc', unfinished).touch()

    def page_of(scan):
        cohort = Cohort({scan.stem: Covariates('Rome', 40.0)}, None, ())
        logs = RunFiles(tmp_path / 'logs' / scan.stem)
        (page,) = write_results(Results(settings, layout, cohort, None, logs, ''), [scan], {})
        return page.read_text()

    alone = page_of(first)
    assert 'Rome' in alone and 'London' not in alone and 'sub-1_ses-2' not in alone
    outputs(layout, second, harmonized=True)
    outputs(layout, preprocessed, harmonized=False)
    text = page_of(second)
    places = [text.index(f'<section id="{scan.stem}">') for scan in (first, second, preprocessed)]
    assert places == sorted(places)
    assert unfinished.stem not in text
    of_first, of_second, of_last = (
        text[place:end] for place, end in zip(places, [*places[1:], None], strict=True)
    )
    assert 'London (column site)' in of_first and '31 years, F' in of_first and '0.91' in of_first
    assert (
        'Not in the run that wrote this page' in of_first and 'sub-1_ses-1_T1w.nii.gz' in of_first
    )
    assert 'Rome' in of_second and 'Not in the run that wrote this page' not in of_second
    assert 'No errors to report!' in alone and 'No errors to report of the scans in this' in text
    assert 'Not in the run that wrote this page' in of_last and '<th>Site</th>' not in of_last


def _sessions(tmp_path):
    """A dataset of three sessions of a person, its layout, and how to write a page of some."""
    bids = tmp_path / 'bids'
    scans = [
        Scan(bids / f'sub-1/ses-{i}/anat/sub-1_ses-{i}_T1w.nii.gz', '1', i, f'sub-1_ses-{i}')
        for i in '123'
    ]
    for scan in scans:
        scan.path.parent.mkdir(parents=True)
        scan.path.touch()
    (bids / 'participants.tsv').write_text('participant_id\tsite\tsex\nsub-1\tRome\tF\n')
    rows = ''.join(f'ses-{i}\t{40 + int(i)}\n' for i in '123')
    (bids / 'sub-1' / 'sub-1_sessions.tsv').write_text('session_id\tage\n' + rows)
    settings = Settings(bids, tmp_path / 'out', 'participant')
    layout = Layout(settings.output_dir).in_space(space_of(Protocol()))

    def page_of(*own, failures=(), run='2026-9', **select):
        chosen = replace(settings, select=replace(settings.select, **select))
        cohort = read_cohort(bids, own, **select)
        logs = layout.run(run)
        reasons = {scan: crash_reason(logs.folder / f'crash-{scan.workflow}.txt')
                   for scan in failures}  # fmt: skip
        write_results(Results(chosen, layout, cohort, None, logs, ''), own, reasons)
        return layout.page('1').read_text()

    return scans, layout, page_of


def test_a_scan_that_failed_in_another_job_is_on_the_page(tmp_path):
    (first, second, third), layout, page_of = _sessions(tmp_path)
    logs, error = layout.root / 'logs', 'ddae_app.errors.ImageError: cut <short>'
    crash(logs, '2026-1', first, error)
    assert 'cut &lt;short&gt;' in page_of(first, failures=[first], run='2026-1')
    outputs(layout, second, harmonized=False)
    text = page_of(second)
    _, place, rest = text.partition(f'<section id="{first.stem}">')
    part = rest.split('</section>')[0]
    assert place and 'cut &lt;short&gt;' in part and 'Not in the run that wrote this page' in part
    assert 'logs/2026-1/crash-' in text and '2, of which 1 failed' in text
    assert third.stem not in text
    # It is told no more once it has outputs, nor of a scan that another run just works on.
    gone = "FileNotFoundError: [Errno 2] No such file or directory: '/w/_0x0cd2_unfinished.json'"
    crash(logs, '2026-2', third, gone)
    outputs(layout, first, harmonized=False)
    text = page_of(second)
    assert 'cut &lt;short&gt;' not in text and third.stem not in text


def test_what_cannot_be_read_of_other_jobs_is_no_reason_to_fail(tmp_path):
    """Odd entries of logs, and tables of the dataset that were spoiled since the run began."""
    (first, second, _), layout, page_of = _sessions(tmp_path)
    run = crash(layout.root / 'logs', '2026-1', first, 'ddae_app.errors.ImageError: cut').parent
    (run / 'crash-a.txt').mkdir()
    (run / 'crash-b.txt').symlink_to('nowhere')
    (run / 'crash-c.txt').write_bytes(b'Node: \xff')
    outputs(layout, second, harmonized=False)
    assert 'cut' in page_of(second).partition(f'<section id="{first.stem}">')[2]
    bids = first.path.parents[3]
    cohort = read_cohort(bids, [second])
    (bids / 'participants.tsv').write_bytes(b'\xff\xfe')
    settings = Settings(bids, layout.root, 'participant')
    results = Results(settings, layout, cohort, None, layout.run('2026-9'), '')
    (page,) = write_results(results, [second], {})
    assert 'Rome (column' in page.read_text() and f'id="{first.stem}"' in page.read_text()


def test_site_age_and_sex_of_scans_that_another_job_preprocessed(tmp_path):
    """From the tables, and the site of --source-site from the table of the scan."""
    (first, second, _), layout, page_of = _sessions(tmp_path)
    people = first.path.parents[3] / 'participants.tsv'
    for scan in (first, second):
        outputs(layout, scan, harmonized=False)
    page_of(first)
    part = page_of(second).partition(f'<section id="{first.stem}">')[2].split('</section>')[0]
    assert 'Not in the run that wrote this page' in part and '41 years, F' in part
    assert 'Rome (column' in page_of(second)
    people.write_text('participant_id\tsex\nsub-1\tF\n')
    page_of(first, source_site='Oslo')
    part = page_of(second).partition(f'<section id="{first.stem}">')[2].split('</section>')[0]
    assert 'Oslo (as recorded)' in part and '41 years, F' in part
    # What the dataset has no more is shown as far as it is known.
    first.path.unlink()
    part = page_of(second).partition(f'<section id="{first.stem}">')[2].split('</section>')[0]
    assert 'Not in the run' in part and '<th>Site</th>' not in part


def test_tables_do_not_keep_what_a_later_run_no_longer_has(tmp_path):
    """Measures of a harmonization that is gone, and a second row of one scan."""
    scan = Scan(tmp_path / 'sub-1_T1w.nii.gz', '1', None, 'sub-1')
    settings = Settings(tmp_path, tmp_path / 'out', 'participant')
    layout = Layout(settings.output_dir).in_space(space_of(Protocol()))
    cohort = Cohort({scan.stem: Covariates('Rome')}, None, ())
    results = Results(settings, layout, cohort, None, RunFiles(tmp_path / 'logs'), '')
    outputs(layout, scan, harmonized=True)
    layout.image('preproc', scan).rename(tmp_path / 'elsewhere')
    write_results(results, [scan], {})
    (tmp_path / 'elsewhere').rename(layout.image('preproc', scan))
    (row,) = read_scans(layout.scans_table(scan))
    assert (row['filename'], row['ssim']) == (
        f'anat/{layout.image("harmonized", scan).name}',
        '0.91',
    )
    write_results(results, [scan], {})
    (row,) = read_scans(layout.scans_table(scan))
    assert (row['filename'], row['ssim']) == (f'anat/{layout.image("preproc", scan).name}', '0.91')
    sidecar(layout.image('harmonized', scan)).unlink()
    write_results(results, [scan], {})
    (row,) = read_scans(layout.scans_table(scan))
    assert (row['target_site'], row['ssim']) == ('n/a', 'n/a')
    assert 'csf_share_change' not in row


def test_a_crash_is_reported_in_one_line(tmp_path):
    scan = Scan(Path('sub-1_T1w.nii.gz'), '1', None, 'sub-1')
    assert crash_reason(crash(tmp_path, 'r', scan, 'ddae_app.errors.ImageError: bad')) == 'bad'
    odd = crash(tmp_path, 'r', scan, 'ZeroDivisionError')
    assert crash_reason(odd).startswith('step conform failed unexpectedly (ZeroDivisionError);')
    full = crash(tmp_path, 'r', scan, 'MemoryError')
    assert crash_reason(full).startswith('step conform: there is too little memory; run the same')
    gone = "FileNotFoundError: [Errno 2] No such file or directory: '/w/_0x0cd2_unfinished.json'"
    taken = crash_reason(crash(tmp_path, 'r', scan, gone))
    assert taken.startswith('step conform: another run works on this scan in the same work direc')


def test_steps_that_never_began_are_not_reported(monkeypatch):
    lines = []
    for name in ('info', 'warning'):
        monkeypatch.setattr(log, name, lambda text, *words: lines.append(text % words))
    scan = Scan(Path('sub-1_T1w.nii.gz'), '1', None, 'sub-1')
    report = _Narrator([scan])
    conform, register = (
        SimpleNamespace(fullname=f'ddae_wf.{scan.workflow}.preproc_wf.{name}')
        for name in ('conform', 'register_mni')
    )
    report(conform, 'start')
    report(conform, 'exception')
    report(register, 'end')
    report(register, 'start')
    report(register, 'end')
    assert lines == ['sub-1: conform failed', 'sub-1: register to MNI (0 s)']


def test_writing_is_reported_only_if_it_fails(caplog):
    """In one process it would be, and in several not: there, nipype tells nothing of its begin."""
    caplog.set_level('INFO', 'ddae_app')
    scan = Scan(Path('sub-1_T1w.nii.gz'), '1', None, 'sub-1')
    report, name = _Narrator([scan]), f'ddae_wf.{scan.workflow}.derivatives_wf.ds_harmonized'
    for status in ('start', 'end', 'exception'):
        report(SimpleNamespace(fullname=name), status)
    assert caplog.messages == ['sub-1: write the harmonized image failed']


def test_what_was_made_of_an_earlier_image_is_not_shown_beside_a_later_one(tmp_path):
    layout = Layout(tmp_path).in_space(space_of(Protocol()))
    scan = Scan(tmp_path / 'sub-1_T1w.nii.gz', '1', None, 'sub-1')
    harmonized = layout.image('harmonized', scan)
    harmonized.parent.mkdir(parents=True)
    facts = {'TargetSite': 'B', 'SourceSite': 'A'}
    sidecar(harmonized).write_text(json.dumps(facts))
    assert entries_of(layout, scan, [tmp_path]) == {}
    sidecar(harmonized).write_text(json.dumps(facts | {'MadeFrom': {}}))
    entries = entries_of(layout, scan, [tmp_path])
    assert entries == facts
    # A table that has changed since does not change what was harmonized.
    assert _row(Covariates('C'), entries) == {'source_site': 'A', 'target_site': 'B'}
    assert _row(Covariates('C'), {})['source_site'] == 'C'
