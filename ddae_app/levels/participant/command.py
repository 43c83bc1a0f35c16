"""The command line by which a run names another."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace

from ddae_app.settings import Settings


def train_command(settings: Settings) -> str:
    """The command that calibrates what a run of some participants needs, to be copied.

    It has the flags of the run that say which scans there are, how they are prepared, and from
    what a calibration starts: one that is made without them would be of no use to the run.
    """
    whole = replace(settings.select, participant_label=(), session_label=())
    # The environment names both where no flag does, also where nothing is there.
    weights = settings.preproc.hd_bet_weights
    preproc = replace(
        settings.preproc,
        templateflow_home=None,
        hd_bet_weights=weights if weights and weights.is_dir() else None,
    )
    words = ['ddae-app', str(settings.bids_dir), str(settings.output_dir), 'train']
    for section in (whole, preproc, settings.train):
        for item in fields(section):
            value = getattr(section, item.name)
            if value != item.default:
                words.append('--' + item.name.replace('_', '-'))
                several = value if isinstance(value, tuple) else (value,)
                words += [] if value is True else map(str, several)
    return shlex.join(words)
