"""A lack of memory is reported in one line, whichever library finds it."""

from __future__ import annotations

import ctypes
import traceback

import ants
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from ddae_app.errors import lack_of_memory

HUGE = 10**15


def shell_of_python():
    return bytearray(HUGE)


def shell_of_numpy():
    return np.empty(HUGE)


def shell_of_torch():
    return torch.empty(HUGE)


def shell_of_itk():
    return sitk.Image([100_000] * 3, sitk.sitkFloat64)


def shell_of_ants():
    return ants.make_image((100_000,) * 3)


@pytest.mark.parametrize(
    'ask', [shell_of_python, shell_of_numpy, shell_of_torch, shell_of_itk, shell_of_ants]
)
def test_libraries_that_are_refused_memory(ask):
    with pytest.raises(Exception) as found:  # noqa: PT011 - each has a class of its own
        ask()
    error = found.value
    for said in (
        f'{type(error).__name__}: {error}',
        ''.join(traceback.format_exception(error)),
    ):
        assert lack_of_memory(said) == (
            'there is too little memory; run the same command again with more memory, a lower '
            '--nprocs, or --low-mem'
        )


@pytest.mark.parametrize(
    'said',
    [
        'OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total',
        'AcceleratorError: CUDA error: out of memory\nCUDA kernel errors might be',
        'RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`',
    ],
)
def test_gpus_that_are_full(said):
    assert 'the GPU has too little memory left' in lack_of_memory(said)


def test_a_library_that_finds_no_room():
    with pytest.raises(OSError) as found:
        ctypes.CDLL('no-such-library.so')
    assert lack_of_memory(f'OSError: {found.value}') is None
    said = 'ImportError: libgomp.so.1: failed to map segment from shared object'
    assert 'there is too little memory' in lack_of_memory(said)


@pytest.mark.parametrize('said', ['', 'ValueError: memory', 'RuntimeError: CUDA error: no kernel'])
def test_other_errors_are_none_of_it(said):
    assert lack_of_memory(said) is None
