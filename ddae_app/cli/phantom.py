"""``ddae-phantom OUT``: write a multi-site BIDS dataset of brain phantoms."""

from __future__ import annotations

import argparse
import sys

from ddae_app import __version__
from ddae_app.cli.runtime import stop_signals
from ddae_app.errors import DdaeError, UsageError
from ddae_app.processes import StopRequest
from ddae_app.settings import absolute


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that tells the defaults of numbers; what is off or not given needs no such words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``ddae-phantom``."""
    parser = argparse.ArgumentParser(
        prog='ddae-phantom',
        description='Write a BIDS dataset of simulated T1w scans of brains or whole heads from '
        'several sites, for tests and measurements of ddae-app with known truth.',
        formatter_class=_Defaults,
    )
    add = parser.add_argument
    add('out', metavar='OUT', help='folder to create; it may exist if it is empty')
    add('--sites', type=int, default=7, metavar='N', help='number of sites, 1 to 26')
    add(
        '--subjects-per-site',
        type=int,
        default=4,
        metavar='N',
        help='number of subjects at each site',
    )
    add(
        '--sessions',
        type=int,
        default=0,
        metavar='N',
        help='number of sessions of each subject; 0: no ses-',
    )
    add(
        '--runs',
        type=int,
        default=0,
        metavar='N',
        help='number of runs of each session; 0: no run-',
    )
    add('--seed', type=int, default=0, help='seed of the subjects and the noise')
    add(
        '--scanner-seed',
        type=int,
        default=0,
        help='seed of the scanners and of the populations of the sites',
    )
    add(
        '--traveling',
        '--travelling',
        dest='traveling',
        action='store_true',
        help='also write every scan as every other site would show it without noise, to '
        'derivatives/truth',
    )
    add(
        '--resolution',
        type=float,
        metavar='MM',
        help='size of cubic voxels at every site, instead of the voxel size of each scanner',
    )
    add(
        '--whole-head',
        action='store_true',
        help='show skull, face and neck, too, and write the masks of the brains to '
        'derivatives/truth; without it, scans are skull-stripped',
    )
    add(
        '--atrophy',
        type=float,
        metavar='PERCENT',
        help='gray matter that is lost from one session to the next, in percent of its volume at '
        'the first session; the volumes are written to derivatives/truth, and site and age to '
        'sub-<label>_sessions.tsv',
    )
    add(
        '--change-scanner',
        action='store_true',
        help='scan each session at the next site, which sub-<label>_sessions.tsv names',
    )
    add('--version', '-v', action='version', version=f'ddae-phantom {__version__}')
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run ``ddae-phantom`` and return its exit code: 0 for success, 2 for a usage error."""
    args = build_parser().parse_args(argv)
    # Imported here so that --help does not wait for it.
    from ddae_app.phantom.dataset import Design, write_dataset

    design = Design(
        n_sites=args.sites,
        subjects_per_site=args.subjects_per_site,
        seed=args.seed,
        scanner_seed=args.scanner_seed,
        sessions=args.sessions,
        runs=args.runs,
        traveling=args.traveling,
        voxel_mm=args.resolution,
        whole_head=args.whole_head,
        atrophy=args.atrophy,
        change_scanner=args.change_scanner,
    )
    try:
        with stop_signals():
            scans = write_dataset(absolute(args.out, 'OUT'), design)
    except (DdaeError, StopRequest) as error:
        print(f'ddae-phantom: error: {error}', file=sys.stderr)
        return error.exit_code
    except OSError as error:
        problem = f'{error.filename or args.out} cannot be written ({error.strerror})'
        print(
            f'ddae-phantom: error: {problem}; name another folder, or make room there',
            file=sys.stderr,
        )
        return UsageError.exit_code
    truth = f', each at {args.sites - 1} more in derivatives/truth' if args.traveling else ''
    print(f'{args.out}: {len(scans)} T1w images from {args.sites} sites{truth}')
    return 0
