"""The command line of ddae-app."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from ddae_app import __version__
from ddae_app.cli import flags
from ddae_app.cli.descriptor import PrintDescriptor
from ddae_app.settings import CHOICES

DESCRIPTION = """\
Takes T1-weighted images of a BIDS dataset to MNI152 space and re-renders them as if they had
been acquired at one target site, keeping anatomy, age and sex, with a Disentangled Diffusion
Autoencoder."""

EPILOG = """\
exit codes: 0 every T1w produced its outputs; 1 some failed (listed); 2 usage; 16 the input is
not valid BIDS; 18 the filters selected nothing; 130, 143 interrupted, terminated"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line: the usage of so many flags would hide what is wrong."""
        self.exit(2, f'{self.prog}: error: {message}; {self.prog} --help tells all flags\n')


def build_parser() -> argparse.ArgumentParser:
    """The parser; a flag that is not given stays out of the result, so that files can fill it."""
    parser = _Parser(
        prog='ddae-app',
        description=DESCRIPTION,
        epilog=EPILOG,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument('bids_dir', type=Path, help='root of a raw BIDS dataset')
    parser.add_argument('output_dir', type=Path, help='where the derivative dataset is written')
    parser.add_argument(
        'analysis_level',
        choices=CHOICES['analysis_level'],
        help='participant: preprocess and harmonize each T1w; train: fit a model on the whole '
        'dataset; group: judge whether the site is gone and the person still there, and gather '
        'the quality measures of all participants',
    )
    parser.add_argument('--version', action='version', version=f'ddae-app {__version__}')
    parser.add_argument(
        '--bids-exec-spec',
        action=PrintDescriptor,
        help='print this command line as a Boutiques descriptor, and leave',
    )
    flags.add_selection(parser)
    flags.add_preprocessing(parser)
    flags.add_harmonization(parser)
    flags.add_training(parser)
    flags.add_evaluation(parser)
    flags.add_run(parser)
    flags.add_behaviour(parser)
    return parser
