"""What concerns every scan is refused at once: one line, the right exit code."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from ddae_app.cli.main import main
from ddae_app.methods.modelfile import FORMAT_VERSION
from ddae_app.settings import Protocol
from tests.imaging.nnunet_model import write_model as write_network
from tests.levels.conftest import error_lines, write_model

NONE = ('--skull-strip', 'none', '--skip-bids-validation')


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run the program in this process, which has loaded torch, and look at what it says."""

    def check(code, word, *arguments, **environment):
        # The program sets variables for the processes that it starts: forget them afterwards.
        monkeypatch.setattr(os, 'environ', os.environ.copy() | environment)
        assert main([str(argument) for argument in arguments]) == code
        stderr = capsys.readouterr().err
        (line,) = error_lines(stderr)
        assert word in line
        assert 'Traceback' not in stderr

    return check


@pytest.fixture
def flags(bids_dir, model, tmp_path):
    return (
        bids_dir, tmp_path / 'out', 'participant', '--model', model, '-w', tmp_path / 'work',
        *NONE,
    )  # fmt: skip


def test_target_site_missing_or_unknown(flags, refused):
    refused(2, 'PhantomA, PhantomB', *flags)
    refused(2, 'PhantomA, PhantomB', *flags, '--target-site', 'IXI')


@pytest.mark.parametrize(
    ('write', 'word'),
    [
        (lambda path: None, 'safetensors'),
        (lambda path: path.write_bytes(b'not a model'), 'model.safetensors'),
        (lambda path: path.write_bytes(write_model(path).read_bytes()[:5000]), 'safetensors'),
    ],
    ids=['missing', 'other', 'truncated'],
)
def test_model_file_unusable(bids_dir, tmp_path, write, word, refused):
    path = tmp_path / 'model.safetensors'
    write(path)
    refused(
        2, word, bids_dir, tmp_path / 'out', 'participant', '--target-site', 'PhantomA',
        '--model', path, '-w', tmp_path / 'work', *NONE,
    )  # fmt: skip


def test_model_of_another_version(bids_dir, tmp_path, refused):
    path = write_model(tmp_path / 'model.safetensors')
    content = path.read_bytes()
    old, new = (f'\\"format_version\\":{v}'.encode() for v in (FORMAT_VERSION, 1))
    assert old in content
    path.write_bytes(content.replace(old, new))
    refused(
        2, 'version', bids_dir, tmp_path / 'out', 'participant', '--target-site', 'PhantomA',
        '--model', path, '-w', tmp_path / 'work', *NONE,
    )  # fmt: skip


def test_model_of_another_protocol(flags, refused):
    asked = ('--target-site', 'PhantomA')
    refused(2, '--slices', *flags, *asked, '--slices', 'all')
    refused(2, '--template', *flags, *asked, '--template', 'MNI152NLin2009cAsym')


def test_template_not_there(bids_dir, tmp_path, refused):
    protocol = Protocol(template='MNI152NLin2009cAsym')
    model = write_model(tmp_path / 'model.safetensors', protocol=protocol)
    refused(
        2, 'ddae-app-fetch templates', bids_dir, tmp_path / 'out', 'participant', '--target-site',
        'PhantomA', '--model', model, '-w', tmp_path / 'work', *NONE,
        TEMPLATEFLOW_HOME=str(tmp_path / 'empty'),
    )  # fmt: skip


def test_weights_not_there(flags, tmp_path, refused):
    refused(
        2, 'ddae-app-fetch hd-bet', *flags, '--target-site', 'PhantomA', '--skull-strip', 'hd-bet',
        HDBET_WEIGHTS=str(tmp_path / 'nowhere'),
    )  # fmt: skip


def test_weights_that_nobody_vouches_for(flags, tmp_path, refused):
    write_network(tmp_path / 'weights', threshold=0.25)
    refused(
        2, '--hd-bet-sha256', *flags, '--target-site', 'PhantomA', '--skull-strip', 'hd-bet',
        '--hd-bet-weights', tmp_path / 'weights',
    )  # fmt: skip


def test_gpu_asked_for_and_absent(flags, refused):
    refused(
        2, '--device', *flags, '--target-site', 'PhantomA', '--device', 'cuda',
        CUDA_VISIBLE_DEVICES='',
    )  # fmt: skip


def test_no_site_column_and_no_table(bids_dir, model, tmp_path, refused):
    bids = tmp_path / 'bids'
    shutil.copytree(bids_dir, bids)
    flags = (
        bids, tmp_path / 'out', 'participant', '--target-site', 'PhantomA', '--model', model,
        '-w', tmp_path / 'work', *NONE,
    )  # fmt: skip
    (bids / 'participants.tsv').write_text('participant_id\tage\nsub-A01\t40\n')
    refused(2, 'no site column (found participant_id, age)', *flags)
    refused(2, "'hospital'", *flags, '--site-column', 'hospital')
    (bids / 'participants.tsv').unlink()
    refused(2, 'participants.tsv is not there', *flags)


def test_nothing_selected(flags, bids_dir, tmp_path, refused):
    asked = ('--target-site', 'PhantomA')
    refused(18, 'sub-Z99', *flags, *asked, '--participant-label', 'Z99')
    filters = tmp_path / 'filters.json'
    filters.write_text(json.dumps({'t1w': {'acquisition': 'mprage'}}))
    refused(18, 'acquisition=mprage', *flags, *asked, '--bids-filter-file', filters)


def test_no_t1w_at_all(bids_dir, model, tmp_path, refused):
    bids = tmp_path / 'bids'
    bids.mkdir()
    shutil.copy(bids_dir / 'dataset_description.json', bids)
    refused(
        18, 'no T1w', bids, tmp_path / 'out', 'participant', '--target-site', 'PhantomA',
        '--model', model, '-w', tmp_path / 'work', *NONE,
    )  # fmt: skip


def test_input_not_bids(bids_dir, model, tmp_path, refused):
    bids = tmp_path / 'bids'
    shutil.copytree(bids_dir, bids)
    (bids / 'sub-A01' / 'anat' / 'sub-A01_T1.nii.gz').write_bytes(b'wrong suffix')
    refused(
        16, 'sub-A01_T1.nii.gz', bids, tmp_path / 'out', 'participant', '--target-site',
        'PhantomA', '--model', model, '-w', tmp_path / 'work', '--skull-strip', 'none',
    )  # fmt: skip
    (bids / 'dataset_description.json').unlink()
    refused(
        16, 'dataset_description.json', bids, tmp_path / 'out', 'participant', '--target-site',
        'PhantomA', '--model', model, '-w', tmp_path / 'work', *NONE,
    )  # fmt: skip


def test_dataset_is_never_written_to(bids_dir, model, tmp_path, refused):
    bids = tmp_path / 'bids'
    shutil.copytree(bids_dir, bids)
    before = sorted(bids.rglob('*'))
    refused(2, 'never written to', bids, bids, 'participant', '-w', tmp_path / 'work')
    refused(2, 'never written to', bids, tmp_path / 'out', 'participant', '-w', bids / 'work')
    assert sorted(bids.rglob('*')) == before


def test_output_not_writable(bids_dir, tmp_path, refused):
    (tmp_path / 'file').touch()
    refused(
        2, 'cannot be written to', bids_dir, tmp_path / 'file' / 'out', 'participant',
        '-w', tmp_path / 'work',
    )  # fmt: skip


def test_a_model_from_elsewhere_is_not_replaced(bids_dir, tmp_path, refused):
    model = tmp_path / 'out' / 'models' / 'ddae.safetensors'
    model.parent.mkdir(parents=True)
    model.write_bytes(b'of others')
    refused(
        2, 'without ddae_MODEL.md, so it comes from elsewhere; give another --model-name',
        bids_dir, tmp_path / 'out', 'train', '--preset', 'tiny', '-w', tmp_path / 'work', *NONE,
    )  # fmt: skip
    assert model.read_bytes() == b'of others'


def test_cleaning_never_deletes_data(bids_dir, model, tmp_path, refused):
    data = tmp_path / 'data'
    shutil.copytree(bids_dir, data / 'bids')
    before = sorted(data.rglob('*'))
    refused(2, 'is the output folder', data / 'bids', data, 'group', '-w', data)
    for out in (tmp_path / 'out', data / 'out'):
        refused(
            18, 'participant level first', data / 'bids', out, 'group', '-w', data,
            '--clean-workdir',
        )  # fmt: skip
    assert set(before) <= set(data.rglob('*'))


def test_output_inside_the_dataset_only_under_derivatives(bids_dir, tmp_path, refused):
    bids = tmp_path / 'bids'
    shutil.copytree(bids_dir, bids)
    refused(2, 'derivatives', bids, bids / 'sub-A01', 'group', '-w', tmp_path / 'work')
    assert not (bids / 'sub-A01' / 'logs').exists()
    out = bids / 'derivatives' / 'ddae-app'
    refused(18, 'participant level first', bids, out, 'group', '-w', tmp_path / 'work')
