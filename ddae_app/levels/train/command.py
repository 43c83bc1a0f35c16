"""The command lines by which a run names another."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ddae_app.bids.layout import Layout
from ddae_app.settings import Settings


def train_command(settings: Settings) -> str:
    """The command that calibrates what a run of some participants needs, to be copied.

    It has the flags of the run that say which scans there are, how they are prepared, and from
    what a calibration starts: one that is made without them would be of no use to the run.
    """
    words = ['ddae-app', str(settings.bids_dir), str(settings.output_dir), 'train']
    return shlex.join(words + _of_scans(settings) + _flags(settings.train))


def next_command(settings: Settings, model: Path) -> str:
    """The command that harmonizes with a model that was made, to be copied.

    It names the model where there are others, and has the flags that say which scans there are
    and how they are prepared: without them, they would be prepared anew, and in another way.
    """
    words = ['ddae-app', str(settings.bids_dir), str(settings.output_dir)]
    words += ['participant', '--target-site', 'NAME']
    if Layout(settings.output_dir).models() != [model]:
        words += ['--model', str(model)]
    return shlex.join(words + _of_scans(settings))


def _of_scans(settings: Settings) -> list[str]:
    """The flags that say which scans there are, of everybody, and how they are prepared."""
    whole = replace(settings.select, participant_label=(), session_label=())
    # The environment names both where no flag does, also where nothing is there.
    weights = settings.preproc.hd_bet_weights
    preproc = replace(
        settings.preproc,
        templateflow_home=None,
        hd_bet_weights=weights if weights and weights.is_dir() else None,
    )
    return _flags(whole) + _flags(preproc)


def _flags(section: Any) -> list[str]:
    """The flags of the settings of a section that are not the usual ones."""
    words = []
    for item in fields(section):
        value = getattr(section, item.name)
        if value != item.default:
            words.append('--' + item.name.replace('_', '-'))
            several = value if isinstance(value, tuple) else (value,)
            words += [] if value is True else map(str, several)
    return words
