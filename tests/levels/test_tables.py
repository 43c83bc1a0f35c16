"""What the tables say decides: each session by its own row, and what is not understood is told."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from ddae_app.bids.dataset import write_description
from ddae_app.cli.main import main
from tests.levels.conftest import TEMPLATE, error_lines, run

FLAGS = ('--skull-strip', 'none', '--sloppy', '--skip-bids-validation', '--nprocs', '1')
SESSION_TABLE = 'session_id\tsite\tage\n'


def add_session(bids: Path, source: Path, label: str, session: str) -> None:
    """A scan of the dataset `source` as a session of somebody."""
    anat = bids / f'sub-{label}' / f'ses-{session}' / 'anat'
    anat.mkdir(parents=True)
    for path in source.iterdir():
        ending = path.name.partition('_')[2]
        shutil.copy(path, anat / f'sub-{label}_ses-{session}_{ending}')


@pytest.fixture
def visits(bids_dir, tmp_path):
    """Two visits of A01 at two sites, one of B01 whose table spells it otherwise, one of C01."""
    bids = tmp_path / 'bids'
    bids.mkdir()
    shutil.copy(bids_dir / 'dataset_description.json', bids)
    at = {site: bids_dir / f'sub-{site}01' / 'anat' for site in 'AB'}
    for label, session, site in (
        ('A01', '01', 'A'), ('A01', '02', 'B'), ('B01', '01', 'B'), ('C01', '01', 'A'),
    ):  # fmt: skip
        add_session(bids, at[site], label, session)
    (bids / 'participants.tsv').write_text(
        'participant_id\tsite\tage\tsex\nsub-A01\tPhantomA\t34\tM\n'
        'sub-B01\tPhantomA\t40\tF\nsub-C01\tn/a\t50\tF\n'
    )
    for label, rows in (
        ('A01', 'ses-01\tPhantomA\t34\nses-02\tPhantomB\t436 months\n'),
        ('B01', 'ses-1\tPhantomB\t42\n'),
    ):
        table = bids / f'sub-{label}' / f'sub-{label}_sessions.tsv'
        table.write_text(SESSION_TABLE + rows)
    return bids


def test_each_session_is_harmonized_from_its_own_site_at_its_own_age(visits, model, tmp_path):
    out = tmp_path / 'out'
    result = run(
        visits, out, 'participant', '--target-site', 'PhantomA', '--model', model,
        '--source-site', 'PhantomB', '-w', tmp_path / 'work', *FLAGS,
    )  # fmt: skip
    assert result.returncode == 1
    (line,) = error_lines(result.stderr)
    assert 'sub-B01_sessions.tsv has no row of ses-01; it has ses-1' in line
    assert '3 of 4 T1w done' in result.stderr
    assert "sites (column 'site'): PhantomA 1, PhantomB 2; 1 not known; 1 of them" in result.stderr
    told = {}
    for path in out.rglob(f'*{TEMPLATE}*desc-harmonized_T1w.json'):
        facts = json.loads(path.read_text())
        told[path.name.split('_space')[0]] = facts['SourceSite'], facts['Age'], facts['Sex']
        assert facts['MadeFrom']['SourceSite'] == facts['SourceSite']
        assert (facts['SourceSiteFrom'] == '--source-site') == ('C01' in path.name)
    assert told == {
        'sub-A01_ses-01': ('PhantomA', 34, 'M'),
        'sub-A01_ses-02': ('PhantomB', pytest.approx(36.33, abs=0.01), 'M'),
        'sub-C01_ses-01': ('PhantomB', 50, 'F'),
    }
    page = (out / 'sub-A01.html').read_text()
    beside = page.partition('id="compared"')[2].partition('</section>')[0]
    assert 'PhantomA' in beside and 'PhantomB' in beside and 'ses-02' in beside
    assert beside.count('registration_correlation') == 1


@pytest.fixture
def said(capsys, monkeypatch):
    """Run the program in this process: its exit code, and what it says."""

    def ran(*arguments):
        monkeypatch.setattr(os, 'environ', os.environ.copy())
        code = main([str(argument) for argument in arguments])
        logging.getLogger('ddae_app').handlers = []
        return code, capsys.readouterr()

    return ran


def test_a_dry_run_tells_what_is_missing_and_fills_gaps_only(visits, model, tmp_path, said):
    flags = (
        visits, tmp_path / 'out', 'participant', '--target-site', 'PhantomA', '--model', model,
        '--participant-label', 'A01', 'C01', '--dry-run', *FLAGS,
    )  # fmt: skip
    code, told = said(*flags)
    assert code == 0
    assert '1 scan has no site: each is harmonized by itself' in told.err
    code, told = said(*flags, '--unseen-site', 'refuse')
    assert code == 1
    (line,) = (line for line in told.out.splitlines() if 'refused' in line)
    assert line.startswith('sub-C01') and "site of sub-C01 is 'n/a' in participants.tsv" in line
    assert 'no site: ' in told.err
    code, told = said(*flags, '--source-site', 'PhantomB')
    assert code == 0
    assert 'PhantomA 1, PhantomB 2; 1 of them by --source-site' in told.err


@pytest.mark.parametrize('level', ['train', 'group'])
def test_what_takes_all_scans_refuses_what_is_not_understood(visits, tmp_path, said, level):
    table = visits / 'sub-B01' / 'sub-B01_sessions.tsv'
    table.write_text(SESSION_TABLE + 'ses-01\tPhantomB\t40-44\n')
    out = tmp_path / 'out'
    (out / 'sub-A01').mkdir(parents=True)
    write_description(out, visits)
    name = f'anat/sub-A01_space-{TEMPLATE}_desc-preproc_T1w.nii.gz'
    (out / 'sub-A01' / 'sub-A01_scans.tsv').write_text(f'filename\tssim\n{name}\t0.9\n')
    flags = ('--template', TEMPLATE, '--allow-few-scans', *FLAGS, '-w', tmp_path / 'work')
    dry = ('--dry-run',) if level == 'train' else ()
    code, told = said(visits, out, level, *flags, *dry)
    assert code == 16
    (line,) = error_lines(told.err)
    assert "sub-B01_sessions.tsv: age of ses-01 is '40-44': a range is no single age" in line
