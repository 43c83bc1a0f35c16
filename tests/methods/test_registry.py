"""The table of methods: what it names is there, and reading it costs nothing."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import fields
from importlib.resources import files

import pytest

from ddae_app.methods.modelfile import ModelInfo
from ddae_app.methods.registry import DEFAULT, METHODS, imported, refitted, trainable

REFERENCES = [
    (name, entry, getattr(method, entry))
    for name, method in METHODS.items()
    for entry in ('info', 'loader', 'trainer', 'check', 'refit')
    if getattr(method, entry)
]


@pytest.mark.parametrize(('name', 'entry', 'reference'), REFERENCES)
def test_what_a_row_names_can_be_imported(name, entry, reference):
    value = imported(reference)
    assert callable(value)
    if entry == 'info':
        assert issubclass(value, ModelInfo)
    if entry == 'refit':
        value()  # without options


def test_every_method_is_trained_or_refitted():
    assert set(trainable()) | set(refitted()) == set(METHODS)
    assert DEFAULT in trainable()
    assert all(METHODS[name].loader and METHODS[name].card for name in trainable())


@pytest.mark.parametrize('name', trainable())
def test_a_loader_takes_the_options_of_its_row(name):
    loader = imported(METHODS[name].loader)
    taken = {p.name for p in inspect.signature(loader).parameters.values()}
    if 'options' in taken:  # it hands them on to its class
        taken |= {field.name for field in fields(loader.__self__)}
    assert METHODS[name].options <= taken


@pytest.mark.parametrize('name', trainable())
def test_everything_that_a_description_cites_is_in_the_bibliography(name):
    text = METHODS[name].describe(keep_noise=False)
    cited = re.findall(r'@([\w-]+)', text)
    bibliography = (files('ddae_app') / 'data' / 'boilerplate.bib').read_text(encoding='utf-8')
    known = re.findall(r'^@\w+\{([^,]+),', bibliography, re.MULTILINE)
    assert cited and set(cited) <= set(known)


def test_denoising_is_described_unless_noise_is_kept():
    ddae = METHODS['ddae']
    assert 'denoised' in ddae.describe(keep_noise=False)
    assert 'denoised' not in ddae.describe(keep_noise=True)


def test_the_table_is_read_without_large_libraries():
    code = (
        'import sys, ddae_app.methods.registry;'
        'print(sorted({"torch", "nipype", "numpy", "pandas"} & set(sys.modules)))'
    )
    command = [sys.executable, '-c', code]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.strip() == '[]'
