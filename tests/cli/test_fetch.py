"""``ddae-app-fetch`` without a network: the calls that would use it are replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ddae_app.cli.fetch import main
from ddae_app.imaging.spheres import read_spheres
from ddae_app.imaging.weights import check_weights
from tests.imaging.made_spheres import even_places, sphere_path, write_sphere
from tests.imaging.nnunet_model import write_model


class OfflineError(OSError):
    """What libraries raise: several lines long."""


def _fail(*arguments, **options):
    raise OfflineError('Max retries exceeded with url: /x\nCaused by NameResolutionError\n')


@pytest.fixture(autouse=True)
def _environment(monkeypatch, tmp_path):
    monkeypatch.setattr(os, 'environ', dict(os.environ))


@pytest.mark.parametrize(
    ('what', 'call', 'mend'),
    [
        ('templates', 'templateflow.api.get', 'tpl-MNI152NLin2009cAsym'),
        ('spheres', 'templateflow.api.get', 'tpl-fsLR'),
        ('hd-bet', 'HD_BET.checkpoint_download.maybe_download_parameters', '--hd-bet-weights'),
    ],
)
def test_without_a_network_one_line_says_what_to_do(monkeypatch, capsys, what, call, mend):
    monkeypatch.setattr(call, _fail)
    assert main([what]) == 2
    said = capsys.readouterr()
    assert said.err.startswith('ddae-app-fetch: error: ') and said.err.count('\n') == 1
    assert 'OfflineError: Max retries exceeded' in said.err and mend in said.err
    assert said.out == ''


def test_a_broken_download_leaves_nothing_behind(monkeypatch, tmp_path):
    os.environ['TEMPLATEFLOW_HOME'] = str(tmp_path / 'home')

    def break_off(*arguments, **options):
        partial = tmp_path / 'home' / 'tpl-MNI152NLin2009cAsym' / 'partial_T1w.nii.gz'
        assert os.environ['TEMPLATEFLOW_HOME'] != str(tmp_path / 'home')
        assert not partial.exists()
        _fail()

    monkeypatch.setattr('templateflow.api.get', break_off)
    assert main(['templates']) == 2
    assert not (tmp_path / 'home').exists()


def test_fetched_spheres_are_those_that_are_read(monkeypatch, tmp_path, capsys):
    os.environ['TEMPLATEFLOW_HOME'] = str(home := tmp_path / 'home')

    def get(template, *, space, density, hemi, suffix, raise_empty):
        assert (template, space, suffix, raise_empty) == ('fsLR', 'fsaverage', 'sphere', True)
        path = sphere_path(Path(os.environ['TEMPLATEFLOW_HOME']), hemi, density)
        write_sphere(path, even_places(50, turn=float(hemi == 'R')))
        return path

    monkeypatch.setattr('templateflow.api.get', get)
    assert main(['spheres']) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 6 and all(Path(line).is_relative_to(home) for line in said)
    for density in ('32k', '59k', '164k'):
        assert read_spheres(density, 50, home).shape == (2, 50, 3)


def test_a_folder_that_cannot_be_written_to(monkeypatch, tmp_path, capsys):
    (tmp_path / 'home').write_text('a file')
    os.environ['TEMPLATEFLOW_HOME'] = str(tmp_path / 'home')

    def get(*arguments, **options):
        path = Path(os.environ['TEMPLATEFLOW_HOME']) / 'tpl-x' / 'T1w.nii.gz'
        path.parent.mkdir(exist_ok=True)
        path.touch()
        return path

    monkeypatch.setattr('templateflow.api.get', get)
    assert main(['templates']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'{tmp_path / "home" / "tpl-x" / "T1w.nii.gz"} cannot be written (Not a dir' in line


def test_a_user_without_a_home(monkeypatch, tmp_path):
    """As ddae-app, which takes the variable alone."""
    monkeypatch.setattr('templateflow.api.get', _fail)
    monkeypatch.setattr(Path, 'home', lambda: pytest.fail('there is none'))
    del os.environ['HOME']
    os.environ['TEMPLATEFLOW_HOME'] = str(tmp_path)
    assert main(['templates']) == 2


def test_fetched_weights_are_vouched_for(monkeypatch, tmp_path, capsys):
    download = tmp_path / 'release'
    monkeypatch.setattr('HD_BET.paths.folder_with_parameter_files', str(download))
    monkeypatch.setattr(
        'HD_BET.checkpoint_download.maybe_download_parameters',
        lambda: write_model(download, threshold=0.25),
    )
    os.environ['HDBET_WEIGHTS'] = str(tmp_path / 'weights')
    assert main(['hd-bet']) == 0
    sha256 = check_weights(tmp_path / 'weights')
    assert capsys.readouterr().out.splitlines()[-1] == f'SHA-256 {sha256}'


@pytest.mark.parametrize('arguments', [[], ['weights']])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
