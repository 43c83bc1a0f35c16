"""Choosing a device."""

import pytest
import torch

from ddae_app.errors import UsageError
from ddae_app.methods.device import resolve_device


@pytest.fixture
def gpus(monkeypatch):
    def pretend(n):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: n > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: n)

    return pretend


def test_auto_takes_a_gpu_where_there_is_one(gpus):
    gpus(0)
    assert resolve_device('auto') == torch.device('cpu')
    gpus(1)
    assert resolve_device('auto') == torch.device('cuda')
    assert resolve_device('cpu') == torch.device('cpu')


@pytest.mark.parametrize(
    ('name', 'n'),
    [
        ('cuda', 0), ('cuda:0', 0), ('cuda:2', 2), ('cuda:128', 8), ('cuda:007', 2),
        ('cuda:99999999999999999999', 2),
    ],
)  # fmt: skip
def test_an_absent_gpu_is_refused_in_one_line(gpus, name, n):
    gpus(n)
    with pytest.raises(UsageError, match=f'--device {name}: PyTorch sees {n} CUDA') as caught:
        resolve_device(name)
    assert '\n' not in str(caught.value)


def test_a_present_gpu_is_taken(gpus):
    gpus(2)
    for name in ('cuda:1', 'cuda:01'):
        assert resolve_device(name) == torch.device('cuda:1')


@pytest.mark.parametrize('name', ['', 'gpu', 'cuda:', 'cuda:x', 'cpu:0', 'CUDA'])
def test_unknown_names_are_refused(name):
    with pytest.raises(UsageError, match='expected auto, cpu, cuda or cuda:N'):
        resolve_device(name)
