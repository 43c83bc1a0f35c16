"""Whatever happens to a run: no file is torn, and the next run ends as if nothing had happened."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import psutil
import pytest

from ddae_app.bids.layout import Layout
from ddae_app.methods.modelfile import read_model_info
from tests.faults.conftest import FLAGS, images, torn
from tests.levels.conftest import TEMPLATE, command, error_lines, run


def again(eight, out, work, *labels, nprocs=1):
    """The same command once more, and what it leaves against an undisturbed run."""
    labelled = ('--participant-label', *labels) if labels else ()
    result = run(
        eight / 'bids', out, *FLAGS, '--model', eight / 'random.safetensors', '-w', work,
        '--nprocs', nprocs, *labelled,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    whole = images(eight / 'out')
    expected = {n: c for n, c in whole.items() if not labels or any(f'-{p}/' in n for p in labels)}
    assert images(out) == expected
    return result


def working(process, step):
    """Wait until a step is said to be done."""
    for line in process.stderr:
        if step in line:
            return line
    raise AssertionError(f'ended without {step}')


def test_eight_jobs_in_one_folder(eight, start, tmp_path):
    labels = [f'{site}0{i}' for site in 'AB' for i in (1, 2, 3, 4)]
    jobs = [start(label, work=tmp_path / f'work-{label}') for label in labels]
    with ThreadPoolExecutor(8) as readers:
        said = list(readers.map(lambda job: job.communicate()[1], jobs))
    assert [job.returncode for job in jobs] == [0] * 8, said
    assert images(tmp_path / 'out') == images(eight / 'out')
    assert torn(tmp_path / 'out') == []
    assert len(list((tmp_path / 'out').glob('sub-*.html'))) == 8


@pytest.mark.parametrize(
    ('number', 'code', 'word', 'nprocs'),
    [(signal.SIGTERM, 143, 'terminated', 1), (signal.SIGINT, 130, 'interrupted', 2)],
)
def test_asked_to_end(eight, start, tmp_path, number, code, word, nprocs):
    """As terminals, `timeout` and batch systems ask: the whole group, and more than once."""
    job = start('A01', 'B01', nprocs=nprocs, anew=True)
    while not list((tmp_path / 'work').rglob('register_mni/_0x*_unfinished.json')):
        assert job.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)  # it is in the middle of a call of ANTs
    check_ends(job, number, code, word)
    assert torn(tmp_path / 'out') == [] and not list((tmp_path / 'work').glob('*/tmp-*'))
    (log,) = (tmp_path / 'out' / 'logs').glob('*/ddae-app.log')
    assert f'ERROR {word}; run the same command again' in log.read_text()
    assert 'failed' not in log.read_text() and not list(log.parent.glob('crash-*'))
    again(eight, tmp_path / 'out', tmp_path / 'work', 'A01', 'B01', nprocs=nprocs)


@pytest.mark.parametrize(
    ('level', 'begun', 'flags', 'number', 'code', 'word'),
    [
        (
            'train', 'trained on', ('--preset', 'tiny', '--train-images', '2000',
            '--allow-few-scans', '--allow-confounding', '--skull-strip', 'none', '--slices',
            'medial', '--template', TEMPLATE), signal.SIGINT, 130, 'interrupted',
        ),
        ('group', 'run 2', (), signal.SIGTERM, 143, 'terminated'),
    ],
    ids=['train', 'group'],
)  # fmt: skip
def test_other_levels_asked_to_end(
    eight, heeds_interrupts, tmp_path, level, begun, flags, number, code, word
):
    shutil.copytree(eight / 'out', tmp_path / 'out')
    job = subprocess.Popen(
        command(
            eight / 'bids', tmp_path / 'out', level, '-w', tmp_path / 'work', '--nprocs', 2,
            '--skip-bids-validation', '--sloppy', *flags,
        ),
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    working(job, begun)
    time.sleep(2)
    check_ends(job, number, code, word)
    assert torn(tmp_path / 'out') == [] == torn(tmp_path / 'work')


def check_ends(job, number, code, word):
    children = psutil.Process(job.pid).children(recursive=True)
    started = time.monotonic()
    for _ in range(3):
        os.killpg(job.pid, number)
    said = job.communicate(timeout=60)[1]
    assert time.monotonic() - started < 20
    assert job.returncode == code, said
    (line,) = error_lines(said)
    assert f'{word}; run the same command again' in line and 'Traceback' not in said
    assert psutil.wait_procs(children, timeout=30)[1] == []


def test_a_process_killed_for_lack_of_memory(eight, start, tmp_path):
    job = start('A01', 'A02', 'B01', nprocs=2)
    # Nipype leaves such a file while a step is being done.
    while not list((tmp_path / 'work').rglob('register_mni/_0x*_unfinished.json')):
        assert job.poll() is None
        time.sleep(0.05)
    for child in psutil.Process(job.pid).children(recursive=True):
        if 'spawn_main' in ' '.join(child.cmdline()):
            child.kill()
    said = job.communicate(timeout=240)[1]
    assert job.returncode == 1
    assert 'lack of memory' in error_lines(said)[0]
    assert 'BrokenProcessPool' not in said and 'Traceback' not in said
    again(eight, tmp_path / 'out', tmp_path / 'work', 'A01', 'A02', 'B01')


def test_a_scan_that_memory_does_not_hold(eight, start, dim, tmp_path):
    """The others go on, and with more memory so does this one."""
    bids, _ = dim
    scan = bids / 'sub-A01' / 'anat' / 'sub-A01_T1w.nii.gz'
    huge = np.zeros((400, 1000, 1000), np.uint8)
    huge[150:250, 300:500, 300:500] = 100
    image = nib.Nifti1Image(huge, np.diag([0.5, 0.25, 0.25, 1]))
    scan.write_bytes(gzip.compress(image.to_bytes(), 1))
    job = start('A01', 'B01', bids=bids, nprocs=2, under=('prlimit', '--as=3000000000'))
    said = job.communicate(timeout=240)[1]
    assert job.returncode == 1
    (line,) = error_lines(said)
    assert 'sub-A01' in line and 'step conform: there is too little memory' in line
    assert 'Traceback' not in said and torn(tmp_path / 'out') == []
    shutil.copyfile(eight / 'bids' / scan.relative_to(bids), scan)
    again(eight, tmp_path / 'out', tmp_path / 'work', 'A01', 'B01')


def test_too_little_memory_to_begin_with(start):
    job = start('A01', under=('prlimit', '--as=1000000000'))
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 1
    (line,) = error_lines(said)
    assert 'there is too little memory' in line and 'Traceback' not in said


def test_the_work_directory_vanishes(eight, start, tmp_path):
    job = start('A01', nprocs=1)
    working(job, 'conform')
    shutil.rmtree(tmp_path / 'work', ignore_errors=True)
    said = job.communicate(timeout=240)[1]
    assert job.returncode in (0, 1)
    assert torn(tmp_path / 'out') == [] and 'Traceback' not in said
    again(eight, tmp_path / 'out', tmp_path / 'work', 'A01')


@pytest.fixture
def dim(eight, tmp_path):
    """A copy of the dataset, and how to put another image in the place of A01's."""
    bids = tmp_path / 'bids'
    shutil.copytree(eight / 'bids', bids)
    scan = bids / 'sub-A01' / 'anat' / 'sub-A01_T1w.nii.gz'

    def replace():
        image = nib.load(scan)
        nib.save(nib.Nifti1Image(0.5 * image.get_fdata(), None, image.header), scan)

    return bids, replace


def test_the_input_changes_before_it_is_read(eight, start, dim, tmp_path):
    bids, replace = dim
    job = start('A01', 'B01', bids=bids, nprocs=2)
    working(job, 'harmonize: 2 new')
    replace()
    said = job.communicate(timeout=240)[1]
    assert job.returncode == 1
    (line,) = error_lines(said)
    assert 'sub-A01_T1w' in line and 'the file changed while the run went on; run again' in line
    assert torn(tmp_path / 'out') == []
    assert not list((tmp_path / 'out' / 'sub-A01').rglob('*harmonized*'))
    made = images(tmp_path / 'out')
    assert made == {n: c for n, c in images(eight / 'out').items() if n in made}
    assert any('sub-B01' in name for name in made)
    results = []
    for out in ('out', 'undisturbed'):
        result = run(
            bids, tmp_path / out, *FLAGS, '--model', eight / 'random.safetensors', '-w',
            tmp_path / f'work-{out}', '--participant-label', 'A01', 'B01', '--nprocs', '1',
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        results.append(images(tmp_path / out))
    assert results[0] == results[1] != {}


def test_the_input_changes_after_it_was_read(eight, start, dim, tmp_path):
    """The outputs are of the image as it was, and say so: the next run makes them anew."""
    bids, replace = dim
    job = start('A01', bids=bids)
    working(job, 'register to MNI')
    replace()
    said = job.communicate(timeout=240)[1]
    assert job.returncode == 0, said
    before = {n: c for n, c in images(eight / 'out').items() if '-A01/' in n}
    assert images(tmp_path / 'out') == before
    result = run(
        bids, tmp_path / 'out', *FLAGS, '--model', eight / 'random.safetensors',
        '--participant-label', 'A01', '--dry-run',
    )  # fmt: skip
    assert 'sub-A01\tchanged\tchanged\tT1w image; preprocessing' in result.stdout


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    made = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip('a file system of its own takes the right to mount one')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


def test_the_disk_is_full(eight, start, small_disk, tmp_path):
    out = small_disk / 'out'
    job = start('A01', 'B01', out=out)
    said = job.communicate(timeout=240)[1]
    assert job.returncode == 1
    assert 'No space left on device' in said and 'Traceback' not in said
    assert torn(out) == []
    subprocess.run(['mount', '-o', 'remount,size=200m', str(small_disk)], check=True)
    again(eight, out, tmp_path / 'work', 'A01', 'B01')


@pytest.mark.parametrize('small', ['out', 'work'])
def test_the_disk_is_full_while_sites_are_calibrated(eight, small_disk, tmp_path, small):
    """The model is larger than what is left, and so are the scans in the work directory."""
    folders = {name: tmp_path / name for name in ('out', 'work')} | {small: small_disk / small}
    asked = (
        eight / 'bids', folders['out'], 'train', '-w', folders['work'], '--slices', 'medial',
        '--allow-few-scans', '--allow-confounding', '-d', f'ddae-app={eight / "out"}',
        '--skull-strip', 'none', '--sloppy', '--skip-bids-validation', '--nprocs', '1',
    )  # fmt: skip
    full = run(*asked)
    assert full.returncode == 1
    (line,) = error_lines(full.stderr)
    assert (
        'No space left on device; free some disk space' in line and 'Traceback' not in full.stderr
    )
    files = Layout(folders['out']).model('calibrated')
    assert not files.model.exists() and not files.is_made
    assert torn(folders['out']) == [] == torn(folders['work'])
    subprocess.run(['mount', '-o', 'remount,size=200m', str(small_disk)], check=True)
    again = run(*asked)
    assert again.returncode == 0, again.stderr
    assert files.is_made and read_model_info(files.model).name == 'calibrated'


def test_the_output_cannot_be_written_to(eight, start, small_disk):
    subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
    job = start('A01', out=small_disk / 'out')
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 2
    (line,) = error_lines(said)
    assert 'cannot be written to' in line


BACKWARDS = """
import itertools, time
now, hours = time.time(), itertools.count()
time.time = lambda: now - 3600 * next(hours)
"""


def test_the_clock_is_set_back_again_and_again(eight, start, tmp_path, monkeypatch):
    """By an hour, whenever a process looks at it; nothing waits until it is that late again."""
    (tmp_path / 'sitecustomize.py').write_text(BACKWARDS)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
    job = start('A01', nprocs=2, anew=True)
    said = job.communicate(timeout=240)[1]
    assert job.returncode == 0, said
    times = [line[:19] for line in said.splitlines()]
    assert times == sorted(times, reverse=True) and len(set(times)) > 5
    whole = images(eight / 'out')
    assert images(tmp_path / 'out') == {n: c for n, c in whole.items() if '-A01/' in n}


def test_times_of_files_do_not_matter(eight, tmp_path):
    """Files from the future and from long ago: it is their contents that count."""
    shutil.copytree(eight / 'bids', tmp_path / 'bids')
    shutil.copytree(eight / 'out', tmp_path / 'out')
    now = time.time()
    for number, path in enumerate(sorted(tmp_path.rglob('*'))):
        when = now + (-1) ** number * 40 * 365 * 86400
        os.utime(path, (when, when))
    result = run(
        tmp_path / 'bids', tmp_path / 'out', *FLAGS, '--model', eight / 'random.safetensors',
        '--dry-run',
    )  # fmt: skip
    assert [line.split('\t', 1)[1] for line in result.stdout.splitlines()[1:]] == [
        'done\tdone\t-'
    ] * 8
