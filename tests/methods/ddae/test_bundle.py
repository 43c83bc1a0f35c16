"""The model file: what goes in comes out, and nothing bad gets in."""

import json
import os
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddae_app.errors import ModelError
from ddae_app.methods.ddae.bundle import load_bundle, save_bundle
from ddae_app.methods.ddae.editing import edit_to_site
from ddae_app.methods.modelfile import FORMAT_VERSION, read_model_info
from ddae_app.settings import Protocol

from ..toy import condition, info, random_model

UNKNOWN = condition((float('nan'),) * 2, (-1, -1), (-1, -1))


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / 'toy.safetensors'
    save_bundle(path, random_model(), info())
    return path


def rewrite(path, change_header=None, change_weights=None):
    """The same file with another header or other weights."""
    size = struct.unpack('<Q', path.read_bytes()[:8])[0]
    header = json.loads(json.loads(path.read_bytes()[8 : 8 + size])['__metadata__']['ddae'])
    weights = load_file(path)
    if change_header:
        change_header(header)
    if change_weights:
        change_weights(weights)
    save_file(weights, path, {'ddae': json.dumps(header)})


def test_round_trip(bundle):
    model, loaded = random_model(), load_bundle(bundle)
    assert loaded.info == info() == read_model_info(bundle)
    assert loaded.path == bundle
    assert len(loaded.sha256) == 64
    weights = model.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in loaded.model.state_dict().items())
    out = edit_to_site(model, torch.full((2, 1, 16, 16), 0.5), condition(), UNKNOWN, 3)
    again = edit_to_site(loaded.model, torch.full_like(out, 0.5), condition(), UNKNOWN, 3)
    # Another memory layout, so another rounding.
    torch.testing.assert_close(again, out, atol=1e-4, rtol=0)
    assert not loaded.model.training


def test_same_content_same_bytes(bundle, tmp_path):
    other = tmp_path / 'elsewhere' / 'other.safetensors'
    save_bundle(other, random_model(), info())
    assert other.read_bytes() == bundle.read_bytes()
    turned = dict(reversed(info().versions.items()))
    save_bundle(other, random_model(), info(versions=turned))
    assert other.read_bytes() == bundle.read_bytes()
    loaded = load_bundle(bundle)
    save_bundle(other, loaded.model, loaded.info)
    assert other.read_bytes() == bundle.read_bytes()


def test_written_whole_or_not_at_all(bundle, monkeypatch):
    before = bundle.read_bytes()

    def fail(*_):
        raise OSError('disk full')

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='disk full'):
        save_bundle(bundle, random_model(), info(name='other'))
    assert bundle.read_bytes() == before
    assert list(bundle.parent.iterdir()) == [bundle]


def test_info_is_read_without_torch(bundle):
    code = (
        'import sys; from ddae_app.methods.modelfile import read_model_info;'
        'print(read_model_info(sys.argv[1]).sites, "torch" in sys.modules)'
    )
    command = [sys.executable, '-c', code, str(bundle)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.strip() == "('A', 'B') False"


def test_loading_imports_no_compiler():
    """PyTorch's takes a second and a half, and is imported for some tensors without values."""
    code = (
        'import sys; from ddae_app.methods.ddae.bundle import load_bundle; '
        'from ddae_app.methods.find import packaged_model; '
        'load_bundle(packaged_model("medial").path); print("torch._dynamo" in sys.modules)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == 'False\n'


def test_missing_file(tmp_path):
    for read in (load_bundle, read_model_info):
        with pytest.raises(ModelError, match='no such model file; check'):
            read(tmp_path / 'none.safetensors')


@pytest.mark.parametrize('content', [b'', b'not a model', b'\xff' * 64, b'{}' * 500])
def test_not_safetensors(tmp_path, content):
    path = tmp_path / 'bad'
    path.write_bytes(content)
    with pytest.raises(ModelError, match='not a safetensors file, or truncated'):
        load_bundle(path)


@pytest.mark.parametrize('keep', [4, 100, -1000, -1])
def test_truncated(bundle, keep):
    bundle.write_bytes(bundle.read_bytes()[:keep])
    for read in (load_bundle, read_model_info):
        with pytest.raises(ModelError, match='truncated'):
            read(bundle)


def test_another_programs_safetensors(tmp_path):
    path = tmp_path / 'other.safetensors'
    save_file({'w': torch.zeros(3)}, path, {'format': 'pt'})
    with pytest.raises(ModelError, match='not a ddae-app model'):
        load_bundle(path)


@pytest.mark.parametrize(
    'version', [FORMAT_VERSION - 1, FORMAT_VERSION + 1, str(FORMAT_VERSION), None]
)
def test_other_format_version(bundle, version):
    rewrite(bundle, lambda h: h.update(format_version=version))
    message = f'format version {version}, but this ddae-app reads {FORMAT_VERSION}'
    with pytest.raises(ModelError, match=message):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('name', 3),
        ('sites', 'AB'),
        ('sites', ['A', 'A']),
        ('sites', ['A']),
        ('sites', [f's{i}' for i in range(1001)]),
        ('sites', ['A', 'B\nC']),
        ('sites', ['A', '']),
        ('sites', ['A', '\x1b[2J']),
        ('sites', ['A', 'B' * 201]),
        ('name', 'two\tcells'),
        ('age_sd', 0),
        ('age_mean', None),
        ('age_mean', True),
        ('phantom', 'yes'),
        ('evidence', ['A', 'C']),
        ('evidence', ['A', 'A']),
        ('config', {}),
        ('protocol', {'template': 'x'}),
        ('versions', {'torch': 2}),
        ('quantiles', {'levels': [0.5], 'low': [], 'median': [], 'high': []}),
        ('extra', 1),
        ('method', 'magic'),
        ('method', 'cvae'),
        ('method', 'histogram'),
        ('method', []),
    ],
)
def test_wrong_metadata(bundle, key, value):
    rewrite(bundle, lambda h: h['info'].update({key: value}))
    for read in (load_bundle, read_model_info):
        with pytest.raises(ModelError) as caught:
            read(bundle)
        assert str(bundle) in str(caught.value)
        assert '\n' not in str(caught.value)


def test_metadata_of_the_wrong_type_are_named(bundle):
    rewrite(bundle, lambda h: h['info'].update(age_mean='old'))
    with pytest.raises(ModelError, match=r'cannot be read \(ValidationError.*age_mean'):
        read_model_info(bundle)


@pytest.mark.parametrize(
    'header', ['[', '[]', '{}', 'NaN', '{"format_version": 2, "info": 3}', '[' * 100_000]
)
def test_unreadable_metadata(bundle, header):
    save_file(load_file(bundle), bundle, {'ddae': header})
    with pytest.raises(ModelError):
        load_bundle(bundle)


@pytest.mark.parametrize(
    'change',
    [
        {'channels': 10**9},
        {'channels': 1024, 'multipliers': [16] * 3, 'blocks': 8, 'attention': []},
        {'z_u_dim': 16},
        {'prediction': 'magic'},
        {'image_size': 17},
        {'image_size': 32, 'attention': []},
        {'dropout': float('nan')},
    ],
)
def test_hostile_or_other_configuration(bundle, change):
    rewrite(bundle, lambda h: h['info']['config'].update(change))
    with pytest.raises(ModelError):
        load_bundle(bundle)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'grid': [10**6] * 3}, '1 to 512 voxels an axis'),
        ({'grid': [0, 130, 130]}, '1 to 512 voxels an axis'),
        ({'grid': [8, 8, 130]}, r'slices of \(16, 16\) on a grid of \(8, 8, 130\)'),
        ({'slices': '../all'}, "slices that are '../all'"),
        ({'intensity_percentile': -5}, 'percentile of -5'),
    ],
)
def test_hostile_protocol(bundle, change, said):
    rewrite(bundle, lambda h: h['info']['protocol'].update(change))
    for read in (load_bundle, read_model_info):
        with pytest.raises(ModelError, match=said):
            read(bundle)


def test_huge_metadata(bundle):
    save_file(load_file(bundle), bundle, {'ddae': '"' + 'x' * 5_000_000 + '"'})
    with pytest.raises(ModelError, match='at most 4000000'):
        read_model_info(bundle)


def test_missing_and_misshapen_weights(bundle):
    rewrite(bundle, change_weights=lambda w: w.pop('networks.unet.head.bias'))
    with pytest.raises(ModelError, match="'networks.unet.head.bias' has shape None"):
        load_bundle(bundle)
    rewrite(bundle, change_weights=lambda w: w.update({'networks.unet.head.bias': torch.zeros(7)}))
    with pytest.raises(ModelError, match=r'has shape \(7,\), but .* needs \(4,\)'):
        load_bundle(bundle)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite(bundle, value):
    rewrite(bundle, change_weights=lambda w: w['networks.unet.head.bias'].fill_(value))
    with pytest.raises(ModelError, match="'networks.unet.head.bias' is not finite"):
        load_bundle(bundle)


def test_weights_of_another_type(bundle):
    rewrite(bundle, change_weights=lambda w: w.update({k: v.double() for k, v in w.items()}))
    with pytest.raises(ModelError, match='float32'):
        load_bundle(bundle)


def test_information_that_contradicts_itself_cannot_be_made():
    with pytest.raises(ModelError, match='slices of'):
        info(protocol=Protocol(slice_shape=(128, 128)))
