from __future__ import annotations

import getpass
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ddae_app import __version__
from ddae_app.cli import main as cli
from ddae_app.cli import runtime
from ddae_app.cli.main import main, resolve
from ddae_app.cli.runtime import default_model, own_work_dir
from ddae_app.errors import UsageError
from ddae_app.processes import StopRequest
from ddae_app.settings import from_flat, read_flat, to_toml

HEAVY = {'torch', 'nipype', 'ants', 'bids', 'numpy', 'pandas', 'nibabel', 'templateflow'}


@pytest.fixture
def bids_dir(tmp_path, monkeypatch) -> Path:
    """A folder that passes for a dataset; the current folder is another."""
    folder = tmp_path / 'bids'
    (folder / 'sub-01').mkdir(parents=True)
    (folder / 'dataset_description.json').write_text('{}')
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return folder


@pytest.fixture
def settings(bids_dir, tmp_path):
    """Resolve arguments: ``settings(nprocs=3)``."""

    def from_arguments(environment: dict[str, str] | None = None, **arguments):
        places = {
            'bids_dir': bids_dir, 'output_dir': tmp_path / 'out', 'analysis_level': 'participant',
        }  # fmt: skip
        return resolve(places | arguments, environment or {'HOME': str(tmp_path)})

    return from_arguments


def _tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


@pytest.mark.parametrize(
    ('arguments', 'code'), [(['--help'], 0), (['--version'], 0), (['/nowhere', 'out', 'group'], 2)]
)
def test_an_answer_does_not_wait_for_heavy_libraries(tmp_path, arguments, code):
    program = (
        'import json, sys\n'
        'from ddae_app.cli.main import main\n'
        'try:\n    code = main(sys.argv[1:])\n'
        'except SystemExit as stop:\n    code = stop.code\n'
        'print(json.dumps([code or 0, sorted({name.split(".")[0] for name in sys.modules})]))\n'
    )
    command = [sys.executable, '-c', program, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    exit_code, modules = json.loads(result.stdout.splitlines()[-1])
    assert exit_code == code
    assert 'ddae_app' in modules
    assert not HEAVY & set(modules)


def test_nothing_with_threads_is_loaded_before_the_run_has_its_process(bids_dir, tmp_path):
    program = (
        'import json, sys\n'
        'from ddae_app.cli import main as cli\n'
        'loaded = lambda work: print(json.dumps(sorted(sys.modules))) or 0\n'
        'cli.run_apart = loaded\n'
        'sys.exit(cli.main())\n'
    )
    command = [sys.executable, '-c', program, bids_dir, tmp_path / 'out', 'participant']
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert not HEAVY & set(json.loads(result.stdout))


@pytest.mark.parametrize('command', [['ddae-app'], ['ddae-app-fetch'], ['ddae-phantom']])
def test_version(command):
    program = Path(sys.executable).with_name(command[0])
    result = subprocess.run([program, '--version'], capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == __version__


def test_the_module_is_the_program():
    command = [sys.executable, '-m', 'ddae_app', '--version']
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == f'ddae-app {__version__}\n'


@pytest.mark.parametrize(
    ('output', 'flags', 'message'),
    [
        ('bids', [], 'the output folder is the dataset itself'),
        ('here/../bids', [], 'the output folder is the dataset itself'),
        ('link', [], 'the output folder is the dataset itself'),
        ('out', ['-w', 'BIDS/work'], 'lies inside the dataset, which is never written to'),
        ('out', ['-w', 'BIDS'], 'lies inside the dataset, which is never written to'),
        ('out', ['-w', 'LINK/sub-01/work'], 'lies inside the dataset'),
        ('file', [], 'the output folder'),
        ('file/deep/out', [], 'the output folder'),
        ('out', ['-w', 'FILE/work'], 'the work directory'),
        ('out', ['-w', 'OUT'], 'is the output folder'),
        ('out', ['--bids-database-dir', 'BIDS'], '--bids-database-dir'),
        ('out', ['--bids-database-dir', 'LINK/sub-01/x'], 'lies inside the dataset'),
        ('out', ['--config-file', 'nowhere.toml'], 'here/nowhere.toml: not readable'),
        ('out', ['--config-file', 'FILE'], 'not readable as TOML'),
    ],
)
def test_wrong_places_end_with_one_line_and_touch_nothing(
    bids_dir, tmp_path, capsys, output, flags, message
):
    (tmp_path / 'file').write_text('=')
    (tmp_path / 'link').symlink_to(bids_dir)
    places = {
        'BIDS': str(bids_dir),
        'LINK': str(tmp_path / 'link'),
        'FILE': str(tmp_path / 'file'),
        'OUT': str(tmp_path / 'out'),
    }
    for name, path in places.items():
        flags = [flag.replace(name, path) for flag in flags]
    before = _tree(bids_dir)
    assert main([str(bids_dir), str(tmp_path / output), 'participant', *flags]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count('\n') == 1 and said.err.startswith('ddae-app: error: ')
    assert said.out == ''
    assert _tree(bids_dir) == before


@pytest.mark.parametrize(
    ('level', 'flags'),
    [
        ('train', ['--reports-only']),
        ('train', ['--boilerplate-only']),
        ('train', ['--stage', 'preproc']),
        ('group', ['--reports-only']),
        ('train', ['--target-site', 'help']),
        ('group', ['--target-site', 'help', '--features', 'table.tsv']),
    ],
)
def test_a_part_of_a_level_that_it_does_not_have(bids_dir, tmp_path, capsys, level, flags):
    assert main([str(bids_dir), str(tmp_path / 'out'), level, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        f'{" ".join(flags[:2])} is a part of the participant level, and the {level} level' in line
    )
    assert not (tmp_path / 'out').exists()


def test_of_several_processes_one_lists_what_would_be_done(
    bids_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv('RANK', '1')
    assert main([str(bids_dir), str(tmp_path / 'out'), 'train', '--dry-run']) == 0
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize('name', ['nowhere', 'bids/dataset_description.json'])
def test_a_dataset_that_is_not_there(bids_dir, tmp_path, capsys, name):
    assert main([str(tmp_path / name), str(tmp_path / 'out'), 'participant']) == 2
    said = capsys.readouterr().err
    assert f'{tmp_path / name}: no such folder' in said and said.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_the_work_directory_is_not_put_into_the_dataset_by_default(
    bids_dir, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(bids_dir)
    assert main(['.', str(tmp_path / 'out'), 'group']) == 2
    assert 'name another with -w' in capsys.readouterr().err
    assert _tree(bids_dir) == ['dataset_description.json', 'sub-01']


def test_a_folder_of_others_is_left_as_it_is(bids_dir, tmp_path, capsys):
    out = tmp_path / 'derivatives'
    out.mkdir()
    (out / 'dataset_description.json').write_text('{"GeneratedBy": [{"Name": "fMRIPrep"}]}')
    (out / 'README.md').write_text('notes of the lab')
    before = {path: path.read_bytes() for path in out.iterdir()}
    for level in ('participant', 'train', 'group'):
        assert main([str(bids_dir), str(out), level]) == 2
        assert 'of fMRIPrep; expected an empty folder' in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_datasets_are_kept_apart_in_the_work_directory(settings, bids_dir, tmp_path, monkeypatch):
    def place(out):
        return own_work_dir(settings(output_dir=tmp_path / out, work_dir=tmp_path / 'work'))

    first = place('out')
    assert first.parent == tmp_path / 'work' and first.name.startswith('out-')
    assert place('out') == first
    assert place('out2') != first
    monkeypatch.setattr(runtime, '__version__', '0.0')
    assert place('out') != first
    monkeypatch.undo()
    # In containers, the folders of all datasets have the same paths.
    monkeypatch.chdir(tmp_path)
    for folder in (bids_dir, tmp_path / 'out'):
        folder.rename(tmp_path / 'before')
        shutil.copytree(tmp_path / 'before', folder)
        assert place('out') != first
        shutil.rmtree(folder)
        (tmp_path / 'before').rename(folder)
    assert place('out') == first
    (bids_dir / 'dataset_description.json').write_text('{"Name": "another"}')
    assert place('out') != first


def test_cleaning_deletes_nothing_of_others(bids_dir, tmp_path, monkeypatch):
    """Neither files of people, nor those of other datasets."""
    monkeypatch.setattr(os, 'environ', dict(os.environ))
    seen = []

    def look(settings, logs):
        folder = settings.run.work_dir
        seen.append((folder / 'mark').exists())
        (folder / 'mark').touch()
        return 0

    monkeypatch.setattr(cli, '_run_level', look)
    work = tmp_path / 'here'  # as with -w .
    (work / 'thesis').mkdir()
    (work / 'thesis' / 'text').write_text('x')
    for out, flags in [
        ('a', []),
        ('a', []),
        ('b', ['--clean-workdir']),
        ('a', []),
        ('a', ['--clean-workdir']),
    ]:
        arguments = [str(bids_dir), str(tmp_path / out), 'group', '-w', str(work), *flags]
        assert main(arguments) == 0
    assert seen == [False, True, False, True, False]
    assert (work / 'thesis' / 'text').read_text() == 'x' and bids_dir.is_dir()


def test_temporary_files_of_libraries_lie_in_the_work_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'environ', dict(os.environ))
    monkeypatch.setattr(tempfile, 'tempdir', None)
    with runtime.scratch(tmp_path / 'work'):
        assert Path(tempfile.mkdtemp()).is_relative_to(tmp_path / 'work')
        made = subprocess.check_output(['mktemp'], text=True, env=os.environ)
        assert made.startswith(str(tmp_path / 'work'))
    assert _tree(tmp_path / 'work') == []


def test_a_user_whom_the_system_does_not_know(settings, tmp_path, monkeypatch):
    """As in containers: no entry in passwd, and no HOME."""

    def unknown(uid):
        raise KeyError(uid)

    environment = dict(os.environ)
    for name in ('HOME', 'LOGNAME', 'USER', 'LNAME', 'USERNAME'):
        environment.pop(name, None)
    monkeypatch.setattr(pwd, 'getpwuid', unknown)
    monkeypatch.setattr(os, 'environ', environment)
    runtime.prepare_environment(settings(work_dir=tmp_path / 'work'))
    assert Path.home() == tmp_path / 'work' and getpass.getuser() == str(os.getuid())


def test_the_variable_by_which_nipype_names_jobs_of_batch_systems(settings, tmp_path, monkeypatch):
    environment = {name: text for name, text in os.environ.items() if name != 'LOGNAME'}
    monkeypatch.setattr(os, 'environ', environment | {'USER': 'ann'})
    runtime.prepare_environment(settings(work_dir=tmp_path / 'work'))
    assert os.environ['LOGNAME'] == 'ann'


def test_a_home_of_another_user(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(os, 'environ', os.environ | {'HOME': '/root'})
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    runtime.prepare_environment(settings(work_dir=tmp_path / 'work'))
    assert Path.home() == tmp_path / 'work'


def test_outputs_may_lie_in_derivatives(settings, bids_dir):
    output = bids_dir / 'derivatives' / 'ddae-app'
    assert settings(output_dir=output, work_dir=output / 'work').output_dir == output


def test_settings_of_a_run_give_the_same_settings(settings, tmp_path):
    first = settings(
        participant_label=['01'], nprocs=3, target_site='IXI', device='cpu', work_dir=Path('w')
    )
    file = tmp_path / 'settings.toml'
    file.write_text(to_toml(first))
    assert from_flat(read_flat(file)) == first
    assert settings({'HOME': '/elsewhere'}, config_file=file) == first


def test_flags_win_over_the_file(settings, tmp_path):
    file = tmp_path / 'settings.toml'
    file.write_text('random_seed = 1\n[run]\nnprocs = 5\n[harmonize]\ntarget_site = "A"\n')
    resolved = settings(config_file=file, nprocs=2)
    assert (resolved.run.nprocs, resolved.run.omp_nthreads) == (2, 1)
    assert (resolved.harmonize.target_site, resolved.random_seed) == ('A', 1)


def test_the_file_wins_over_the_environment(settings, tmp_path):
    file = tmp_path / 'settings.toml'
    file.write_text('[preproc]\nhd_bet_weights = "/mine"\n')
    environment = {'HOME': '/h', 'HDBET_WEIGHTS': '/theirs', 'TEMPLATEFLOW_HOME': '/tf'}
    preproc = settings(environment, config_file=file).preproc
    assert (preproc.hd_bet_weights, preproc.templateflow_home) == (Path('/mine'), Path('/tf'))
    usual = settings({'HOME': '/h'}).preproc
    assert usual.templateflow_home == Path('/h/.cache/templateflow')
    assert usual.hd_bet_weights == Path('/h/hd-bet_params/release_2.0.0')


@pytest.mark.parametrize('name', ['x', 'a b/ü=1', '../x', '~/x', 'link/x'])
def test_paths_of_environment_variables_are_absolute(settings, tmp_path, monkeypatch, name):
    here = tmp_path / 'here'
    (here / 'link').symlink_to('/')
    meant = {'../x': tmp_path / 'x', '~/x': tmp_path / 'home' / 'x'}.get(name, here / name)
    environment = {
        'HOME': str(tmp_path / 'home'),
        'HDBET_WEIGHTS': name,
        'TEMPLATEFLOW_HOME': name,
    }
    monkeypatch.setenv('HOME', environment['HOME'])
    monkeypatch.setenv('DDAE_MODEL', name)
    preproc = settings(environment).preproc
    assert (preproc.hd_bet_weights, preproc.templateflow_home) == (meant, meant)
    assert default_model() == meant


def test_relative_paths_of_flags_reach_the_settings(bids_dir, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(cli, '_run', lambda settings, *others: given.append(settings) or 0)
    flags = ['-d', 'ddae-app=a=b', '--model=m', '--use_plugin', 'p', '--bids-filter-file', 'f']
    assert main(['../bids', 'out', 'participant', *flags]) == 0
    (settings,), here = given, tmp_path / 'here'
    assert (settings.bids_dir, settings.output_dir) == (bids_dir, here / 'out')
    assert settings.select.derivatives == (f'ddae-app={here}/a=b',)
    assert settings.select.bids_filter_file == here / 'f'
    assert (settings.harmonize.model, settings.run.use_plugin) == (here / 'm', here / 'p')
    assert settings.run.work_dir == here / 'work'


def test_a_loop_of_links_is_no_dataset(bids_dir, tmp_path, capsys):
    (tmp_path / 'loop').symlink_to('loop')
    assert main([str(tmp_path / 'loop'), str(tmp_path / 'out'), 'participant']) == 2
    assert 'no such folder' in capsys.readouterr().err


DIGEST = 'sha256:' + 64 * 'a'


@pytest.mark.parametrize(
    ('environment', 'container'),
    [
        ({}, {}),
        ({'APPTAINER_CONTAINER': '/another.sif'}, {}),
        ({'DDAE_CONTAINER_TAG': 'ddae-app:1'}, {'Type': 'docker', 'Tag': 'ddae-app:1'}),
        (
            {'DDAE_CONTAINER_TAG': 'ddae-app:1', 'SINGULARITY_CONTAINER': '/x.sif'},
            {'Type': 'apptainer', 'Tag': 'ddae-app:1'},
        ),
        (
            {'DDAE_CONTAINER_TAG': 'ddae-app:1', 'DDAE_CONTAINER_DIGEST': DIGEST},
            {'Type': 'docker', 'Tag': 'ddae-app:1', 'URI': f'docker://ddae-app@{DIGEST}'},
        ),
    ],
)
def test_the_container_is_that_of_the_run_not_of_the_file(
    settings, tmp_path, environment, container
):
    file = tmp_path / 'settings.toml'
    file.write_text('[run.container]\nType = "docker"\nTag = "ddae-app:0"\n')
    assert settings({'HOME': '/h', **environment}, config_file=file).run.container == container


def test_a_digest_that_is_none(settings):
    environment = {'HOME': '/', 'DDAE_CONTAINER_TAG': 'x', 'DDAE_CONTAINER_DIGEST': 'latest'}
    with pytest.raises(UsageError, match="DDAE_CONTAINER_DIGEST is 'latest'; expected sha256:"):
        settings(environment)


@pytest.mark.parametrize(
    ('recipe', 'said'), [('Dockerfile', 'ARG VERSION='), ('Singularity.def', 'TAG=ddae-app:')]
)
def test_recipes_of_images_name_the_version(recipe, said):
    text = (Path(__file__).parents[2] / recipe).read_text(encoding='utf-8')
    assert f'{said}{__version__}\n' in text and 'DDAE_CONTAINER_TAG=ddae-app:' in text


@pytest.mark.parametrize(
    ('nprocs', 'level', 'threads'),
    [(1, 'participant', 1), (4, 'participant', 3), (64, 'participant', 8), (4, 'train', 4)]
    + [(2, 'group', 1), (8, 'group', 2)],
)
def test_threads_follow_from_processes(settings, nprocs, level, threads):
    assert settings(nprocs=nprocs, analysis_level=level).run.omp_nthreads == threads


def test_a_wrong_value_in_the_file(settings, tmp_path):
    file = tmp_path / 'settings.toml'
    file.write_text('[run]\nnprocs = "all"\n')
    with pytest.raises(UsageError, match=r"settings.toml: setting nprocs is 'all'; expected int"):
        settings(config_file=file)


def test_a_run_keeps_its_settings_and_its_log(settings, bids_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, 'environ', dict(os.environ))
    monkeypatch.setenv('DDAE_MODEL', '/m.safetensors')
    monkeypatch.setattr(cli, '_run_level', lambda *arguments: 0)
    work = tmp_path / 'work'
    assert main([str(bids_dir), str(tmp_path / 'out'), 'group', '-w', str(work), '-v']) == 0
    (logs,) = (tmp_path / 'out' / 'logs').iterdir()
    assert _tree(logs) == ['command.txt', 'ddae-app.log', 'settings.toml']
    assert (logs / 'command.txt').read_text().startswith(f'ddae-app {bids_dir}')
    kept = from_flat(read_flat(logs / 'settings.toml'))
    assert (kept.bids_dir, kept.harmonize.model) == (bids_dir, Path('/m.safetensors'))
    assert f'command: ddae-app {bids_dir}' in (logs / 'ddae-app.log').read_text()
    assert 'finished in' in capsys.readouterr().err
    assert _tree(bids_dir) == ['dataset_description.json', 'sub-01']


def test_a_work_directory_in_the_output_folder_is_left_out_of_bids(
    settings, bids_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, 'environ', dict(os.environ))
    monkeypatch.setattr(cli, '_run_level', lambda *arguments: 0)
    out = tmp_path / 'out'
    assert main([str(bids_dir), str(out), 'group', '-w', str(tmp_path / 'work')]) == 0
    assert not (out / '.bidsignore').exists()
    assert main([str(bids_dir), str(out), 'group', '-w', str(out / 'work')]) == 0
    assert (out / '.bidsignore').read_text() == 'work\n'


@pytest.mark.parametrize(
    ('flags', 'then'), [((), ' to resume'), (('--features', 't.tsv'), ', which starts anew')]
)
def test_what_the_same_command_does_after_a_stop(
    bids_dir, tmp_path, capsys, monkeypatch, flags, then
):
    """Features are fitted, harmonized and evaluated in one go."""

    def stopped(*_: object) -> int:
        raise StopRequest(signal.SIGTERM)

    monkeypatch.setattr(cli, '_run_level', stopped)
    arguments = [str(bids_dir), str(tmp_path / 'out'), 'train', '-w', str(tmp_path / 'work')]
    assert main([*arguments, *flags]) == 143
    assert f'terminated; run the same command again{then}\n' in capsys.readouterr().err
