"""Train, then use what was trained; then the group level on what came out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from ddae_app.bids.dataset import read_tsv
from ddae_app.bids.validation import run_validator
from ddae_app.methods.modelfile import read_model_info
from tests.levels.conftest import TEMPLATE, error_lines, run, run_anew

FLAGS = (
    '--skull-strip', 'none', '--template', TEMPLATE, '--sloppy', '--skip-bids-validation',
    '--nprocs', '1', '--slices', 'medial',
)  # fmt: skip
TRAIN = (
    '--preset', 'tiny', '--train-images', '64', '--random-seed', '7', '--allow-few-scans',
)  # fmt: skip


@pytest.fixture(scope='module')
def trained(bids_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    result = run_anew(bids_dir, folder / 'out', 'train', '-w', folder / 'work', *FLAGS, *TRAIN)
    assert result.returncode == 0, result.stderr
    return folder, result.stderr


def test_model_tells_how_it_came_about(trained):
    folder, said = trained
    info = read_model_info(folder / 'out' / 'models' / 'ddae.safetensors')
    assert info.sites == ('PhantomA', 'PhantomB')
    assert info.phantom
    assert info.protocol.template == TEMPLATE
    assert info.training.seed == 7
    assert info.training.images_seen == 64
    assert 'trained on 64 of 64 images' in said
    losses = folder / 'out' / 'models' / 'ddae_losses.tsv'
    assert read_tsv(losses)
    assert ElementTree.parse(losses.with_suffix('.svg')).getroot().tag.endswith('svg')


def test_a_model_comes_with_its_card_and_samples(trained):
    folder, said = trained
    models = folder / 'out' / 'models'
    card = (models / 'ddae_MODEL.md').read_text()
    assert '# ddae' in card and 'made from simulated scans' in card
    assert '| PhantomA | 1 | 0 | 9 |' in card and '| PhantomB | 1 | 0 | 9 |' in card
    assert 'site PhantomA has 1 subject, fewer than 10' in card
    assert 'site PhantomA has 1 subject' in said
    flags = f'--skip-bids-validation --skull-strip none --template {TEMPLATE} --slices medial'
    # The next step, of scans that are prepared so.
    assert f'{folder / "out"} participant --target-site NAME {flags} --sloppy (' in said
    assert 'License: See README' in card
    assert (models / 'ddae_samples.png').read_bytes().startswith(b'\x89PNG')


def test_few_scans_are_refused_unless_allowed(trained, bids_dir, tmp_path):
    folder, _ = trained
    flags = [flag for flag in TRAIN if flag != '--allow-few-scans']
    result = run(
        bids_dir, tmp_path / 'out', 'train', '-w', tmp_path / 'work', '-d',
        f'ddae-app={folder / "out"}', *FLAGS, *flags,
    )  # fmt: skip
    assert result.returncode == 2
    (line,) = error_lines(result.stderr)
    assert 'site PhantomA has 1 subject' in line and '--allow-few-scans' in line


def test_people_to_whom_no_combat_can_be_fitted_are_refused_before_any_work(bids_dir, tmp_path):
    flags = '--method', 'combat', '--slices', 'medial', '--allow-few-scans', *FLAGS
    for dry_run in ((), ('--dry-run',)):
        asked = bids_dir, tmp_path / 'out', 'train', '-w', tmp_path / 'work', *flags, *dry_run
        result = run(*asked)
        assert 'site PhantomA has scans of one subject, ComBat needs two' in result.stderr
        assert result.returncode == (0 if dry_run else 2)
        assert 'conform' not in result.stderr and not list(tmp_path.rglob('sub-*'))


def with_one_of_no_site(bids_dir, bids):
    """A copy of a dataset with one more scan, which is left out."""
    shutil.copytree(bids_dir, bids)
    shutil.copytree(bids / 'sub-A01', bids / 'sub-X')
    for file in (bids / 'sub-X' / 'anat').iterdir():
        file.rename(file.with_name(file.name.replace('sub-A01', 'sub-X')))
    return bids


def test_a_time_limit_stops_training_and_the_next_run_resumes_it(trained, bids_dir, tmp_path):
    folder, _ = trained
    flags = (
        with_one_of_no_site(bids_dir, tmp_path / 'bids'), tmp_path / 'out', 'train',
        '-w', tmp_path / 'work', '-d',
        f'ddae-app={folder / "out"}', *FLAGS, *TRAIN,
    )  # fmt: skip
    listed = run(*flags, '--dry-run')
    assert listed.returncode == 1, listed.stderr
    assert 'sub-X would be left out: its site is not known' in listed.stderr
    assert 'sub-X' not in listed.stdout and 'sub-A01\treused' in listed.stdout
    stopped = run(*flags, '--max-hours', '0')
    assert stopped.returncode == 0, stopped.stderr
    assert 'sub-X was left out' in stopped.stderr
    assert 'run the same command again' in stopped.stderr
    assert not (tmp_path / 'out' / 'models').exists()
    finished = run(*flags)
    assert finished.returncode == 1, finished.stderr
    assert 'sub-X was left out' in error_lines(finished.stderr)[0]
    # As without a stop, to the byte.
    models = [path / 'out' / 'models' / 'ddae.safetensors' for path in (tmp_path, folder)]
    assert models[0].read_bytes() == models[1].read_bytes()


def test_training_can_start_from_another_model(trained, bids_dir, tmp_path):
    folder, _ = trained
    first = folder / 'out' / 'models' / 'ddae.safetensors'
    result = run(
        bids_dir, tmp_path / 'out', 'train', '-w', tmp_path / 'work', '-d',
        f'ddae-app={folder / "out"}', '--init-from', first, *FLAGS, *TRAIN,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    info = read_model_info(tmp_path / 'out' / 'models' / 'ddae.safetensors')
    assert info.notes.startswith('started from ddae, SHA-256 ')


def test_the_sites_of_a_dataset_are_calibrated_without_training(trained, bids_dir, tmp_path):
    folder, _ = trained
    out = tmp_path / 'out'
    elsewhere = ('-w', tmp_path / 'work', '-d', f'ddae-app={folder / "out"}')
    asked = (bids_dir, out, 'train', *elsewhere, *FLAGS, '--preset', 'calibrated')
    few = run(*asked)
    assert few.returncode == 2
    (line,) = error_lines(few.stderr)
    assert 'no site has 5 participants' in line and '--allow-few-scans' in line
    done = run(*asked, '--allow-few-scans')
    assert done.returncode == 0, done.stderr
    assert "calibrating model 'universal'" in done.stderr
    models = out / 'models'
    info = read_model_info(models / 'calibrated.safetensors')
    assert info.sites == ('PhantomA', 'PhantomB', 'IXI', 'Novosibirsk', 'UCLA')
    assert info.name == 'calibrated' and info.training.subjects_per_site[:2] == (1, 1)
    assert info.notes.startswith('calibrated: the networks are those of universal, SHA-256 ')
    assert 'CC BY-SA 3.0' in info.notes
    card = (models / 'calibrated_MODEL.md').read_text()
    assert info.notes in card
    assert '- calibrated: nothing was trained on the data above; what follows is of the ' in card
    assert f'of the networks, {info.networks}\n' in card
    # To the byte the same a second time, without the losses of an earlier model of the name, and
    # a model that harmonizes.
    first = (models / 'calibrated.safetensors').read_bytes()
    for name in ('calibrated_losses.tsv', 'calibrated_losses.svg'):
        (models / name).write_text('of an earlier model')
    assert run(*asked, '--allow-few-scans').returncode == 0
    assert (models / 'calibrated.safetensors').read_bytes() == first
    assert not list(models.glob('*_losses.*'))
    used = run(bids_dir, out, 'participant', '--target-site', 'PhantomB', *elsewhere, *FLAGS)
    assert used.returncode == 0, used.stderr
    assert "'calibrated' from " in used.stderr and 'made in this output folder' in used.stderr
    # Beside it, another has to be named to be used, and nothing takes the place of one of others.
    other = run(*asked, '--allow-few-scans', '--model-name', 'other')
    assert f'--target-site NAME --model {models / "other.safetensors"}' in other.stderr
    (models / 'other_MODEL.md').unlink()
    for dry_run in ((), ('--dry-run',)):
        refused = run(*asked, '--allow-few-scans', '--model-name', 'other', *dry_run)
        assert refused.returncode == 2 and 'comes from elsewhere' in refused.stderr


def test_networks_that_know_sites_by_training_alone_are_not_calibrated(bids_dir, model, tmp_path):
    """Between sites that were not measured, they would change nothing."""
    result = run(bids_dir, tmp_path / 'out', 'train', *FLAGS, '--init-from', model)
    assert result.returncode == 2
    (line,) = error_lines(result.stderr)
    assert f'--init-from {model}: its networks, as those of --preset paper, know no site' in line


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (('--train-images', '64'), '--preset calibrated, the default, trains no network'),
        (('--method', 'combat'), '--preset calibrated: combat is fitted anew each time'),
        (('--preset', 'tiny', '--method', 'cvae'), '--preset tiny: cvae is fitted anew each time'),
    ],
)
def test_flags_that_there_is_no_use_for(flags, message, bids_dir, tmp_path):
    result = run(bids_dir, tmp_path / 'out', 'train', *FLAGS, '--preset', 'calibrated', *flags)
    assert result.returncode == 2
    (line,) = error_lines(result.stderr)
    assert message in line
    assert not (tmp_path / 'out' / 'models').exists()


def test_processes_that_torchrun_starts_train_one_model(trained, bids_dir, tmp_path):
    """A scan that is left out fails the first alone: torchrun ends all others with one."""
    folder, _ = trained
    bids = with_one_of_no_site(bids_dir, tmp_path / 'bids')
    launcher = (
        sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2',
    )  # fmt: skip
    arguments = (
        '-m', 'ddae_app', bids, tmp_path / 'out', 'train', '-w', tmp_path / 'work', '-d',
        f'ddae-app={folder / "out"}', *FLAGS, *TRAIN,
    )  # fmt: skip
    result = subprocess.run(
        [*launcher, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1, result.stderr
    assert result.stderr.count('sub-X was left out') == 1
    assert (tmp_path / 'out' / 'models' / 'ddae.safetensors').is_file(), result.stderr
    assert len(list((tmp_path / 'out' / 'logs').iterdir())) == 1
    assert result.stderr.count('training slices: PhantomA 9, PhantomB 9') == 1
    losses = [
        float(read_tsv(path / 'out' / 'models' / 'ddae_losses.tsv')[-1]['train_loss'])
        for path in (folder, tmp_path)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_training_again_is_resumed_from_its_end(trained, bids_dir):
    folder, _ = trained
    path = folder / 'out' / 'models' / 'ddae.safetensors'
    before = path.read_bytes()
    result = run(bids_dir, folder / 'out', 'train', '-w', folder / 'work', *FLAGS, *TRAIN)
    assert result.returncode == 0, result.stderr
    assert 'preprocess: 2 done' in result.stderr
    assert path.read_bytes() == before


def test_trained_model_is_found_and_used_and_group_gathers(trained, bids_dir):
    folder, _ = trained
    out = folder / 'out'
    flags = [flag for flag in FLAGS if flag not in ('--template', TEMPLATE)]
    result = run(
        bids_dir, out, 'participant', '--target-site', 'PhantomB', '-w', folder / 'work', *flags
    )
    assert result.returncode == 0, result.stderr
    assert 'made in this output folder' in result.stderr
    group = run_anew(bids_dir, out, 'group', '-w', folder / 'work')
    assert group.returncode == 0, group.stderr
    rows = read_tsv(out / 'group_T1w.tsv')
    assert [row['source_site'] for row in rows] == ['PhantomA', 'PhantomB']
    page = (out / 'group_T1w.html').read_text()
    assert 'href="sub-A01.html"' in page and 'href="sub-B01.html"' in page
    assert run_validator(out, kind='derivative')['issues']['issues'] == []


def test_group_without_results(bids_dir, tmp_path):
    result = run(bids_dir, tmp_path / 'out', 'group', '-w', tmp_path / 'work')
    assert result.returncode == 18
    assert 'participant level first' in error_lines(result.stderr)[0]


def test_one_site_cannot_be_trained_on(trained, bids_dir, tmp_path):
    folder, _ = trained
    bids = tmp_path / 'bids'
    shutil.copytree(bids_dir, bids)
    table = bids / 'participants.tsv'
    table.write_text(table.read_text().replace('PhantomB', 'PhantomA'))
    result = run(
        bids, tmp_path / 'out', 'train', '-w', tmp_path / 'work', '-d',
        f'ddae-app={folder / "out"}', *FLAGS, *TRAIN,
    )  # fmt: skip
    assert result.returncode == 2
    assert 'at least two' in error_lines(result.stderr)[0]
