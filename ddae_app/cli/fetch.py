"""``ddae-app-fetch``: the one command that uses the network."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ddae_app import __version__
from ddae_app.errors import DdaeError, TemplateError, WeightsError

TEMPLATE = 'MNI152NLin2009cAsym'


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``ddae-app-fetch``."""
    parser = argparse.ArgumentParser(
        prog='ddae-app-fetch',
        description='Download what ddae-app needs and cannot ship. ddae-app itself never uses '
        'the network.',
    )
    parser.add_argument(
        'what',
        choices=('templates', 'hd-bet'),
        help=f'templates: {TEMPLATE} into TEMPLATEFLOW_HOME; hd-bet: the weights of HD-BET into '
        'its own folder, ~/hd-bet_params',
    )
    parser.add_argument('--version', action='version', version=f'ddae-app {__version__}')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ddae-app-fetch``; returns its exit code."""
    what = build_parser().parse_args(argv).what
    try:
        for line in _fetch_templates() if what == 'templates' else _fetch_hd_bet():
            print(line)
    except DdaeError as error:
        print(f'ddae-app-fetch: error: {error}', file=sys.stderr)
        return error.exit_code
    return 0


def _fetch_templates() -> list[str]:
    os.environ['TEMPLATEFLOW_AUTOUPDATE'] = 'on'
    try:
        from templateflow import api

        found = [
            api.get(TEMPLATE, resolution=2, desc=None, suffix='T1w', raise_empty=True),
            api.get(TEMPLATE, resolution=2, desc='brain', suffix='mask', raise_empty=True),
        ]
    except Exception as e:  # requests, urllib3, S3 and TemplateFlow each raise their own
        raise TemplateError(
            f'{TEMPLATE} could not be fetched ({type(e).__name__}: {str(e).splitlines()[0]}); is '
            'there network access? Or copy the files by hand into '
            f'$TEMPLATEFLOW_HOME/tpl-{TEMPLATE}/'
        ) from e
    return [str(path) for path in found]


def _fetch_hd_bet() -> list[str]:
    try:
        from HD_BET.checkpoint_download import maybe_download_parameters
        from HD_BET.paths import folder_with_parameter_files

        maybe_download_parameters()
    except Exception as e:  # requests, zipfile and the file system each raise their own
        raise WeightsError(
            f'the weights of HD-BET could not be fetched ({type(e).__name__}: '
            f'{str(e).splitlines()[0]}); is there network access? Or unpack them by hand into a '
            'folder and name it with --hd-bet-weights'
        ) from e
    from ddae_app.imaging.brain import check_weights

    folder = Path(folder_with_parameter_files)
    return [str(folder), f'SHA-256 {check_weights(folder)}']
