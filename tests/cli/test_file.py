"""One scan without a BIDS dataset: what is asked of the participant level, and what comes back."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from markupsafe import escape

from ddae_app.cli import file as one_file
from ddae_app.errors import UsageError
from ddae_app.levels.participant.methods_text import methods_text
from ddae_app.methods.find import find_model
from ddae_app.settings import from_flat, to_toml

TARGET = '--target-site', 'IXI'
BARE = {'bids_dir': 'bids', 'output_dir': 'out', 'analysis_level': 'participant'}

PROGRAM = """
import sys, time
from pathlib import Path
from ddae_app.cli import file, main

def level(settings, logs):
    if settings.run.dry_run:
        print('sub-onescan')
        return 0
    Path('begun').touch()
    while True:  # steps fail by what they raise
        try:
            time.sleep(0.01)
        except BaseException:
            pass

main._run_level = level
sys.exit(file.main())
"""
"""The command, with something else in place of a level."""


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / 'head of a person.nii.gz'
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), path)
    return path


@pytest.fixture
def level(monkeypatch):
    """In place of the participant level: notes its arguments and writes its outputs."""
    calls: list[list[str]] = []

    def run(arguments):
        calls.append(arguments)
        bids, out = Path(arguments[0]), Path(arguments[1])
        assert (bids / 'sub-onescan' / 'anat' / 'sub-onescan_T1w.nii.gz').resolve().is_file()
        (out / 'sub-onescan' / 'anat').mkdir(parents=True)
        (out / 'sub-onescan' / 'figures').mkdir()
        (out / 'sub-onescan' / 'figures' / 'a.svg').write_text('<svg/>')
        (out / 'sub-onescan' / 'anat' / 'sub-onescan_desc-harmonized_T1w.nii.gz').write_bytes(
            b'image'
        )
        (out / 'sub-onescan' / 'figures' / 'a b.svg').write_text('<svg/>')
        page = (
            '<title>sub-onescan &middot; ddae-app</title><h1>sub-onescan</h1>'
            '<tr><th>T1w images</th><td>1</td></tr>\n'
            '<tr><th>T1w</th><td>sub-onescan_T1w.nii.gz</td></tr>\n'
            '<tr><th>Age, sex</th><td>not known, not known</td></tr>\n'
            '<tr><th>Site</th><td>its own scanner '
            '(column &#39;site&#39; of participants.tsv)</td></tr>\n'
            '<a href="sub-onescan/figures/a.svg"><strong>Mask.</strong></a>'
            '<img src="sub-onescan/figures/a.svg"><a href="https://x.org">'
            f'<code>{escape("ddae-app " + shlex.join(arguments))}</code>'
            '<details><summary>Settings of the run</summary><pre>x</pre></details>'
        )
        (out / 'sub-onescan.html').write_text(page)
        return 0

    monkeypatch.setattr(one_file.app, 'main', run)
    return calls


def test_the_image_and_a_page_of_its_own_come_out(scan, level, tmp_path):
    out = tmp_path / 'out.nii.gz'
    assert one_file.main([str(scan), str(out), '--target-site', 'IXI', '--device', 'cpu']) == 0
    assert out.read_bytes() == b'image'
    page = (tmp_path / 'out.html').read_text()
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+"' in page and 'figures/' not in page
    (arguments,) = level
    assert arguments[2] == 'participant'
    assert arguments[-4:] == ['--device', 'cpu', '--target-site', 'IXI']
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'head of a person.nii.gz', 'out.html', 'out.nii.gz'
    ]  # fmt: skip


def test_of_places_the_log_has_those_of_the_outputs(scan, level, monkeypatch, tmp_path, caplog):
    """Those that the participant level names are gone when it is read."""
    write = one_file.app.main

    def run(arguments):
        write(arguments)
        one_file.log.info('sub-onescan: harmonize (16 s)')
        one_file.log.info('1 of 1 T1w done')
        one_file.log.info('sub-1: conform (1 s)')  # of --target-scans
        one_file.log.info('report: %s', Path(arguments[1]) / 'sub-onescan.html')
        one_file.log.warning('%s: it cannot be read', arguments[1])
        return 0

    monkeypatch.setattr(one_file.app, 'main', run)
    with caplog.at_level('INFO', 'ddae_app'):
        assert one_file.harmonize_file(scan, tmp_path / 'o.nii.gz', *TARGET) == 0
        one_file.log.info('1 of 1 T1w done')  # of another run of this process
    said, other, wrong, *places, after = caplog.messages
    assert other == 'sub-1: conform (1 s)'
    assert said == 'head of a person: harmonize (16 s)'
    assert wrong.endswith('out: it cannot be read')
    assert places == [
        f'harmonized scan: {tmp_path / "o.nii.gz"}', f'report: {tmp_path / "o.html"}'
    ]  # fmt: skip
    assert after == '1 of 1 T1w done'


def test_the_log_tells_of_no_dataset(scan, tmp_path, monkeypatch, capsys):
    """The participant level itself, which asks whether the scan can be harmonized."""
    # The program sets variables for the processes that it starts: forget them afterwards.
    monkeypatch.setattr(os, 'environ', os.environ.copy())
    asked = scan, tmp_path / 'o.nii.gz', *TARGET, '--skull-strip', 'none', '--dry-run'
    assert one_file.main([str(word) for word in asked]) == 0
    printed, said = capsys.readouterr()
    assert printed == 'scan\tpreprocess\tharmonize\twhy\nhead of a person\tnew\tnew\t-\n'
    assert "model 'universal'" in said and said.count(one_file.ALONE) == 1
    assert 'target site: IXI (packaged with the program, 94 participants)' in said
    assert not told_of_a_dataset(said)


def told_of_a_dataset(said):
    words = (
        'site its own',
        'no site has',
        ': its',
        'column',
        '1 participant',
        '1 T1w',
        'dataset',
        'sub-onescan',
    )
    return [word for word in words if word in said]


@pytest.mark.parametrize(
    ('content', 'target', 'message'),
    [
        (b'', 'IXI', 'head of a person failed: {}: the file is empty'),
        (b'x', 'Mars', 'be a target; choose a packaged one (IXI, Novosibirsk, UCLA)\n'),
    ],
)
def test_an_error_names_the_scan_and_its_place(
    scan, tmp_path, monkeypatch, capsys, content, target, message
):
    monkeypatch.setattr(os, 'environ', os.environ.copy())
    scan.write_bytes(content)
    asked = scan, tmp_path / 'o.nii.gz', '--target-site', target, '--nprocs', 1
    assert one_file.main([str(word) for word in asked]) != 0
    said = capsys.readouterr().err
    (line,) = (x for x in said.splitlines(keepends=True) if x.startswith('ddae-app: error: '))
    assert message.format(scan) in line
    assert not told_of_a_dataset(said)


def test_an_error_in_the_json_of_the_scan_names_its_place(scan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, 'environ', os.environ.copy())
    sidecar = tmp_path / 'head of a person.json'
    sidecar.write_text('{')
    asked = str(scan), str(tmp_path / 'o.nii.gz'), *TARGET, '--dry-run'
    assert one_file.main(asked) == 16
    said = capsys.readouterr().err
    assert f'error: {sidecar}: not valid BIDS: JSON_INVALID' in said and '.ddae-app-' not in said


def test_the_targets_are_listed_without_a_dataset(scan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, 'environ', os.environ.copy())
    asked = str(scan), str(tmp_path / 'o.nii.gz'), '--target-site', 'help'
    assert one_file.main(asked) == 0
    printed, said = capsys.readouterr()
    assert [line.split('\t')[0] for line in printed.splitlines()] == ['IXI', 'Novosibirsk', 'UCLA']
    assert not told_of_a_dataset(said)


def test_the_page_names_the_scan_and_no_place_that_is_gone(scan, level, tmp_path):
    out = tmp_path / "someone's.nii.gz"
    assert one_file.harmonize_file(scan, out, *TARGET) == 0
    page = (tmp_path / "someone's.html").read_text()
    assert '<title>head of a person &middot; ddae-app</title><h1>head of a person</h1>' in page
    assert '<td>head of a person.nii.gz</td>' in page and 'participants.tsv' not in page
    command = shlex.join([str(scan), str(out), *TARGET])
    assert f'<code>{escape("ddae-app-file " + command)}</code>' in page
    assert '<strong>Mask.</strong><img' in page and '.ddae-app-' not in page
    for inner in ('Settings of the run', 'Age, sex', 'T1w images'):
        assert inner not in page


@pytest.mark.parametrize(
    'flags',
    [
        ('--slices', 'medial'),
        ('--stage', 'preproc'),
        ('--stage', 'harmonize'),
        ('--boilerplate-only',),
        ('--reports-only',),
        ('--write-site-effect',),
    ],
)
def test_flags_that_ask_for_something_else_are_refused(scan, level, tmp_path, capsys, flags):
    assert one_file.main([str(scan), str(tmp_path / 'o.nii.gz'), *TARGET, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'error: {flags[0]} asks for something else than OUT' in line
    assert not level and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    'flags',
    [
        ('--participant-label', '01'),
        ('--session-label', '1'),
        ('--bids-database-dir', 'index'),
        ('--site-column', 'center'),
        ('--source-site', 'A'),
        ('--brain-mask-filter', 'filter.json'),
        ('--derivatives', 'fmriprep=masks'),
        ('--unseen-site', 'adapt'),
        ('--unseen-site', 'refuse'),
    ],
)
def test_flags_for_a_dataset_are_refused(scan, level, tmp_path, capsys, flags):
    assert one_file.main([str(scan), str(tmp_path / 'o.nii.gz'), *TARGET, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'error: {flags[0]} is for the scans of a dataset; leave it out' in line
    assert not level and len(list(tmp_path.iterdir())) == 1


def test_settings_of_a_run_on_a_dataset(scan, level, tmp_path):
    file = tmp_path / 'settings.toml'
    settings = from_flat({**BARE, 'derivatives': ('ddae-app=earlier',)})
    file.write_text(to_toml(settings))
    flags = *TARGET, '--config-file', str(file)
    assert one_file.harmonize_file(scan, tmp_path / 'o.nii.gz', *flags) == 0
    file.write_text(to_toml(from_flat({**BARE, 'participant_label': ('01',)})))
    with pytest.raises(UsageError, match='--participant-label in --config-file .* a dataset'):
        one_file.harmonize_file(scan, tmp_path / 'o.nii.gz', *flags)


def test_a_run_that_leaves_no_image_does_not_end_well(scan, monkeypatch, tmp_path):
    monkeypatch.setattr(one_file.app, 'main', lambda arguments: 0)
    out = tmp_path / 'o.nii.gz'
    with pytest.raises(UsageError, match='was not written'):
        one_file.harmonize_file(scan, out, *TARGET)
    assert one_file.harmonize_file(scan, out, *TARGET, '--dry-run') == 0
    assert one_file.harmonize_file(scan, out, '--target-site', 'help') == 0


def test_a_target_is_asked_for(scan, level, tmp_path):
    with pytest.raises(UsageError, match='give --target-site'):
        one_file.harmonize_file(scan, tmp_path / 'o.nii.gz')
    assert not level


def test_a_flag_that_is_wrong_does_not_end_the_program_of_the_caller(scan, tmp_path, capsys):
    asked = scan, tmp_path / 'o.nii.gz', *TARGET, '--sloppi'
    assert one_file.harmonize_file(*asked) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert '--sloppi' in line


def test_a_folder_that_cannot_be_written_to(scan, level, monkeypatch, tmp_path, capsys):
    def refuse(**options):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(one_file.tempfile, 'TemporaryDirectory', refuse)
    assert one_file.main([str(scan), str(tmp_path / 'o.nii.gz'), *TARGET]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'the folder {tmp_path} cannot be written to (Permission denied)' in line


def test_flags_before_the_scan(scan, level, tmp_path, capsys):
    out = tmp_path / 'o.nii.gz'
    assert one_file.main([*TARGET, str(scan), str(out)]) == 0
    with pytest.raises(SystemExit) as stopped:
        one_file.main(['--nprocs', '1', str(scan), str(out), *TARGET])
    assert stopped.value.code == 2
    assert '--nprocs comes before T1W; give T1W and OUT first' in capsys.readouterr().err


def test_from_python(scan, level, tmp_path):
    assert one_file.harmonize_file(scan, tmp_path / 'o.nii.gz', '--target-site', 'UCLA') == 0
    assert (tmp_path / 'o.nii.gz').is_file() and (tmp_path / 'o.html').is_file()


@pytest.fixture
def command(scan, tmp_path):
    """Starts the command in a folder of its own."""
    started = []

    def start(*flags):
        words = sys.executable, '-c', PROGRAM, str(scan), 'o.nii.gz', *TARGET, *flags
        where = tmp_path / 'here'
        where.mkdir()
        streams = dict.fromkeys(('stdout', 'stderr'), subprocess.PIPE)
        started.append(subprocess.Popen(words, cwd=where, text=True, **streams))
        return started[0], where

    yield start
    for process in started:
        process.kill()


def test_the_command_ends_when_it_is_asked_to_and_leaves_nothing(command):
    process, where = command()
    while not (where / 'begun').exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.terminate()
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 143, said
    ended = 'ddae-app: error: terminated; run the same command again, which starts anew'
    assert said.splitlines()[-1] == ended
    assert [path.name for path in where.iterdir()] == ['begun']


def test_the_command_prints_what_its_other_process_does(command):
    process, _ = command('--dry-run')
    assert process.communicate(timeout=60)[0] == 'head of a person\n'
    assert process.returncode == 0


def test_what_a_killed_run_left_is_removed_by_the_next(scan, level, monkeypatch, tmp_path):
    out, copies = tmp_path / 'o.nii.gz', []

    def run(arguments):
        copies.append(Path(arguments[0]).parent)
        return 1

    monkeypatch.setattr(one_file.app, 'main', run)
    assert one_file.harmonize_file(scan, out, *TARGET) == 1
    assert one_file.harmonize_file(scan, tmp_path / 'other.nii.gz', *TARGET) == 1
    mine, other = copies
    for folder in copies:
        (folder / 'bids').mkdir(parents=True)
    with one_file._held(mine):  # as by a run that goes on
        assert one_file.harmonize_file(scan, out, *TARGET) == 1
    assert mine.is_dir()
    assert one_file.harmonize_file(scan, out, *TARGET) == 1
    assert not mine.exists() and other.is_dir()


def test_no_file_is_named_that_is_removed(scan, level, monkeypatch, tmp_path, caplog):
    def run(arguments):
        crash = Path(arguments[1]) / 'logs' / 'a run' / 'crash-1.txt'
        one_file.log.error('sub-onescan failed: step x failed (y); details in %s', crash)
        return 1

    monkeypatch.setattr(one_file.app, 'main', run)
    assert one_file.harmonize_file(scan, tmp_path / 'o.nii.gz', *TARGET) == 1
    said = 'head of a person failed: step x failed (y); run ddae-app, which keeps the details'
    assert caplog.messages == [said]


def test_from_a_thread(scan, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'environ', os.environ.copy())
    asked = scan, tmp_path / 'o.nii.gz', '--target-site', 'help'
    with ThreadPoolExecutor() as threads:
        assert threads.submit(one_file.harmonize_file, *asked).result() == 0


def test_a_scan_that_fails_leaves_nothing(scan, monkeypatch, tmp_path):
    monkeypatch.setattr(one_file.app, 'main', lambda arguments: 1)
    out = tmp_path / 'out.nii.gz'
    out.write_bytes(b'earlier')
    assert one_file.harmonize_file(scan, out, *TARGET) == 1
    assert out.read_bytes() == b'earlier' and not (tmp_path / 'out.html').exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk(scan, level, monkeypatch, tmp_path, capsys):
    def refuse(path, content):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(one_file, '_write_dataset', lambda *arguments: None)
    monkeypatch.setattr(one_file.app, 'main', lambda arguments: _made(Path(arguments[1])))
    monkeypatch.setattr(one_file, 'write_atomically', refuse)
    assert one_file.main([str(scan), str(tmp_path / 'o.nii.gz'), *TARGET]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'o.html cannot be written (No space left on device); make room' in line


def _made(out):
    """What the participant level leaves, at the least."""
    image = out / 'sub-onescan' / 'anat' / 'sub-onescan_desc-harmonized_T1w.nii.gz'
    image.parent.mkdir(parents=True)
    image.write_bytes(b'image')
    (out / 'sub-onescan.html').write_text('')
    return 0


@pytest.mark.parametrize(
    ('given', 'out', 'message'),
    [
        ('none.nii.gz', 'o.nii.gz', 'expected the file of a scan'),
        ('notes.txt', 'o.nii.gz', 'expected the file of a scan'),
        ('s.nii.gz', 'o.img', 'expected the name of a .nii.gz file'),
        ('s.nii.gz', 'no/o.nii.gz', 'in a folder that is there'),
        ('s.nii.gz', 's.nii.gz', 'this is the scan itself'),
        ('s.nii.gz', 'f.nii.gz', 'f.nii.gz: this is a folder'),
        ('s.nii.gz', 'g.nii.gz', 'g.html: this is a folder'),
        ('annex.nii.gz', 'o.nii.gz', 'run "datalad get '),
    ],
)
def test_paths_that_cannot_be_meant(given, out, message, tmp_path, capsys):
    (tmp_path / 's.nii.gz').write_bytes(b'')
    (tmp_path / 'notes.txt').write_bytes(b'')
    (tmp_path / 'f.nii.gz').mkdir()
    (tmp_path / 'g.html').mkdir()
    (tmp_path / 'annex.nii.gz').symlink_to('.git/annex/objects/a/b/c')
    with pytest.raises(UsageError, match=message):
        one_file.harmonize_file(tmp_path / given, tmp_path / out)
    assert one_file.main([str(tmp_path / given), str(tmp_path / out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('ddae-app-file: error: ') and message in line


def test_the_methods_text_names_no_site_that_nobody_knows(tmp_path):
    asked = {'bids_dir': tmp_path, 'output_dir': tmp_path, 'analysis_level': 'participant'}
    settings = from_flat(asked | {'target_site': 'IXI', 'unseen_site': 'agnostic'})
    model = find_model(None, None, ())
    text = methods_text(['Done.'], settings, model, extractions=(), sites=[one_file.SITE])
    assert 'did not know the site appearance of its own scanner: it was measured in' in text
    namesake = methods_text(['Done.'], settings, model, extractions=(), sites=['IXI', 'A'])
    assert 'was IXI, of reference scans that come with the program' in namesake
    assert 'did not know the site appearance of A and IXI in this dataset: ' in namesake
