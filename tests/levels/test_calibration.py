"""Raw scans of scanners that nobody trained on, and no model: the sites are calibrated first."""

from __future__ import annotations

import json
import shutil
import subprocess

import nibabel as nib
import numpy as np
import pytest

from ddae_app.bids.layout import Layout
from ddae_app.bids.sidecars import read as read_sidecar
from ddae_app.files import digest_of
from ddae_app.methods.modelfile import read_model_info
from ddae_app.phantom.dataset import Design, write_dataset
from tests.levels.conftest import command, error_lines, run

FLAGS = (
    '--skull-strip', 'none', '--sloppy', '--skip-bids-validation', '--nprocs', '1', '--slices',
    'medial',
)  # fmt: skip
PACKAGED = ('IXI', 'Novosibirsk', 'UCLA')
MANY, FEW = 'PhantomA', 'PhantomB'


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """Five people of one site and two of another, and an empty folder for outputs."""
    folder = tmp_path_factory.mktemp('study')
    write_dataset(folder / 'bids', Design(n_sites=2, subjects_per_site=5, seed=11, voxel_mm=3.0))
    for number in (3, 4, 5):
        shutil.rmtree(folder / 'bids' / f'sub-B0{number}')
    return folder


def participant(study, out, *flags):
    where = study / 'bids', study / out, 'participant', '-w', study / f'{out}-work'
    return run(*where, *FLAGS, *flags)


@pytest.fixture(scope='module')
def harmonized(study):
    """Everybody harmonized to a packaged site, without a model and without train."""
    done = participant(study, 'out', '--target-site', 'IXI')
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_sites_are_calibrated_once(study, harmonized):
    assert f'calibrating the sites first (participants): {MANY} 5\n' in harmonized
    (model,) = Layout(study / 'out').models()
    info = read_model_info(model)
    assert info.name == 'calibrated' and info.sites == (MANY, *PACKAGED)
    assert info.networks.startswith('universal ') and len(info.networks.split()[1]) == 64
    before = digest_of(model)
    again = participant(study, 'out', '--target-site', 'IXI')
    assert again.returncode == 0, again.stderr
    assert 'calibrating' not in again.stderr and 'up to date' in again.stderr
    assert digest_of(model) == before


def test_scans_take_the_look_of_the_target(study, harmonized):
    layout = Layout(study / 'out')
    info = read_model_info(layout.models()[0])
    levels, target = info.typical_intensities('IXI')
    _, own = info.typical_intensities(MANY)
    image = next((study / 'out' / 'sub-A01' / 'anat').glob('*desc-harmonized_T1w.nii.gz'))
    data = np.asarray(nib.load(image).dataobj)
    after = np.quantile(data[data > 0], levels)
    middle = slice(len(levels) // 4, 3 * len(levels) // 4)
    left, before = (np.abs(np.subtract(x, target))[middle].mean() for x in (after, own))
    assert left < 0.6 * before


def test_scans_of_a_site_of_few_are_harmonized_each_by_itself(study, harmonized):
    assert f'site {FEW} is not calibrated, since it has 2 participants and 5 are needed' in (
        harmonized
    )
    image = next((study / 'out' / 'sub-B01' / 'anat').glob('*desc-harmonized_T1w.nii.gz'))
    assert read_sidecar(image)['UnseenSitePolicy'] == 'agnostic'
    assert FEW in (study / 'out' / 'sub-B01.html').read_text()


def test_whoever_wants_none_of_it_refuses_them(study, harmonized):
    refused = participant(study, 'out', '--target-site', 'IXI', '--unseen-site', 'refuse')
    assert refused.returncode == 1
    lines = error_lines(refused.stderr)
    assert len(lines) == 2 and all(FEW in line for line in lines)


def test_a_calibration_of_another_dataset_or_version_is_not_used_in_silence(study, harmonized):
    other = study / 'other'
    shutil.copytree(study / 'bids', other)
    description = other / 'dataset_description.json'
    said = json.loads(description.read_text())
    description.write_text(json.dumps(said | {'Name': 'Another study'}))
    (model,) = Layout(study / 'out').models()
    copied = Layout(study / 'copied').model('calibrated').model
    copied.parent.mkdir(parents=True)
    content = model.read_bytes()
    networks = read_model_info(model).networks.encode()
    copied.write_bytes(content.replace(networks, networks[:-8] + b'0' * 8))
    done = run(
        other, study / 'copied', 'participant', '--target-site', 'IXI', '--dry-run', *FLAGS
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "and this is 'Another study'" in done.stderr
    assert 'with the networks of another version of ddae-app' in done.stderr
    ours = participant(study, 'out', '--target-site', 'IXI', '--dry-run')
    assert 'and this is' not in ours.stderr and 'another version' not in ours.stderr


def test_the_targets_are_listed(study, harmonized):
    before = participant(study, 'none', '--target-site', 'help')
    assert before.returncode == 0, before.stderr
    lines = [line.split('\t')[0] for line in before.stdout.splitlines()]
    assert lines == [MANY, *PACKAGED]
    after = participant(study, 'out', '--target-site', 'help')
    assert [line.split('\t')[0] for line in after.stdout.splitlines()] == lines
    assert 'calibrated' in after.stdout


def test_a_target_that_nobody_has_is_refused_before_any_work(study):
    for target in ('Mars', FEW):
        refused = participant(study, 'nowhere', '--target-site', target)
        assert refused.returncode == 2
        (line,) = error_lines(refused.stderr)
        assert target in line and f'the dataset ({MANY})' in line and ', '.join(PACKAGED) in line
        assert not list((study / 'nowhere').glob('sub-*'))


def test_jobs_of_single_participants_are_told_the_command(study):
    refused = participant(study, 'jobs', '--target-site', 'IXI', '--participant-label', 'A01')
    assert refused.returncode == 2
    (line,) = error_lines(refused.stderr)
    assert f'ddae-app {study / "bids"} {study / "jobs"} train' in line
    assert '--unseen-site agnostic' in line


def test_a_dry_run_tells_what_would_be_calibrated(study):
    told = participant(study, 'dry', '--target-site', 'IXI', '--dry-run')
    assert told.returncode == 0, told.stderr
    assert f'the sites would be calibrated first (participants): {MANY} 5\n' in told.stderr
    assert not (study / 'dry').exists()


def test_runs_at_once_calibrate_once_to_the_same_bytes(study, harmonized):
    asked = (
        study / 'bids', study / 'race', 'train', '-d', f'ddae-app={study / "out"}', *FLAGS,
    )  # fmt: skip
    jobs = [
        subprocess.Popen(
            command(*asked, '-w', study / f'race-work-{i}'), stderr=subprocess.PIPE, text=True
        )
        for i in range(3)
    ]
    jobs[0].terminate()
    said = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs[1:]] == [0, 0], said
    (model,), (first,) = (Layout(study / name).models() for name in ('race', 'out'))
    assert digest_of(model) == digest_of(first)


def test_reference_scans_are_a_target(study, harmonized, tmp_path):
    reference = tmp_path / 'Reference'
    write_dataset(
        reference, Design(n_sites=1, subjects_per_site=5, seed=12, scanner_seed=3, voxel_mm=3.0)
    )
    flags = '--target-scans', reference, '-d', f'ddae-app={study / "out"}'
    clash = participant(study, 'to-reference', *flags)
    assert clash.returncode == 2
    (line,) = error_lines(clash.stderr)
    assert "'PhantomA' is also a site of the dataset" in line
    (reference / 'participants.tsv').unlink()  # now the folder names the site
    done = participant(study, 'to-reference', *flags)
    assert done.returncode == 0, done.stderr
    for name, site in (('A01', MANY), ('B01', FEW)):
        folder = study / 'to-reference' / f'sub-{name}'
        said = read_sidecar(next(folder.rglob('*desc-harmonized_T1w.nii.gz')))
        assert (said['SourceSite'], said['TargetSite']) == (site, 'Reference')
    (model,) = Layout(study / 'to-reference').models()
    assert model.name == 'calibrated-Reference.safetensors'
    assert read_model_info(model).sites == (MANY, 'Reference', *PACKAGED)
    again = participant(study, 'to-reference', *flags)
    assert again.returncode == 0 and 'calibrating' not in again.stderr, again.stderr


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (('--target-scans', '/no/such/folder'), '--target-scans /no/such/folder: no such folder'),
        (('--target-scans', '.', '--model', 'x'), 'leave out --model'),
    ],
)
def test_reference_scans_that_cannot_be_a_target(study, flags, message):
    refused = participant(study, 'nowhere', *flags)
    assert refused.returncode == 2
    (line,) = error_lines(refused.stderr)
    assert message in line
