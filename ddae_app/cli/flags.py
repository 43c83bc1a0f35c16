"""The flags of ddae-app, group by group."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddae_app.cli.values import checked, hours, memory_mb, number
from ddae_app.settings import CHOICES, choices


def _flag(group: argparse._ArgumentGroup, *names: str, **options) -> None:
    """Add a flag with its underscore spelling, which older BIDS-Apps use, as an alias."""
    aliases = [
        '--' + n[2:].replace('-', '_') for n in names if n.startswith('--') and '-' in n[2:]
    ]
    action = group.add_argument(*names, *aliases, **options)
    # The aliases work but would make the help twice as long.
    action.option_strings = [s for s in action.option_strings if s not in aliases]


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which scans are processed, and where their site is told."""
    group = parser.add_argument_group('which scans')
    _flag(
        group,
        '--participant-label',
        nargs='+',
        metavar='LABEL',
        help='participants to process, with or without "sub-" (default: all)',
    )
    _flag(
        group,
        '--session-label',
        nargs='+',
        metavar='LABEL',
        help='sessions to process, with or without "ses-" (default: all)',
    )
    _flag(
        group,
        '--bids-filter-file',
        type=Path,
        metavar='FILE',
        help='JSON {"t1w": {"entity": value}} to select T1w images; null: without the entity, '
        '"*": with any value',
    )
    _flag(
        group,
        '--bids-database-dir',
        type=Path,
        metavar='PATH',
        help='folder of a pybids index, made if it is not there; saves indexing large datasets',
    )
    _flag(
        group,
        '--skip-bids-validation',
        action='store_true',
        help='assume that the input is valid BIDS',
    )
    _flag(
        group,
        '-d',
        '--derivatives',
        nargs='+',
        metavar='PACKAGE=PATH',
        help='earlier outputs to take preprocessed scans from: ddae-app=PATH',
    )
    _flag(
        group,
        '--site-column',
        metavar='NAME',
        help='column of participants.tsv (or sessions.tsv) that names the site '
        '(default: the first of site, site_id, scanner, center, centre, institution, ...)',
    )
    _flag(
        group,
        '--source-site',
        metavar='NAME',
        help='the site of every scan, where the tables do not tell',
    )


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    """How scans are brought to the grid of the model."""
    group = parser.add_argument_group('preprocessing')
    _flag(
        group,
        '--skull-strip',
        choices=CHOICES['skull_strip'],
        help="hd-bet: its network; template: the template's brain mask, warped by SyN; "
        'none: the scans are skull-stripped already (default: hd-bet)',
    )
    _flag(
        group,
        '--hd-bet-weights',
        type=Path,
        metavar='PATH',
        help="folder of HD-BET's weights (default: $HDBET_WEIGHTS, else HD-BET's own folder)",
    )
    _flag(
        group,
        '--hd-bet-sha256',
        metavar='HEX',
        help='SHA-256 of weights that did not come through ddae-app-fetch, if you trust them '
        '(default: what ddae-app-fetch recorded)',
    )
    _flag(
        group,
        '--template',
        metavar='NAME',
        help='MNI152NLin2009cAsym, from TEMPLATEFLOW_HOME, or the packaged, skull-stripped '
        "MNI152NLin2009aSym (default: the model's; without a model MNI152NLin2009cAsym)",
    )
    _flag(
        group,
        '--slices',
        choices=CHOICES['slices'],
        help='axial slices to harmonize or to train on: all, or the medial one, as in the paper '
        "(default: the model's; without a model all, but for --preset "
        'paper and --method cvae and style-gan)',
    )
    _flag(
        group,
        '--sloppy',
        action='store_true',
        help='few iterations everywhere: for trying things out, not for results',
    )


def add_harmonization(parser: argparse.ArgumentParser) -> None:
    """What is done to the slices, and with which model."""
    group = parser.add_argument_group('harmonization')
    _flag(
        group,
        '--target-site',
        metavar='NAME',
        help="the site whose look every scan is given; one of the model's sites",
    )
    _flag(
        group,
        '--model',
        type=Path,
        metavar='FILE',
        help='model file (default: $DDAE_MODEL, else <output_dir>/models/, else the packaged '
        'model of simulated scanners)',
    )
    _flag(
        group,
        '--method',
        choices=choices('method'),
        help="harmonization method: what is trained, and of which method a participant's model "
        'has to be (default: ddae is trained, and any model taken)',
    )
    _flag(
        group,
        '--unseen-site',
        choices=CHOICES['unseen_site'],
        help='a scan from a site that the model does not know: refuse it; or take its look from '
        'the scan alone, which costs some of what tells people apart (agnostic); or from all '
        'preprocessed scans of its site, five people at least (adapt) (default: refuse)',
    )
    _flag(
        group,
        '--keep-noise',
        action='store_true',
        help='leave each scan its own noise; by default harmonized slices are denoised, because '
        'noise tells the scanner',
    )
    _flag(
        group,
        '--write-site-effect',
        action='store_true',
        help='write what harmonization added as well, as desc-siteeffect_T1w',
    )
    _flag(
        group,
        '--stage',
        choices=CHOICES['stage'],
        help='preproc: stop before the network, so that no GPU is needed; harmonize: start from '
        'preprocessed outputs (default: all)',
    )
    _flag(
        group,
        '--device',
        type=checked('device'),
        metavar='{auto,cpu,cuda[:n]}',
        help='where the networks run (default: auto)',
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """How a model is trained."""
    group = parser.add_argument_group('training')
    _flag(
        group,
        '--preset',
        choices=CHOICES['preset'],
        help='size of the model: tiny trains on a CPU, base on a GPU, paper is the '
        'reconstruction of the published one (default: base)',
    )
    _flag(
        group,
        '--train-images',
        type=number('train_images'),
        metavar='N',
        help="slices to show the network in all (default: the preset's)",
    )
    _flag(
        group,
        '--precision',
        choices=CHOICES['precision'],
        help='of the arithmetic in training (default: auto, bf16 on a GPU and fp32 on a CPU)',
    )
    _flag(
        group,
        '--max-hours',
        type=checked('max_hours', hours),
        metavar='H',
        help='stop training after so many hours from the start and exit with 0; the same command '
        'goes on (default: no limit)',
    )
    _flag(
        group,
        '--init-from',
        type=Path,
        metavar='FILE',
        help='start from the weights of this model, which also decides the size of the network; '
        'sites that it does not know start as unknown ones',
    )
    _flag(
        group,
        '--allow-few-scans',
        action='store_true',
        help='train although a site has fewer than ten people',
    )
    _flag(
        group,
        '--allow-confounding',
        action='store_true',
        help='train although a site cannot be told from the age or sex of its people',
    )
    _flag(
        group,
        '--model-name',
        type=checked('model_name'),
        metavar='NAME',
        help='the model is written to <output_dir>/models/NAME.safetensors (default: the method)',
    )


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """What the group level judges."""
    group = parser.add_argument_group('evaluation, at the group level')
    _flag(
        group,
        '--biology',
        nargs='+',
        metavar='COLUMN',
        help='further columns of participants.tsv, numbers or up to six words, that should still '
        'be read from the images: a diagnosis, a score',
    )
    _flag(
        group,
        '--inception-weights',
        type=Path,
        metavar='FILE',
        help='the published weights-inception-2015-12-05-6726825d.pth, to measure FID and KID '
        '(default: not measured)',
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """How the work is carried out."""
    group = parser.add_argument_group('how to run')
    _flag(
        group,
        '-w',
        '--work-dir',
        type=Path,
        metavar='PATH',
        help='intermediate results; a rerun with the same folder resumes (default: ./work)',
    )
    _flag(
        group,
        '--clean-workdir',
        action='store_true',
        help='empty the work directory first; not while another run uses it',
    )
    _flag(
        group,
        '--nprocs',
        '--nthreads',
        '--n-cpus',
        dest='nprocs',
        type=number('nprocs'),
        metavar='N',
        help='processes at once (default: all CPUs)',
    )
    _flag(
        group,
        '--omp-nthreads',
        type=number('omp_nthreads'),
        metavar='N',
        help='threads per process of the networks; ANTs and N4 use one, to give the same '
        'result every time (default: one less than --nprocs, at most 8)',
    )
    _flag(
        group,
        '--mem-mb',
        '--mem',
        dest='mem_mb',
        type=memory_mb,
        metavar='MB',
        help='memory for all processes, in MB or with a suffix K, M, G or T',
    )
    _flag(
        group,
        '--low-mem',
        action='store_true',
        help='harmonize one slice at a time: slower, less memory',
    )
    _flag(
        group,
        '--use-plugin',
        '--nipype-plugin-file',
        dest='use_plugin',
        type=Path,
        metavar='FILE',
        help='YAML with a nipype plugin and its arguments',
    )


def add_behaviour(parser: argparse.ArgumentParser) -> None:
    """What is done, written and said."""
    group = parser.add_argument_group('what to do and say')
    _flag(
        group,
        '--config-file',
        type=Path,
        metavar='FILE',
        help='settings of an earlier run, logs/<run id>/settings.toml; flags win over the file',
    )
    _flag(
        group,
        '--dry-run',
        action='store_true',
        help='list on standard output what would be done for each scan and why (new, changed, '
        'incomplete, done), and write nothing',
    )
    _flag(group, '--boilerplate-only', action='store_true', help='write the methods text only')
    _flag(
        group,
        '--reports-only',
        action='store_true',
        help='write the HTML pages anew from existing outputs',
    )
    _flag(
        group,
        '--write-graph',
        action='store_true',
        help="write the workflow's graph to the run's log folder",
    )
    _flag(
        group,
        '--stop-on-first-crash',
        action='store_true',
        help='stop when one scan fails (default: finish the others)',
    )
    _flag(
        group,
        '--random-seed',
        type=number('random_seed'),
        metavar='N',
        help='seed of training (default: 0)',
    )
    _flag(
        group,
        '--resource-monitor',
        action='store_true',
        help='record memory and CPU use of every step in the work directory',
    )
    _flag(
        group,
        '--notrack',
        action='store_true',
        help='accepted for compatibility: ddae-app never sends anything anywhere',
    )
    group.add_argument(
        '-v', '--verbose', dest='verbose_count', action='count', help='say more; -vv for debugging'
    )
