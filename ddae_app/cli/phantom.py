"""``ddae-phantom OUT``: write a multi-site BIDS dataset of brain phantoms."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ddae_app import __version__
from ddae_app.errors import DdaeError


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``ddae-phantom``."""
    parser = argparse.ArgumentParser(
        prog='ddae-phantom',
        description='Write a BIDS dataset of simulated, skull-stripped T1w brains from several '
        'sites, to try ddae-app on or to measure it with: the truth is known.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add('out', metavar='OUT', type=Path, help='folder to make; may exist if it is empty')
    add('--sites', type=int, default=7, metavar='N', help='number of sites, 1 to 26')
    add('--subjects-per-site', type=int, default=4, metavar='N', help='people at each site')
    add('--sessions', type=int, default=0, metavar='N', help='sessions of everyone; 0: no ses-')
    add('--runs', type=int, default=0, metavar='N', help='runs of each session; 0: no run-')
    add('--seed', type=int, default=0, help='makes the people and the noise')
    add('--scanner-seed', type=int, default=0, help='makes the scanners and who is scanned there')
    add(
        '--travelling',
        action='store_true',
        help='also render every scan without noise at every other site, in derivatives/truth',
    )
    add(
        '--resolution',
        type=float,
        metavar='MM',
        help="cubic voxels of this size at every site instead of each scanner's own",
    )
    add('--version', '-v', action='version', version=f'ddae-phantom {__version__}')
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run ``ddae-phantom``; returns the exit code: 0 written, 2 wrong request."""
    args = build_parser().parse_args(argv)
    # Imported late, so that --help answers at once.
    from ddae_app.phantom.dataset import Design, write_dataset

    design = Design(
        n_sites=args.sites,
        subjects_per_site=args.subjects_per_site,
        seed=args.seed,
        scanner_seed=args.scanner_seed,
        sessions=args.sessions,
        runs=args.runs,
        travelling=args.travelling,
        voxel_mm=args.resolution,
    )
    try:
        scans = write_dataset(args.out, design)
    except DdaeError as error:
        print(f'ddae-phantom: error: {error}', file=sys.stderr)
        return error.exit_code
    truth = f', each at {args.sites - 1} more in derivatives/truth' if args.travelling else ''
    print(f'{args.out}: {len(scans)} T1w images from {args.sites} sites{truth}')
    return 0
