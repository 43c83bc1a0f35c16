"""The argument parser of ddae-app."""

from __future__ import annotations

import argparse
from typing import NoReturn

from ddae_app import __version__
from ddae_app.cli import flags, run_flags
from ddae_app.cli.descriptor import EXIT_CODES, PrintDescriptor
from ddae_app.settings import CHOICES

DESCRIPTION = """\
Harmonizes the T1-weighted images of a BIDS dataset with a Disentangled Diffusion Autoencoder:
registers them to MNI152 space and renders them as if they had been acquired at one target site,
with their anatomy preserved."""

EPILOG = (
    'Every flag also works with underscores, for example --participant_label. Exit codes: '
    + '; '.join(f'{code} {text}' for code, text in EXIT_CODES.items())
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line, because the usage of so many flags would hide the message."""
        self.exit(2, f'{self.prog}: error: {message}; see {self.prog} --help for all flags\n')


def build_parser() -> argparse.ArgumentParser:
    """The parser of ddae-app.

    Flags that are not given are absent from the result, so that a settings file can set them.
    """
    parser = _Parser(
        prog='ddae-app',
        description=DESCRIPTION,
        epilog=EPILOG,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument('bids_dir', help='root folder of the input BIDS dataset')
    parser.add_argument('output_dir', help='folder of the output, a BIDS derivative dataset')
    parser.add_argument(
        'analysis_level',
        choices=CHOICES['analysis_level'],
        help='analysis level to run. participant: preprocess and harmonize each T1w image; '
        'train: fit a model to the whole dataset; group: evaluate how well the site is removed '
        'and biological variation preserved, and collect the quality measures of all '
        'participants',
    )
    parser.add_argument('--version', action='version', version=f'ddae-app {__version__}')
    parser.add_argument(
        '--bids-exec-spec',
        action=PrintDescriptor,
        help='print a Boutiques descriptor of this command line and exit',
    )
    flags.add_selection(parser)
    flags.add_preprocessing(parser)
    flags.add_harmonization(parser)
    flags.add_training(parser)
    flags.add_features(parser)
    flags.add_evaluation(parser)
    run_flags.add_run(parser)
    run_flags.add_behavior(parser)
    return parser
