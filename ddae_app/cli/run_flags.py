"""The flags of ddae-app that say how a run is carried out.

But for the random seed, they change no result.
"""

from __future__ import annotations

import argparse

from ddae_app.cli.flags import add_flag
from ddae_app.cli.values import memory_mb, number


def add_run(parser: argparse.ArgumentParser) -> None:
    """Folders, processes and memory of a run."""
    group = parser.add_argument_group('performance')
    add_flag(
        group,
        '-w',
        '--work-dir',
        metavar='PATH',
        help='folder of intermediate results, in a folder of its own for each dataset and output '
        'folder; a run with the same folder resumes an interrupted one (default: ./work)',
    )
    add_flag(
        group,
        '--clean-workdir',
        action='store_true',
        help='delete what earlier runs of this dataset with this output folder left in the work '
        'directory; no other such run may be using it',
    )
    add_flag(
        group,
        '--nprocs',
        '--nthreads',
        '--n-cpus',
        dest='nprocs',
        type=number('nprocs'),
        metavar='N',
        help='maximum number of processes that run in parallel (default: all CPUs)',
    )
    add_flag(
        group,
        '--omp-nthreads',
        type=number('omp_nthreads'),
        metavar='N',
        help='threads per process of the networks; ANTs and N4 always use one, for reproducible '
        'results (default: at the train level --nprocs, at the group level a quarter of it, '
        'else one less, at most 8)',
    )
    add_flag(
        group,
        '--mem-mb',
        '--mem',
        dest='mem_mb',
        type=memory_mb,
        metavar='MB',
        help='upper bound of the memory of all processes, in MB or with a suffix K, M, G or T',
    )
    add_flag(
        group,
        '--low-mem',
        action='store_true',
        help='harmonize one slice at a time, which is slower but needs less memory',
    )
    add_flag(
        group,
        '--use-plugin',
        '--nipype-plugin-file',
        dest='use_plugin',
        metavar='FILE',
        help='YAML file with a nipype plugin and its arguments',
    )


def add_behavior(parser: argparse.ArgumentParser) -> None:
    """What a run writes and logs."""
    group = parser.add_argument_group('other options')
    add_flag(
        group,
        '--config-file',
        metavar='FILE',
        help='settings of an earlier run, logs/<run id>/settings.toml; flags override its values',
    )
    add_flag(
        group,
        '--dry-run',
        action='store_true',
        help='list on standard output what would be done for each scan and why (for example new, '
        'changed, incomplete, done), without writing any output; not at the group level',
    )
    add_flag(group, '--boilerplate-only', action='store_true', help='write only the methods text')
    add_flag(
        group,
        '--reports-only',
        action='store_true',
        help='write only the HTML reports, from existing outputs',
    )
    add_flag(
        group,
        '--write-graph',
        action='store_true',
        help='write the graph of the workflow to the log folder of the run',
    )
    add_flag(
        group,
        '--stop-on-first-crash',
        action='store_true',
        help='stop when the first scan fails (default: process the other scans)',
    )
    add_flag(
        group,
        '--random-seed',
        type=number('random_seed'),
        metavar='N',
        help='seed of the random number generators in training and evaluation (default: 0)',
    )
    add_flag(
        group,
        '--resource-monitor',
        action='store_true',
        help='record the memory and CPU use of every step in the work directory',
    )
    add_flag(
        group,
        '--notrack',
        action='store_true',
        help='accepted for compatibility with other BIDS-Apps; ddae-app never sends data anywhere',
    )
    group.add_argument(
        '-v', '--verbose', dest='verbose_count', action='count', help='log debug messages as well'
    )
