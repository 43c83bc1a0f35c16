"""Raw scans of scanners that nobody trained on, and no model: the sites are calibrated first."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest

from ddae_app.bids.layout import Layout
from ddae_app.bids.sidecars import read as read_sidecar
from ddae_app.files import digest_of
from ddae_app.levels.participant.calibration import _is_made_of
from ddae_app.levels.participant.folder_models import name_of_folder
from ddae_app.methods.find import packaged_model
from ddae_app.methods.modelfile import read_model_info
from ddae_app.phantom.dataset import Design, write_dataset
from tests.levels.conftest import error_lines, run, run_anew, start_forked

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


@pytest.fixture(scope='module')
def scans_of_another_scanner(tmp_path_factory):
    """Of five other people."""
    folder = tmp_path_factory.mktemp('another') / 'bids'
    design = Design(n_sites=1, subjects_per_site=5, seed=12, scanner_seed=3, voxel_mm=3.0)
    write_dataset(folder, design)
    return folder


@pytest.fixture
def reference(scans_of_another_scanner, tmp_path):
    """A copy that a test may change, in a folder with the name of a site."""
    return shutil.copytree(scans_of_another_scanner, tmp_path / 'Reference')


def participant(study, out, *flags):
    return run(*command_line(study, out), *flags)


def command_line(study, out):
    return study / 'bids', study / out, 'participant', '-w', study / f'{out}-work', *FLAGS


@pytest.fixture(scope='module')
def harmonized(study):
    """Everybody harmonized to a packaged site, without a model and without train."""
    done = run_anew(*command_line(study, 'out'), '--target-site', 'IXI')
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_sites_are_calibrated_once(study, harmonized):
    assert f'calibrating the sites first (participants): {MANY} 5\n' in harmonized
    # The dataset is validated and told of once, though both calibration and the run take it.
    assert harmonized.count('The dataset was not validated') == 1
    assert harmonized.count('input: 7 T1w') == 1
    assert '--target-site NAME' not in harmonized, 'the run goes on by itself'
    # Nothing is trained, though several slices are taken of each scan.
    assert f'calibrating in 5 scans: {MANY} 5\n' in harmonized and 'train' not in harmonized
    (model,) = Layout(study / 'out').models()
    info = read_model_info(model)
    assert info.name == 'calibrated' and info.sites == (MANY, *PACKAGED)
    assert info.references == PACKAGED
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


def test_a_dry_run_of_train_tells_which_sites_would_be_calibrated(study, harmonized):
    listed = run(study / 'bids', study / 'out', 'train', '--dry-run', *FLAGS)
    assert listed.returncode == 0, listed.stderr
    assert f'scans to calibrate in: {MANY} 5\n' in listed.stderr
    assert f'site {FEW} is not calibrated' in listed.stderr
    # As in the run, nothing is done with scans that are not calibrated.
    assert len(listed.stdout.splitlines()) == 6 and 'sub-B' not in listed.stdout
    assert 'training' not in listed.stderr and 'refused' not in listed.stderr


def test_scans_that_are_gone_since_are_told_and_the_calibration_stays(study, harmonized, tmp_path):
    (model,) = Layout(study / 'out').models()
    before = digest_of(model)
    shutil.move(study / 'bids' / 'sub-A05', tmp_path)
    try:
        again = participant(study, 'out', '--target-site', 'IXI', '--dry-run')
        some = participant(study, 'out', '--target-site', 'IXI', '--dry-run',
                           '--participant-label', 'A01')  # fmt: skip
        other = participant(study, 'elsewhere', '--target-site', 'IXI', '--dry-run',
                            '--model', model)  # fmt: skip
    finally:
        shutil.move(tmp_path / 'sub-A05', study / 'bids')
    assert again.returncode == 0, again.stderr
    assert f'site {MANY} was calibrated with 5 participants and now has 4' in again.stderr
    assert other.returncode == 0, other.stderr  # a model of another folder, maybe of another study
    assert 'was calibrated with' not in harmonized + some.stderr + other.stderr
    assert digest_of(model) == before


def test_whoever_wants_none_of_it_refuses_them(study, harmonized):
    refused = participant(study, 'out', '--target-site', 'IXI', '--unseen-site', 'refuse')
    assert refused.returncode == 1
    lines = error_lines(refused.stderr)
    assert len(lines) == 2 and all(FEW in line for line in lines)


def test_sites_of_enough_are_calibrated_where_others_are_refused(study, harmonized):
    asked = (
        study, 'strict', '--target-site', 'IXI', '--unseen-site', 'refuse', '-d',
        f'ddae-app={study / "out"}',
    )  # fmt: skip
    listed, done = participant(*asked, '--dry-run'), participant(*asked)
    assert (listed.returncode, done.returncode) == (1, 1), done.stderr
    assert f'the sites would be calibrated first (participants): {MANY} 5\n' in listed.stderr
    refused = [line for line in listed.stdout.splitlines() if 'refused' in line]
    assert [line[:7] for line in refused] == ['sub-B01', 'sub-B02']
    assert len(listed.stdout.splitlines()) == 8
    lines = error_lines(done.stderr)
    assert len(lines) == 2 and all(FEW in line for line in lines)
    assert f'site {FEW} is not calibrated' in done.stderr
    assert 'each of its scans is refused (--unseen-site refuse)' in done.stderr
    assert len(list((study / 'strict').glob('sub-A*/anat/*desc-harmonized_T1w.nii.gz'))) == 5


def test_of_a_new_site_with_enough_participants_train_is_named(study, harmonized, tmp_path):
    bids = tmp_path / 'bids'
    shutil.copytree(study / 'bids', bids)
    table = bids / 'participants.tsv'
    table.write_text(table.read_text().replace(f'\t{MANY}\t', '\tUpgraded\t'))
    asked = 'participant', '--target-site', 'IXI', '--dry-run', *FLAGS
    told = run(bids, study / 'out', *asked).stderr
    (model,) = Layout(study / 'out').models()
    elsewhere = run(bids, tmp_path / 'out', *asked, '--model', model).stderr
    lines = {
        line.partition(' site ')[2].split()[0]: line
        for line in told.splitlines()
        if ' is unknown' in line
    }
    assert lines['Upgraded'].endswith('; run train to calibrate it')
    assert lines[FEW].endswith("its subject's own")
    both = f"sites {FEW} (2 scans), Upgraded (5 scans) are unknown to 'calibrated': each scan is"
    assert both in elsewhere and 'run train' not in elsewhere


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


def test_the_targets_are_listed(study, harmonized, tmp_path):
    before = participant(study, 'none', '--target-site', 'help')
    assert before.returncode == 0, before.stderr
    small = 'sites of the dataset that are not listed, since a target needs 5 participants: '
    assert before.stderr.endswith(f'INFO {small}{FEW} 2\n') and before.stderr.count('\n') == 1
    # A question writes nothing, and needs no folder that could be written to.
    assert not (study / 'none').exists() and not (study / 'none-work').exists()
    file = study / 'file'
    file.touch()
    asked = study / 'bids', file / 'out', 'participant', *FLAGS, '-w', file / 'work'
    nowhere = run(*asked, '--target-site', 'help')
    assert (nowhere.returncode, nowhere.stdout) == (0, before.stdout), nowhere.stderr
    lines = [line.split('\t')[0] for line in before.stdout.splitlines()]
    assert lines == [MANY, *PACKAGED]
    after = participant(study, 'out', '--target-site', 'help')
    assert [line.split('\t')[0] for line in after.stdout.splitlines()] == lines
    assert f'{MANY}\tcalibrated' in after.stdout
    assert 'UCLA\tpackaged with the program, 10 participants\n' in after.stdout
    assert after.stderr.endswith(f'INFO {small}{FEW} 2\n')
    trained = participant(
        study, 'none', '--target-site', 'help', '--model', packaged_model('medial').path
    )
    unknown = 'sites of the dataset that are not listed, since the model does not know them: '
    assert f'INFO {unknown}{MANY} 5\n' in trained.stderr and small in trained.stderr
    bids = tmp_path / 'bids'
    shutil.copytree(study / 'bids', bids)
    (bids / 'participants.tsv').write_text('participant_id\tsite\nsub-A01\tUCLA\n')
    asked = bids, tmp_path / 'out', 'participant', *FLAGS, '--target-site', 'help'
    namesake = run(*asked)
    assert f'{small}UCLA 1\n' in namesake.stderr and namesake.stdout.count('UCLA') == 1
    (bids / 'participants.tsv').unlink()
    assert 'nothing names the sites of the dataset, so none of' in run(*asked).stderr


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


def test_the_command_that_jobs_are_told_can_be_copied(study, tmp_path):
    """With the flags that decide of what use a calibration is, and paths that have spaces."""
    bids = tmp_path / 'my study'
    shutil.copytree(study / 'bids', bids)
    table = bids / 'participants.tsv'
    table.write_text(table.read_text().replace('\tsite', '\tMRI of the study', 1))
    asked = (
        bids, tmp_path / 'out', 'participant', *FLAGS, '-w', tmp_path / 'work', '--target-site',
        'IXI', '--site-column', 'MRI of the study', '-d', f'ddae-app={study / "out"}',
        '--participant-label', 'A01',
    )  # fmt: skip
    refused = run(*asked)
    assert refused.returncode == 2
    (line,) = error_lines(refused.stderr)
    told = shlex.split(line.split('run it once (')[1].split('), or give')[0])
    assert told[:4] == ['ddae-app', str(bids), str(tmp_path / 'out'), 'train']
    assert '--participant-label' not in told
    made = run(*told[1:], '-w', tmp_path / 'work')
    assert made.returncode == 0, made.stderr
    done = run(*asked)
    assert done.returncode == 0, done.stderr


def test_jobs_with_reference_scans_are_told_the_command_too(
    study, harmonized, reference, tmp_path
):
    out = tmp_path / 'out'
    (reference / 'participants.tsv').unlink()
    asked = (
        study / 'bids', out, 'participant', *FLAGS, '-w', tmp_path / 'work', '--target-scans',
        reference, '-d', f'ddae-app={study / "out"}', '--participant-label', 'A01',
    )  # fmt: skip
    refused = run(*asked)
    assert refused.returncode == 2
    (line,) = error_lines(refused.stderr)
    told = shlex.split(line.split('run it once (')[1].split('), or give')[0])
    made = run(*told[1:], '-w', tmp_path / 'work')
    assert made.returncode == 0, made.stderr
    done = run(*asked)
    assert done.returncode == 0, done.stderr


def test_a_calibration_is_renewed_with_the_slices_that_it_had(study, harmonized, tmp_path):
    """Its model of the medial slice used to be replaced by one of whole volumes."""
    out = tmp_path / 'out'
    shutil.copytree(study / 'out' / 'models', out / 'models')
    (model,) = Layout(out).models()
    asked = (
        study / 'bids', out, 'train', '--skull-strip', 'none', '--sloppy',
        '--skip-bids-validation', '--dry-run', '-w', tmp_path / 'work',
    )  # fmt: skip
    assert 'universal-medial' in run(*asked).stderr
    assert 'universal-all' in run(*asked, '--slices', 'all').stderr
    assert 'universal-all' in run(*asked, '--model-name', 'another').stderr
    model.write_bytes(b'damaged')
    assert 'universal-all' in run(*asked).stderr


def test_a_participant_who_is_not_there_is_told_first(study):
    refused = participant(study, 'jobs', '--target-site', 'IXI', '--participant-label', 'nobody')
    assert refused.returncode == 18
    (line,) = error_lines(refused.stderr)
    assert 'sub-nobody' in line and 'calibration' not in line


def test_a_dry_run_tells_what_would_be_calibrated(study):
    told = participant(study, 'dry', '--target-site', 'IXI', '--dry-run')
    assert told.returncode == 0, told.stderr
    assert f'the sites would be calibrated first (participants): {MANY} 5\n' in told.stderr
    assert f'WARNING site {FEW} (2 scans) is unknown' in told.stderr
    assert f'{MANY} (5 scans)' not in told.stderr
    assert not (study / 'dry').exists()


def test_a_dry_run_takes_a_site_that_would_be_calibrated_as_the_target(study):
    told = participant(study, 'dry', '--target-site', MANY, '--dry-run')
    assert told.returncode == 0, told.stderr
    states = [line.split('\t')[1:3] for line in told.stdout.splitlines()[1:]]
    assert states == [['new', 'new']] * 7
    nowhere = participant(study, 'dry', '--target-site', FEW, '--dry-run')
    assert nowhere.returncode == 2 and f'{FEW!r} is no site that can be' in nowhere.stderr


def test_a_dry_run_is_refused_where_the_calibration_would_be(study, reference, tmp_path):
    """It used to list all scans, of which the run that followed did none."""
    bids = shutil.copytree(study / 'bids', tmp_path / 'bids')
    rows = ['participant_id\tsite\tage\tsex']
    for number in range(1, 6):
        scan = f'sub-C0{number}_T1w.nii.gz'
        (bids / scan[:7] / 'anat').mkdir(parents=True)
        (bids / scan[:7] / 'anat' / scan).symlink_to(bids / 'sub-A01/anat/sub-A01_T1w.nii.gz')
        rows += [f'sub-A0{number}\t{MANY}\t3{number}\tM', f'{scan[:7]}\tOther\t3{number}\tF']
    table, asked = bids / 'participants.tsv', ('--target-site', 'IXI', '--dry-run', *FLAGS)
    table.write_text('\n'.join(rows))
    told = run(bids, tmp_path / 'out', 'participant', *asked)
    assert told.returncode == 2 and 'confounded with sex' in error_lines(told.stderr)[0]
    table.write_text(table.read_text().replace('\t31\tM', '\t30-34\tM'))
    told = run(bids, tmp_path / 'out', 'participant', *asked, '--allow-confounding')
    assert told.returncode == 16 and 'a range is no single age' in error_lines(told.stderr)[0]
    (reference / 'participants.tsv').write_text('participant_id\tage\nsub-A01\t30-34\n')
    told = participant(study, 'dry', '--target-scans', reference, '--dry-run')
    assert told.returncode == 16 and 'a range is no single age' in error_lines(told.stderr)[0]


def test_a_job_that_is_killed_while_it_calibrates_is_followed_by_the_next(study, harmonized):
    asked = (
        study / 'bids', study / 'race', 'train', '-d', f'ddae-app={study / "out"}', *FLAGS,
    )  # fmt: skip

    def start(number):
        return start_forked(*asked, '-w', study / f'race-work-{number}')

    first = start(0)
    until(first, 'to measure residual site effects')
    others = [start(number) for number in (1, 2, 3)]
    for job in others:
        until(job, 'calibrating model')  # its next step is to wait for the lock
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert not Layout(study / 'race').models()
    with ThreadPoolExecutor(3) as readers:
        said = list(readers.map(lambda job: job.communicate()[1], others))
    assert [job.returncode for job in others] == [0, 0, 0], said
    (model,), (whole,) = (Layout(study / name).models() for name in ('race', 'out'))
    assert digest_of(model) == digest_of(whole)


def until(job, words):
    """Read what a job says up to some words."""
    assert any(words in line for line in job.stderr), f'it ended without {words!r}'


def test_a_damaged_calibration_is_named_and_made_again(study, harmonized):
    """Also where a kill left its card alone."""
    (whole,) = Layout(study / 'out').models()
    files = Layout(study / 'damaged').model('calibrated')
    files.folder.mkdir(parents=True)
    flags = '--target-site', 'IXI', '-d', f'ddae-app={study / "out"}'
    for content in (whole.read_bytes()[:-1000], b'no model', b''):
        files.model.write_bytes(content)
        files.card.write_text('its card')
        refused = participant(study, 'damaged', *flags)
        assert refused.returncode == 2
        (line,) = error_lines(refused.stderr)
        assert str(files.model) in line and 'train this one again' in line
        assert not list((study / 'damaged').glob('sub-*'))
    files.model.unlink()
    done = participant(study, 'damaged', *flags)
    assert done.returncode == 0, done.stderr
    assert digest_of(files.model) == digest_of(whole)
    assert 'its card' not in files.card.read_text()


def test_scans_that_fail_do_not_take_the_others_of_their_site_along(study, harmonized, tmp_path):
    shutil.copytree(study / 'bids', tmp_path / 'bids')
    scan = next((tmp_path / 'bids' / 'sub-A05').rglob('*_T1w.nii.gz'))
    scan.write_bytes(scan.read_bytes()[:-1000])
    done = run(
        tmp_path / 'bids', tmp_path / 'out', 'participant', '-w', tmp_path / 'work', *FLAGS,
        '--target-site', 'IXI', '-d', f'ddae-app={study / "out"}',
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = error_lines(done.stderr)
    assert 'sub-A05' in line and 'changed' in line
    assert 'no site has 5 participants with usable scans, so none can be calibrated (1' in (
        done.stderr
    )
    images = (tmp_path / 'out').rglob('*desc-harmonized_T1w.nii.gz')
    assert sorted(path.parts[-3] for path in images) == [
        'sub-A01', 'sub-A02', 'sub-A03', 'sub-A04', 'sub-B01', 'sub-B02',
    ]  # fmt: skip


def test_a_scan_that_fails_is_tried_and_reported_once(study, harmonized, tmp_path):
    bids, out = tmp_path / 'bids', tmp_path / 'out'
    shutil.copytree(study / 'bids', bids)
    scan = bids / 'sub-A06' / 'anat' / 'sub-A06_T1w.nii.gz'
    scan.parent.mkdir(parents=True)
    scan.write_bytes(next((bids / 'sub-A05').rglob('*_T1w.nii.gz')).read_bytes()[:-1000])
    table = bids / 'participants.tsv'
    rows = table.read_text()
    known = {'participant_id': 'sub-A06', 'site': MANY}
    row = (known.get(column, 'n/a') for column in rows.splitlines()[0].split('\t'))
    table.write_text(rows + '\t'.join(row) + '\n')
    asked = (
        bids, out, 'participant', '-w', tmp_path / 'work', *FLAGS, '--target-site', 'IXI',
        '-d', f'ddae-app={study / "out"}',
    )  # fmt: skip
    stopped = run(*asked, '--stop-on-first-crash')
    assert stopped.returncode == 1 and not Layout(out).models(), stopped.stderr
    (line,) = error_lines(stopped.stderr)
    assert 'sub-A06' in line and '--stop-on-first-crash' in line
    done = run(*asked)
    assert done.returncode == 1, done.stderr
    (line,) = error_lines(done.stderr)
    assert 'sub-A06 failed' in line and '7 of 8 T1w done' in done.stderr
    assert done.stderr.count('sub-A06: conform failed') == 1 == done.stderr.count(line[-40:])
    (latest, *_) = Layout(out).runs()
    assert len(latest.crashes()) == 1
    assert line.split('failed: ')[1][:40] in (out / 'sub-A06.html').read_text()
    (model,) = Layout(out).models()
    assert read_model_info(model).training.subjects_per_site[0] == 5
    # Nobody has come since: who fails each time is no reason to calibrate again.
    again = run(*asked)
    assert again.returncode == 1, again.stderr
    assert 'was calibrated with' not in done.stderr + again.stderr


@pytest.mark.parametrize(('folder', 'name'), (('Köln 2', 'Koln-2'), ('東京', '--')))
def test_the_name_of_a_folder_of_target_scans_is_one_for_any_file_system(tmp_path, folder, name):
    assert name_of_folder(tmp_path / folder) == name


def test_reference_scans_are_a_target(study, harmonized, reference, tmp_path):
    flags = '--target-scans', reference, '-d', f'ddae-app={study / "out"}'
    clash = participant(study, 'to-reference', *flags)
    assert clash.returncode == 2
    (line,) = error_lines(clash.stderr)
    assert "'PhantomA' is also a site of the dataset" in line
    # Now the folder names the site, and its people are older than those of the dataset.
    ages = ''.join(f'sub-A0{i}\t{80 + i}\n' for i in range(1, 6))
    (reference / 'participants.tsv').write_text(f'participant_id\tage\n{ages}')
    early = participant(study, 'early', *flags, '--boilerplate-only')
    assert early.returncode == 2 and not list((study / 'early').rglob('sub-*'))
    assert '--boilerplate-only' in error_lines(early.stderr)[0]
    listed = participant(study, 'to-reference', *flags, '--dry-run')
    assert '(packaged); sites: IXI' in listed.stderr and '(--model)' not in listed.stderr
    assert f'{FEW} (2 scans) is unknown' in listed.stderr and f'{MANY} (5' not in listed.stderr
    strict = participant(study, 'to-reference', *flags, '--dry-run', '--unseen-site', 'refuse')
    refused = [line[:7] for line in strict.stdout.splitlines() if 'refused' in line]
    assert refused == ['sub-B01', 'sub-B02'], strict.stderr
    done = participant(study, 'to-reference', *flags)
    assert done.returncode == 0, done.stderr
    assert 'the target Reference is confounded with age (81 to 85 years there' in done.stderr
    assert 'prepared like those of the dataset' not in done.stderr
    assert 'calibrated-Reference.safetensors (--target-scans); sites: ' in done.stderr
    for name, site in (('A01', MANY), ('B01', FEW)):
        folder = study / 'to-reference' / f'sub-{name}'
        said = read_sidecar(next(folder.rglob('*desc-harmonized_T1w.nii.gz')))
        assert (said['SourceSite'], said['TargetSite']) == (site, 'Reference')
    (model,) = Layout(study / 'to-reference').models()
    assert model.name == 'calibrated-Reference.safetensors'
    assert read_model_info(model).sites == (MANY, 'Reference', *PACKAGED)
    again = participant(study, 'to-reference', *flags)
    assert again.returncode == 0 and 'calibrating' not in again.stderr, again.stderr
    # Runs without these scans do not choose this model, and preprocessing needs none.
    plain = participant(study, 'to-reference', '--target-site', 'IXI', '--dry-run')
    assert plain.returncode == 0, plain.stderr
    assert f'the sites would be calibrated first (participants): {MANY} 5' in plain.stderr
    earlier = participant(study, 'earlier', *flags, '--stage', 'preproc', '--dry-run')
    assert earlier.returncode == 0 and 'calibrat' not in earlier.stderr, earlier.stderr
    text = participant(study, 'to-reference', *flags, '--boilerplate-only')
    assert text.returncode == 0, text.stderr
    model.unlink()
    pages = participant(study, 'to-reference', *flags, '--reports-only')
    assert pages.returncode == 0 and 'calibrating' not in pages.stderr, pages.stderr
    page = (study / 'to-reference' / 'sub-A01.html').read_text()
    assert not model.exists() and '<th>Target site</th><td>Reference</td>' in page
    namesake = tmp_path / 'other' / 'Reference'
    shutil.copytree(reference, namesake)
    clash = participant(study, 'to-reference', '--target-scans', namesake, '--dry-run')
    assert clash.returncode == 2
    (line,) = error_lines(clash.stderr)
    assert f'was made of {reference}, which has the same name; rename the folder' in line
    # Their labels are those of the dataset, and each is looked for among its own.
    derived = [study / 'to-reference' / 'targets' / 'Reference', study / 'out']
    flags = '--target-scans', reference, '-d', *(f'ddae-app={folder}' for folder in derived)
    reused = participant(study, 'reused', *flags)
    assert reused.returncode == 0 and 'register to MNI' not in reused.stderr, reused.stderr
    assert not list((study / 'reused').rglob('*desc-preproc_T1w.nii.gz'))
    # So it is where the reference scans were moved since, but not of others in their place.
    shutil.rmtree(namesake)
    reference.rename(namesake)
    moved = participant(study, 'moved', '--target-scans', namesake, *flags[2:])
    assert moved.returncode == 0 and 'register to MNI' not in moved.stderr, moved.stderr
    assert not list((study / 'moved').rglob('*desc-preproc_T1w.nii.gz'))
    first, second, *_ = sorted(namesake.rglob('*_T1w.nii.gz'))
    shutil.copy(first, second)
    assert not _is_made_of(derived[0], namesake)
    assert not _is_made_of(derived[0], tmp_path)


def test_a_dataset_that_was_moved_is_known_by_its_scans(tmp_path):
    """Also where one sidecar does not say of what its image was made."""
    old, new, out = (tmp_path / name for name in ('old', 'new', 'out'))
    out.mkdir()
    links = {'Name': 'x', 'DatasetLinks': {'raw': '../old'}}
    (out / 'dataset_description.json').write_text(json.dumps(links))
    sources = {}
    for label in ('1', '2', '3'):
        scan = old / f'sub-{label}' / 'anat' / f'sub-{label}_T1w.nii.gz'
        scan.parent.mkdir(parents=True)
        scan.write_text(label)
        image = out / f'sub-{label}' / 'anat' / f'sub-{label}_desc-preproc_T1w.nii.gz'
        image.parent.mkdir(parents=True)
        image.touch()
        sources[label] = image.with_name(f'sub-{label}_desc-preproc_T1w.json')
        said = {'Sources': [f'bids:raw:{scan.relative_to(old)}']}
        sources[label].write_text(json.dumps(said | {'MadeFrom': {'RawSHA256': digest_of(scan)}}))
    old.rename(new)
    assert _is_made_of(out, new) and not _is_made_of(out, tmp_path)
    sources['2'].write_text(json.dumps({'Sources': 1}))
    assert _is_made_of(out, new)
    (new / 'sub-1' / 'anat' / 'sub-1_T1w.nii.gz').write_text('of another')
    assert not _is_made_of(out, new)
    old.symlink_to(new)  # a link that the move left
    assert _is_made_of(out, new)


@pytest.mark.parametrize(
    ('folder', 'flags', 'message'),
    [
        ('none', (), 'no such folder; expected a BIDS dataset'),
        ('none', ('--model', 'x'), 'leave out --model'),
        ('the-dataset', (), 'this is the dataset itself; name one of its sites (--target-site)'),
        ('x' * 201, (), "the name of the folder 'xxx"),
        ('empty', (), 'no dataset_description.json; expected the root of a BIDS dataset'),
        ('T2w', (), 'no T1w image; the dataset has 1 participant, 0 T1w images'),
        ('derived', (), 'its images are derivatives of scans'),
        ('one-person', (), 'no site has scans of 5 participants (one-person 1 participant)'),
        ('two-sites', (), '--target-site has to name one of its sites'),
    ],
)
def test_reference_scans_that_cannot_be_a_target(study, folder, flags, message, tmp_path):
    reference = tmp_path / folder
    names = {'T2w': ['sub-1/anat/sub-1_T2w.nii.gz'], 'derived': [], 'two-sites': []}
    names['x' * 201] = ['sub-1/anat/sub-1_T1w.nii.gz']
    names['one-person'] = [f'sub-1/ses-{i}/anat/sub-1_ses-{i}_T1w.nii.gz' for i in range(6)]
    table = 'participant_id\tsite\n'
    for i in range(10 if folder == 'two-sites' else 0):
        names[folder].append(f'sub-{i}/anat/sub-{i}_T1w.nii.gz')
        table += f'sub-{i}\t{"XY"[i % 2]}\n'
    for name in names.get(folder, ()):
        (reference / name).parent.mkdir(parents=True, exist_ok=True)
        (reference / name).write_bytes(b'')
    if folder == 'empty':
        reference.mkdir()
    elif folder != 'none':
        reference.mkdir(exist_ok=True)
        kind = 'derivative' if folder == 'derived' else 'raw'
        said = {'Name': folder, 'BIDSVersion': '1.10.0', 'DatasetType': kind}
        (reference / 'dataset_description.json').write_text(json.dumps(said))
    if folder == 'two-sites':
        (reference / 'participants.tsv').write_text(table)
    if folder == 'the-dataset':
        shutil.rmtree(reference)
        reference.symlink_to(study / 'bids')
    refused = participant(study, 'nowhere', '--target-scans', reference, *flags)
    assert refused.returncode == 2
    (line,) = error_lines(refused.stderr)
    assert '--target-scans' in line and message in line
    assert not list((study / 'nowhere').glob('sub-*'))


@pytest.mark.parametrize('target', ['IXI', MANY, 'scans'])
def test_where_nothing_names_the_sites_that_is_the_reason(study, target, tmp_path):
    bids, out = tmp_path / 'bids', tmp_path / 'out'
    shutil.copytree(study / 'bids', bids)
    (bids / 'participants.tsv').unlink()
    asked = ('--target-scans', study / 'bids') if target == 'scans' else ('--target-site', target)
    refused = run(bids, out, 'participant', *FLAGS, '-w', tmp_path / 'work', *asked)
    assert refused.returncode == 2
    (line,) = error_lines(refused.stderr)
    assert 'participants.tsv is not there, so the sites of the scans are unknown' in line
    assert 'no site' not in refused.stderr and 'calibrating' not in refused.stderr
    assert not (out / 'targets').exists()


@pytest.mark.parametrize(
    ('columns', 'told'),
    [
        ('site', "sites (column 'site'): X 5"),
        ('note', 'sites (the name of the folder): Reference 5'),
    ],
)
def test_what_names_the_site_of_reference_scans_is_told(study, tmp_path, columns, told):
    """It is no flag, which nobody gave."""
    reference = tmp_path / 'Reference'
    table = f'participant_id\t{columns}\n'
    for i in range(5):
        scan = reference / f'sub-{i}' / 'anat' / f'sub-{i}_T1w.nii.gz'
        scan.parent.mkdir(parents=True)
        scan.write_bytes(b'')
        table += f'sub-{i}\tX\n'
    (reference / 'participants.tsv').write_text(table)
    (reference / 'dataset_description.json').write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    failed = participant(study, 'unreadable', '--target-scans', reference)
    assert failed.returncode == 2
    assert told in failed.stderr
    (line,) = error_lines(failed.stderr)
    assert f'--target-scans {reference}: no site has 5 participants with usable scans' in line
    assert line.endswith('or give a packaged site (--target-site) instead')  # nothing else helps
    assert '--source-site' not in failed.stderr
