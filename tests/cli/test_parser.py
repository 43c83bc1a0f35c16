from __future__ import annotations

import pytest

from ddae_app.cli import phantom
from ddae_app.cli.parser import build_parser
from ddae_app.settings import flag_names, from_flat

PLACES = ['in', 'out', 'participant']
# A value for each flag: what is typed, and what it becomes.
FLAGS = {
    '--participant-label': (['sub-01', '02'], ['sub-01', '02']),
    '--session-label': (['a'], ['a']),
    '--bids-filter-file': (['f.json'], 'f.json'),
    '--bids-database-dir': (['db'], 'db'),
    '--skip-bids-validation': ([], True),
    '--derivatives': (['ddae-app=/x'], ['ddae-app=/x']),
    '--site-column': (['vendor'], 'vendor'),
    '--source-site': (['A'], 'A'),
    '--skull-strip': (['none'], 'none'),
    '--hd-bet-weights': (['w'], 'w'),
    '--hd-bet-sha256': (['ab'], 'ab'),
    '--brain-mask-filter': (['m.json'], 'm.json'),
    '--template': (['T'], 'T'),
    '--slices': (['all'], 'all'),
    '--sloppy': ([], True),
    '--target-site': (['IXI'], 'IXI'),
    '--target-scans': (['/reference'], '/reference'),
    '--model': (['m'], 'm'),
    '--method': (['combat'], 'combat'),
    '--unseen-site': (['agnostic'], 'agnostic'),
    '--keep-noise': ([], True),
    '--write-site-effect': ([], True),
    '--stage': (['preproc'], 'preproc'),
    '--device': (['cuda:1'], 'cuda:1'),
    '--preset': (['tiny'], 'tiny'),
    '--train-images': (['5'], 5),
    '--precision': (['bf16'], 'bf16'),
    '--max-hours': (['11.5'], 11.5),
    '--init-from': (['m'], 'm'),
    '--allow-few-scans': ([], True),
    '--allow-confounding': ([], True),
    '--model-name': (['my.model-2'], 'my.model-2'),
    '--features': (['aparc.tsv'], 'aparc.tsv'),
    '--age-spline': ([], True),
    '--biology': (['group', 'score'], ['group', 'score']),
    '--inception-weights': (['i.pth'], 'i.pth'),
    '--work-dir': (['w'], 'w'),
    '--clean-workdir': ([], True),
    '--nprocs': (['3'], 3),
    '--nthreads': (['3'], 3),
    '--n-cpus': (['3'], 3),
    '--omp-nthreads': (['2'], 2),
    '--mem-mb': (['16G'], 16000),
    '--mem': (['500'], 500),
    '--low-mem': ([], True),
    '--use-plugin': (['p.yml'], 'p.yml'),
    '--nipype-plugin-file': (['p.yml'], 'p.yml'),
    '--config-file': (['s.toml'], 's.toml'),
    '--dry-run': ([], True),
    '--boilerplate-only': ([], True),
    '--reports-only': ([], True),
    '--write-graph': ([], True),
    '--stop-on-first-crash': ([], True),
    '--random-seed': (['7'], 7),
    '--resource-monitor': ([], True),
    '--notrack': ([], True),
    '--verbose': ([], 1),
}
OTHER_NAMES = {
    'nthreads': 'nprocs', 'n_cpus': 'nprocs', 'mem': 'mem_mb', 'nipype_plugin_file': 'use_plugin',
    'verbose': 'verbose_count',
}  # fmt: skip


def _parse(*flags: str) -> dict:
    return vars(build_parser().parse_args([*PLACES, *flags]))


def _name(flag: str) -> str:
    name = flag[2:].replace('-', '_')
    return OTHER_NAMES.get(name, name)


@pytest.mark.parametrize('spelling', ['hyphens', 'underscores', 'equals'])
@pytest.mark.parametrize('flag', FLAGS)
def test_every_flag_in_every_spelling(flag, spelling):
    typed, value = FLAGS[flag]
    written = '--' + flag[2:].replace('-', '_') if spelling == 'underscores' else flag
    if spelling == 'equals' and len(typed) == 1:
        parsed = _parse(f'{written}={typed[0]}')
    else:
        parsed = _parse(written, *typed)
    got = parsed[_name(flag)]
    assert (got if isinstance(value, list | int | float) else str(got)) == value


def test_the_list_above_is_complete():
    known = {name for name in build_parser()._option_string_actions if name.startswith('--')}
    hyphened = {'--' + name[2:].replace('_', '-') for name in known}
    assert hyphened == {*FLAGS, '--help', '--version', '--bids-exec-spec'}


def test_every_setting_has_a_flag_and_every_flag_a_setting():
    places = {'bids_dir', 'output_dir', 'analysis_level', 'templateflow_home', 'container'}
    assert {_name(flag) for flag in FLAGS} - {'config_file'} == set(flag_names()) - places


@pytest.mark.parametrize(('short', 'name'), [('-w', 'work_dir'), ('-d', 'derivatives')])
def test_short_flags(short, name):
    assert name in _parse(short, 'x')


@pytest.mark.parametrize('flag', [flag for flag, (typed, _) in FLAGS.items() if len(typed) > 1])
def test_a_list_can_be_given_in_parts(flag):
    """The last part does not replace the others in silence."""
    typed, value = FLAGS[flag]
    assert _parse(*(word for part in typed for word in (flag, part)))[_name(flag)] == value


@pytest.mark.parametrize(('flags', 'count'), [(['-v'], 1), (['-vv'], 2), (['-v', '--verbose'], 2)])
def test_verbosity_adds_up(flags, count):
    assert _parse(*flags)['verbose_count'] == count


def test_a_flag_that_is_not_given_stays_out():
    assert set(_parse()) == {'bids_dir', 'output_dir', 'analysis_level'}
    assert from_flat(_parse()).harmonize.unseen_site == 'auto'


@pytest.mark.parametrize(
    ('text', 'mb'),
    [('16000', 16000), ('16000M', 16000), ('16G', 16000), ('16gb', 16000), ('2T', 2000000),
     ('64000K', 64), ('1K', 1)],
)  # fmt: skip
def test_sizes_of_memory(text, mb):
    assert _parse('--mem', text)['mem_mb'] == mb


@pytest.mark.parametrize('device', ['auto', 'cpu', 'cuda', 'cuda:0', 'cuda:12'])
def test_devices(device):
    assert _parse('--device', device)['device'] == device


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--mem', '0'], '0: expected a size such as 16000 or 16G'),
        (['--mem', '16X'], 'expected a size'),
        (['--mem', '1.5G'], 'expected a size'),
        (['--mem', '-1'], '-1: expected a size'),
        (['--nprocs', '0'], '0: expected 1 or more'),
        (['--max-hours', 'nan'], 'nan: expected 0 or more'),
        (['--max-hours', 'x'], "'x': expected a number of hours"),
        (['--nprocs', 'all'], "'all': expected a whole number"),
        (['--omp-nthreads', '-2'], '--omp-nthreads'),
        (['--random-seed', '2147483648'], 'expected 0 to 2147483647'),
        (['--device', 'gpu'], "'gpu': expected auto, cpu, cuda or cuda:N"),
        (['--device', 'cuda:'], 'expected auto'),
        (['--model-name', '../x'], 'expected letters, digits'),
        (['--model-name', ''], 'expected letters, digits'),
        (['--skull-strip', 'bet'], "'auto', 'hd-bet', 'deepbet', 'template', 'none'"),
        (['--method', 'nothing'], "invalid choice: 'nothing'"),
        (['--participant'], 'unrecognized arguments: --participant'),
        (['--target'], 'unrecognized arguments: --target'),
        (['extra'], 'unrecognized arguments: extra'),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_told_in_one_line(capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        _parse(*flags)
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert message in said.err and said.err.startswith('ddae-app: error: ')
    assert said.err.count('\n') == 1 and said.out == ''


@pytest.mark.parametrize('arguments', [[], ['in'], ['in', 'out'], ['in', 'out', 'subject']])
def test_wrong_places(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args(arguments)
    assert stop.value.code == 2
    assert 'analysis_level' in capsys.readouterr().err


def test_the_help_shows_hyphens_only(capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args(['--help'])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(flag in text for flag in FLAGS)
    assert text.count('_label') == 1, 'they are not all said twice'
    assert '16 the input is' in ' '.join(text.split())


def test_the_help_of_ddae_phantom_tells_the_defaults_of_numbers_alone():
    text = ' '.join(phantom.build_parser().format_help().split())
    assert '1 to 26 (default: 7)' in text and 'noise (default: 0)' in text
    assert 'default: None' not in text and 'default: False' not in text
