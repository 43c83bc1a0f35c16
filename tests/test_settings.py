from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest

from ddae_app.errors import UsageError
from ddae_app.settings import (
    EvaluateSettings,
    HarmonizeSettings,
    PreprocSettings,
    Protocol,
    RunSettings,
    SelectSettings,
    Settings,
    TableSettings,
    TrainSettings,
    absolute,
    check_value,
    flag_names,
    flag_types,
    from_flat,
    protocol_from,
    read_derivative,
    read_flat,
    to_toml,
)

MINIMAL = Settings(
    Path('/bids'), Path('/out'), 'participant', run=RunSettings(work_dir=Path('/work'))
)
FULL = Settings(
    bids_dir=Path('/data/böse "quotes"'),
    output_dir=Path('/out'),
    analysis_level='train',
    random_seed=7,
    select=SelectSettings(
        participant_label=('01', 'sub-02'),
        session_label=('a',),
        bids_filter_file=Path('/f.json'),
        bids_database_dir=Path('/db'),
        skip_bids_validation=True,
        derivatives=('ddae-app=/x',),
        site_column='Site "1"\n',
        source_site='Köln',
    ),
    preproc=PreprocSettings(
        skull_strip='none',
        brain_mask_filter=Path('/b.json'),
        hd_bet_weights=Path('/w'),
        hd_bet_sha256='ab',
        template='T',
        templateflow_home=Path('/tf'),
        slices='all',
        sloppy=True,
    ),
    harmonize=HarmonizeSettings(
        target_scans=Path('/reference'),
        target_site='IXI',
        model=Path('/m'),
        method='combat',
        unseen_site='agnostic',
        keep_noise=True,
        write_site_effect=True,
        stage='preproc',
        device='cuda:1',
    ),
    train=TrainSettings(
        preset='tiny',
        train_images=5,
        precision='bf16',
        max_hours=11.5,
        init_from=Path('/m'),
        allow_few_scans=True,
        allow_confounding=True,
        model_name='my-model',
    ),
    table=TableSettings(features=Path('/t.tsv'), age_spline=True),
    evaluate=EvaluateSettings(biology=('group', 'score'), inception_weights=Path('/i.pth')),
    run=RunSettings(
        work_dir=Path('/w'),
        clean_workdir=True,
        nprocs=3,
        omp_nthreads=2,
        mem_mb=4000,
        low_mem=True,
        use_plugin=Path('/p.yml'),
        dry_run=True,
        boilerplate_only=True,
        reports_only=True,
        write_graph=True,
        stop_on_first_crash=True,
        resource_monitor=True,
        notrack=True,
        verbose_count=2,
        container={'Type': 'docker', 'Tag': 'ddae-app:1'},
    ),
)


def _read(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / 'settings.toml'
    path.write_text(text, encoding='utf-8')
    given = {'bids_dir': '/bids', 'output_dir': '/out', 'analysis_level': 'participant'}
    return from_flat(given | read_flat(path))


@pytest.mark.parametrize('settings', [MINIMAL, FULL])
def test_settings_survive_being_written_and_read(tmp_path, settings):
    assert _read(tmp_path, to_toml(settings)) == settings


def test_the_full_example_sets_everything():
    """Else the test above would not see a setting that is lost."""
    for section in ('select', 'preproc', 'harmonize', 'train', 'evaluate', 'table', 'run'):
        full, usual = getattr(FULL, section), getattr(MINIMAL, section)
        same = [f.name for f in fields(full) if getattr(full, f.name) == getattr(usual, f.name)]
        assert not same


def test_no_two_settings_have_one_name():
    assert len(set(flag_names())) == len(flag_names())


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('[run]\nnprocs = "many"', "nprocs is 'many'; expected int"),
        ('[run]\nnprocs = 0', 'nprocs is 0: expected 1 or more'),
        ('[run]\nnprocs = true', 'nprocs is True'),
        ('[run]\nnprocs = 1.5', 'nprocs is 1.5'),
        ('[run]\nlow_mem = 1', 'low_mem is 1; expected bool'),
        ('[run]\nwork_dir = 3', 'work_dir is 3; expected a path'),
        (
            '[select]\nparticipant_label = "01"',
            "participant_label is '01'; expected a list of texts",
        ),
        ('[select]\nparticipant_label = [1]', 'participant_label is [1]'),
        (
            '[preproc]\nskull_strip = "bet"',
            "'bet': expected auto or hd-bet or deepbet or template or none",
        ),
        ('[harmonize]\ndevice = "tpu"', "'tpu': expected auto, cpu, cuda or cuda:N"),
        ('[train]\nmodel_name = "../x"', "'../x': expected letters, digits"),
        ('random_seed = -1', '-1: expected 0 or more'),
        ('random_seed = 9999999999', '9999999999: expected 0 to 2147483647'),
        ('analysis_level = "all"', "'all': expected participant or train or group"),
        ('[run]\nn_procs = 1', "'n_procs' is no setting"),
        ('select = 1', "'select' is no setting"),
        ('[run.more]\nnprocs = 1', "'more' is no setting"),
        ('nprocs = ', 'not readable as TOML'),
        ('nprocs = 1\nnprocs = 2', 'not readable as TOML'),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path, text, message):
    with pytest.raises(UsageError) as error:
        _read(tmp_path, text)
    assert message in str(error.value)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('kind', ['missing', 'folder', 'binary'])
def test_a_file_that_cannot_be_read(tmp_path, kind):
    path = {'missing': tmp_path / 'x', 'folder': tmp_path, 'binary': tmp_path / 'b'}[kind]
    if kind == 'binary':
        path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(UsageError, match='--config-file .*not readable as TOML'):
        read_flat(path)


def test_what_every_setting_is_by_default_is_allowed():
    for settings in (MINIMAL, FULL):
        sections = [settings, *(getattr(settings, f.name) for f in fields(settings)[4:])]
        for section in sections:
            for item in fields(section):
                value = getattr(section, item.name)
                if value is not None and item.name in flag_names():
                    check_value(item.name, value)


def test_a_protocol_survives_json():
    protocol = replace(Protocol(), grid=(97, 115, 97))
    assert protocol_from({'grid': [97, 115, 97], 'slice_shape': [128, 128]}) == protocol


PATHS = sorted(
    name
    for name, hint in flag_types().items()
    if Path in (hint, *get_args(hint)) and name != 'features'  # a word is no path
)


def _read_all(paths: dict[str, str]) -> dict[str, Path]:
    """The paths of settings, given as texts, as flags and environment variables give them."""
    settings = from_flat({'analysis_level': 'participant', **paths})
    sections = [settings, *(getattr(settings, f.name) for f in fields(settings)[4:])]
    found = {f.name: getattr(section, f.name) for section in sections for f in fields(section)}
    return {name: found[name] for name in paths}


@pytest.mark.parametrize(
    ('given', 'meant'),
    [
        ('x', 'HERE/x'),
        ('./x y/ä=b', 'HERE/x y/ä=b'),
        ('../x', 'ABOVE/x'),
        ('~/x', 'HOME/x'),
        ('./~/x', 'HERE/~/x'),
        ('link/x', 'HERE/link/x'),
        ('x/../y', 'HERE/y'),
        # The folder above the target of the link.
        ('link/../x', 'HERE/link/../x'),
        ('/x/./y', '/x/y'),
    ],
)
@pytest.mark.parametrize('way', ['flag', 'file'])
def test_every_path_is_absolute_and_keeps_its_links(tmp_path, monkeypatch, given, meant, way):
    here = tmp_path / 'here'
    (tmp_path / 'far' / 'away').mkdir(parents=True)
    here.mkdir()
    (here / 'link').symlink_to(tmp_path / 'far' / 'away')
    monkeypatch.chdir(here)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    for word, path in (('HERE', here), ('ABOVE', tmp_path), ('HOME', tmp_path / 'home')):
        meant = meant.replace(word, str(path))
    paths = dict.fromkeys(PATHS, given)
    if way == 'file':
        (tmp_path / 'elsewhere').mkdir()
        file = tmp_path / 'elsewhere' / 'settings.toml'
        lines = (
            f'{name} = {json.dumps(path, ensure_ascii=False)}' for name, path in paths.items()
        )
        file.write_text('\n'.join(lines), encoding='utf-8')
        paths = read_flat(file)
        monkeypatch.chdir('/')
    assert _read_all(paths) == dict.fromkeys(PATHS, Path(meant))


@pytest.mark.parametrize('given', ['./thickness', 'sub/thickness', 'aparc.tsv', '~/t1.csv'])
def test_features_is_a_path_or_a_word(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    plain = {'analysis_level': 'train', 'bids_dir': 'bids', 'output_dir': 'out'}
    table = from_flat({**plain, 'features': given}).table
    assert table.features == tmp_path / given.removeprefix('~/') and table.measure is None
    word = from_flat({**plain, 'features': 'thickness'}).table
    assert word.measure == 'thickness' == str(word.features)


@pytest.mark.parametrize(
    ('entry', 'meant'),
    [
        ('ddae-app=x', 'HERE/x'),
        ('x', 'HERE/x'),
        ('ddae-app=a=b', 'HERE/a=b'),
        ('./a=b', 'HERE/a=b'),
        ('/a=b', '/a=b'),
        ('ddae-app=/a b/ä', '/a b/ä'),
        ('ddae-app=~/x', 'HERE/home/x'),
        ('ddae-app=./ddae-app=x', 'HERE/ddae-app=x'),
    ],
)
def test_folders_of_derivatives_are_absolute(tmp_path, monkeypatch, entry, meant):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    (got,) = _read(tmp_path, f'[select]\nderivatives = ["{entry}"]').select.derivatives
    assert got == f'ddae-app={meant.replace("HERE", str(tmp_path))}'
    monkeypatch.chdir('/')
    assert read_derivative(got) == ('ddae-app', Path(got.partition('=')[2]))


@pytest.mark.parametrize('entry', ['raw=/x', '=/x', 'a:b=/x', 'ddae-app=', ''])
def test_an_entry_of_derivatives_that_means_nothing(tmp_path, entry):
    with pytest.raises(UsageError, match='--derivatives .*: expected NAME=PATH'):
        _read(tmp_path, f'[select]\nderivatives = ["{entry}"]')


@pytest.mark.parametrize('path', ['', 'a\0b', 'a\udcff'])
@pytest.mark.parametrize('name', PATHS)
def test_what_can_be_no_path_is_refused(name, path):
    given = {'bids_dir': '/bids', 'output_dir': '/out', 'analysis_level': 'participant'}
    with pytest.raises(UsageError, match=f'setting {name} is .*; expected a path') as error:
        from_flat(given | {name: path})
    assert '\n' not in str(error.value)


def test_a_loop_of_links_is_a_path_like_any_other(tmp_path):
    (tmp_path / 'loop').symlink_to('loop')
    assert absolute(f'{tmp_path}/loop/x', 'it') == tmp_path / 'loop' / 'x'


def test_features_are_a_path_or_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = _read(tmp_path, '[table]\nfeatures = "aparc.tsv"\n').table
    assert (table.features, table.surfer_stats) == (tmp_path / 'aparc.tsv', None)
    word = _read(tmp_path, '[table]\nfeatures = "aparc.DKTatlas"\n')
    assert word.table.surfer_stats == 'aparc.DKTatlas'
    assert _read(tmp_path, to_toml(word)).table == word.table
    assert TableSettings().surfer_stats is None
