from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

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
    TrainSettings,
    check_value,
    flag_names,
    from_flat,
    protocol_from,
    read_flat,
    to_toml,
)

MINIMAL = Settings(Path('/bids'), Path('/out'), 'participant')
FULL = Settings(
    bids_dir=Path('/data/böse "quotes"'),
    output_dir=Path('/out'),
    analysis_level='train',
    random_seed=7,
    select=SelectSettings(
        participant_label=('01', 'sub-02'),
        session_label=('a',),
        bids_filter_file=Path('f.json'),
        bids_database_dir=Path('db'),
        skip_bids_validation=True,
        derivatives=('ddae-app=/x',),
        site_column='Site "1"\n',
        source_site='Köln',
    ),
    preproc=PreprocSettings(
        skull_strip='none',
        brain_mask_filter=Path('m.json'),
        hd_bet_weights=Path('w'),
        hd_bet_sha256='ab',
        template='T',
        templateflow_home=Path('tf'),
        slices='all',
        sloppy=True,
    ),
    harmonize=HarmonizeSettings(
        target_site='IXI',
        model=Path('m'),
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
        init_from=Path('m'),
        allow_few_scans=True,
        allow_confounding=True,
        model_name='my-model',
    ),
    evaluate=EvaluateSettings(biology=('group', 'score'), inception_weights=Path('i.pth')),
    run=RunSettings(
        work_dir=Path('w'),
        clean_workdir=True,
        nprocs=3,
        omp_nthreads=2,
        mem_mb=4000,
        low_mem=True,
        use_plugin=Path('p.yml'),
        dry_run=True,
        boilerplate_only=True,
        reports_only=True,
        write_graph=True,
        stop_on_first_crash=True,
        resource_monitor=True,
        notrack=True,
        verbose_count=2,
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
    for section in ('select', 'preproc', 'harmonize', 'train', 'evaluate', 'run'):
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
        ('[run]\nwork_dir = 3', 'work_dir is 3; expected Path'),
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
