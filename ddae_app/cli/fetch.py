"""``ddae-app-fetch``: the only command that uses the network."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

from ddae_app import __version__
from ddae_app.cli.runtime import stop_signals
from ddae_app.errors import DdaeError, TemplateError, UsageError, WeightsError
from ddae_app.files import staged
from ddae_app.processes import StopRequest
from ddae_app.settings import absolute

TEMPLATE = 'MNI152NLin2009cAsym'

OF_TEMPLATEFLOW: dict[str, tuple[str, tuple[dict[str, object], ...]]] = {
    'templates': (
        TEMPLATE,
        (
            {'resolution': 2, 'desc': None, 'suffix': 'T1w'},
            {'resolution': 2, 'desc': 'brain', 'suffix': 'mask'},
        ),
    ),
    'spheres': (
        'fsLR',
        tuple(
            {'space': 'fsaverage', 'density': density, 'hemi': hemi, 'suffix': 'sphere'}
            for density in ('32k', '59k', '164k')
            for hemi in 'LR'
        ),
    ),
}
"""What is downloaded from TemplateFlow: of which template, and by which queries a file each."""


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``ddae-app-fetch``."""
    parser = argparse.ArgumentParser(
        prog='ddae-app-fetch',
        description='Download files that ddae-app needs and that are not packaged with it. '
        'ddae-app itself never uses the network.',
    )
    parser.add_argument(
        'what',
        choices=(*OF_TEMPLATEFLOW, 'hd-bet'),
        help=f'files to download. templates: {TEMPLATE} to TEMPLATEFLOW_HOME (default: '
        '~/.cache/templateflow); spheres: where the vertices of fsLR lie, for --features with '
        '--method ddae, to the same folder; hd-bet: the weights of HD-BET to HDBET_WEIGHTS '
        '(default: ~/hd-bet_params/release_2.0.0)',
    )
    parser.add_argument('--version', action='version', version=f'ddae-app {__version__}')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``ddae-app-fetch`` and return its exit code."""
    what = build_parser().parse_args(argv).what
    fetch = _fetch_hd_bet if what == 'hd-bet' else partial(_fetch_templates, what)
    try:
        with stop_signals(), tempfile.TemporaryDirectory() as folder:
            lines = fetch(Path(folder))
    except (DdaeError, StopRequest) as error:
        print(f'ddae-app-fetch: error: {error}', file=sys.stderr)
        return error.exit_code
    print('\n'.join(lines))
    return 0


def _fetch_templates(what: str, folder: Path) -> list[str]:
    """Download to `folder`, then copy, so that a broken download does not look like a template."""
    template, queries = OF_TEMPLATEFLOW[what]
    default = _home() / '.cache' / 'templateflow'
    home = absolute(os.environ.get('TEMPLATEFLOW_HOME') or default, 'TEMPLATEFLOW_HOME')
    os.environ |= {'TEMPLATEFLOW_HOME': str(folder), 'TEMPLATEFLOW_AUTOUPDATE': 'on'}
    try:
        with _silence():
            from templateflow import api

            downloads = [api.get(template, **query, raise_empty=True) for query in queries]
    except Exception as e:  # requests, urllib3, S3 and TemplateFlow raise different errors
        raise TemplateError(
            f'{template} could not be downloaded ({_reason(e)}); check the network access, or '
            f'copy the files by hand to {home / f"tpl-{template}"}'
        ) from e
    return [_copy(Path(path), home / Path(path).relative_to(folder)) for path in downloads]


def _fetch_hd_bet(folder: Path) -> list[str]:
    """Download to `folder`, copy, and last record the digest, which marks them as trusted."""
    default = _home() / 'hd-bet_params' / 'release_2.0.0'
    target = absolute(os.environ.get('HDBET_WEIGHTS') or default, 'HDBET_WEIGHTS')
    os.environ['HOME'] = str(folder)
    try:
        with _silence():
            from HD_BET.checkpoint_download import maybe_download_parameters
            from HD_BET.paths import folder_with_parameter_files

            maybe_download_parameters()
    except Exception as e:  # requests, zipfile and the file system raise different errors
        raise WeightsError(
            f'the weights of HD-BET could not be downloaded ({_reason(e)}); check the network '
            'access, or unpack them by hand to a folder and name it with --hd-bet-weights'
        ) from e
    from ddae_app.imaging.weights import WEIGHTS_FILES, record_weights, weights_sha256

    fetched = Path(folder_with_parameter_files)
    sha256 = weights_sha256(fetched)
    lines = [_copy(fetched / name, target / name) for name in WEIGHTS_FILES]
    record_weights(target, sha256)
    return [*lines, f'SHA-256 {sha256}']


def _home() -> Path:
    """Where ddae-app looks as well; a user of a container may have none."""
    return Path(os.environ.get('HOME') or '/')


def _copy(source: Path, target: Path) -> str:
    try:
        with staged(target) as temporary:
            shutil.copyfile(source, temporary)
    except OSError as e:
        raise UsageError(
            f'{target} cannot be written ({e.strerror}); make room for it, or name another folder '
            'in TEMPLATEFLOW_HOME or HDBET_WEIGHTS'
        ) from e
    return str(target)


def _reason(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the output of libraries; this command prints what was downloaded, or why not."""
    with (
        open(os.devnull, 'w') as nowhere,  # noqa: PTH123
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield
