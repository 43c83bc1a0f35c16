"""The flags of ddae-app, one function a group."""

from __future__ import annotations

import argparse
from pathlib import Path

from ddae_app.cli.values import checked, hours, memory_mb, number
from ddae_app.methods.registry import single_slice
from ddae_app.settings import CHOICES, choices


def _flag(group: argparse._ArgumentGroup, *names: str, **options) -> None:
    """Add a flag with its underscore spelling, which older BIDS-Apps use, as an alias."""
    aliases = [
        '--' + n[2:].replace('-', '_') for n in names if n.startswith('--') and '-' in n[2:]
    ]
    action = group.add_argument(*names, *aliases, **options)
    # The aliases work, but they would make the help twice as long.
    action.option_strings = [s for s in action.option_strings if s not in aliases]


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which scans are processed, and where their sites come from."""
    group = parser.add_argument_group('selection of scans')
    _flag(
        group,
        '--participant-label',
        nargs='+',
        metavar='LABEL',
        help='labels of the participants to process, with or without "sub-" (default: all)',
    )
    _flag(
        group,
        '--session-label',
        nargs='+',
        metavar='LABEL',
        help='labels of the sessions to process, with or without "ses-" (default: all)',
    )
    _flag(
        group,
        '--bids-filter-file',
        type=Path,
        metavar='FILE',
        help='a JSON file {"t1w": {"entity": value}} that selects T1w images by their BIDS '
        'entities; null selects images without the entity, "*" images with any value of it',
    )
    _flag(
        group,
        '--bids-database-dir',
        type=Path,
        metavar='PATH',
        help='folder of a pybids database index, which is created if it does not exist',
    )
    _flag(
        group,
        '--skip-bids-validation',
        action='store_true',
        help='assume that the input dataset is valid BIDS and skip the validation',
    )
    _flag(
        group,
        '-d',
        '--derivatives',
        nargs='+',
        metavar='PACKAGE=PATH',
        help='derivatives to take preprocessed scans from, as ddae-app=PATH, the output folder of '
        'an earlier run',
    )
    _flag(
        group,
        '--site-column',
        metavar='NAME',
        help='column of participants.tsv or sessions.tsv that names the site of each scan '
        '(default: the first of site, site_id, scanner, center, centre, institution, ...)',
    )
    _flag(
        group,
        '--source-site',
        metavar='NAME',
        help='site of all scans for which the tables name no site',
    )


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    """How scans are resampled to the grid of the model."""
    group = parser.add_argument_group('preprocessing')
    _flag(
        group,
        '--skull-strip',
        choices=CHOICES['skull_strip'],
        help='method of brain extraction. hd-bet: the network of HD-BET; template: the brain mask '
        'of the template, warped to the scan by SyN; none: the scans are already '
        'skull-stripped (default: hd-bet)',
    )
    _flag(
        group,
        '--hd-bet-weights',
        type=Path,
        metavar='PATH',
        help='folder of the HD-BET weights (default: $HDBET_WEIGHTS, else the folder of HD-BET)',
    )
    _flag(
        group,
        '--hd-bet-sha256',
        metavar='HEX',
        help='SHA-256 of HD-BET weights that you trust although ddae-app-fetch did not download '
        'them (default: the digest that ddae-app-fetch recorded)',
    )
    _flag(
        group,
        '--template',
        metavar='NAME',
        help='standard space: MNI152NLin2009cAsym, which is read from TEMPLATEFLOW_HOME, or '
        'MNI152NLin2009aSym, which is packaged and skull-stripped (default: the template of the '
        'model; MNI152NLin2009cAsym without a model)',
    )
    _flag(
        group,
        '--slices',
        choices=CHOICES['slices'],
        help='axial slices to harmonize or to train on: all of them, or the medial one, as in the '
        'paper (default: those of the model; without a model all, but medial for --preset paper '
        f'and for --method {" and ".join(single_slice())})',
    )
    _flag(
        group,
        '--sloppy',
        action='store_true',
        help='use few iterations, for testing only; the results are not suitable for analysis',
    )


def add_harmonization(parser: argparse.ArgumentParser) -> None:
    """How the slices are harmonized, and with which model."""
    group = parser.add_argument_group('harmonization')
    _flag(
        group,
        '--target-site',
        metavar='NAME',
        help='the site to harmonize to, which is one of the sites of the model',
    )
    _flag(
        group,
        '--model',
        type=Path,
        metavar='FILE',
        help='file of a trained model (default: $DDAE_MODEL, else the model in '
        '<output_dir>/models/, else the packaged model of simulated scanners)',
    )
    _flag(
        group,
        '--method',
        choices=choices('method'),
        help='harmonization method. At the train level, the method to train (default: ddae); at '
        'the other levels, the method that the model must have (default: any)',
    )
    _flag(
        group,
        '--unseen-site',
        choices=CHOICES['unseen_site'],
        help='how to treat scans from a site that the model does not know. refuse: these scans '
        'fail; agnostic: the appearance of the site is estimated from each scan alone, '
        'which removes some between-subject variation; adapt: it is estimated from all '
        'preprocessed scans of the site, of at least five participants (default: refuse)',
    )
    _flag(
        group,
        '--keep-noise',
        action='store_true',
        help='keep the noise of each scan; by default, harmonized slices are denoised, because '
        'noise levels reveal the scanner',
    )
    _flag(
        group,
        '--write-site-effect',
        action='store_true',
        help='also write the change that harmonization made to each scan, as desc-siteeffect_T1w',
    )
    _flag(
        group,
        '--stage',
        choices=CHOICES['stage'],
        help='part of the workflow to run. preproc: stop before the network, so that no GPU is '
        'needed; harmonize: start from preprocessed outputs (default: all)',
    )
    _flag(
        group,
        '--device',
        type=checked('device'),
        metavar='{auto,cpu,cuda[:n]}',
        help='device on which the networks run; auto uses a GPU if there is one (default: auto)',
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """How a model is trained."""
    group = parser.add_argument_group('training')
    _flag(
        group,
        '--preset',
        choices=CHOICES['preset'],
        help='size and training schedule of the network: tiny for a CPU, base for a GPU, paper as '
        'a reconstruction of the published network (default: base)',
    )
    _flag(
        group,
        '--train-images',
        type=number('train_images'),
        metavar='N',
        help='number of slices shown to the network in training (default: that of the preset)',
    )
    _flag(
        group,
        '--precision',
        choices=CHOICES['precision'],
        help='precision of training; auto is bf16 on a GPU and fp32 on a CPU (default: auto)',
    )
    _flag(
        group,
        '--max-hours',
        type=checked('max_hours', hours),
        metavar='H',
        help='stop training after this many hours and exit with 0; the same command resumes it '
        '(default: no limit)',
    )
    _flag(
        group,
        '--init-from',
        type=Path,
        metavar='FILE',
        help='initialize training with the weights of this model, which also determines the size '
        'of the network; sites that are new to it start as unknown sites',
    )
    _flag(
        group,
        '--allow-few-scans',
        action='store_true',
        help='train even if a site has fewer than ten participants',
    )
    _flag(
        group,
        '--allow-confounding',
        action='store_true',
        help='train even if age or sex is confounded with the site',
    )
    _flag(
        group,
        '--model-name',
        type=checked('model_name'),
        metavar='NAME',
        help='name of the trained model, which is written to '
        '<output_dir>/models/NAME.safetensors (default: the name of the method)',
    )


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """What the group level evaluates."""
    group = parser.add_argument_group('evaluation at the group level')
    _flag(
        group,
        '--biology',
        nargs='+',
        metavar='COLUMN',
        help='further columns of participants.tsv that harmonized images should still predict, '
        'such as a diagnosis or a score; the values are numbers or at most six categories',
    )
    _flag(
        group,
        '--inception-weights',
        type=Path,
        metavar='FILE',
        help='the published file weights-inception-2015-12-05-6726825d.pth, which is needed to '
        'compute FID and KID (default: they are not computed)',
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Folders, processes and memory of a run."""
    group = parser.add_argument_group('performance')
    _flag(
        group,
        '-w',
        '--work-dir',
        type=Path,
        metavar='PATH',
        help='folder of intermediate results; a run with the same folder resumes an interrupted '
        'one (default: ./work)',
    )
    _flag(
        group,
        '--clean-workdir',
        action='store_true',
        help='empty the work directory before the run; no other run may be using it',
    )
    _flag(
        group,
        '--nprocs',
        '--nthreads',
        '--n-cpus',
        dest='nprocs',
        type=number('nprocs'),
        metavar='N',
        help='maximum number of processes that run in parallel (default: all CPUs)',
    )
    _flag(
        group,
        '--omp-nthreads',
        type=number('omp_nthreads'),
        metavar='N',
        help='threads per process of the networks; ANTs and N4 always use one, for reproducible '
        'results (default: one less than --nprocs, at most 8)',
    )
    _flag(
        group,
        '--mem-mb',
        '--mem',
        dest='mem_mb',
        type=memory_mb,
        metavar='MB',
        help='upper bound of the memory of all processes, in MB or with a suffix K, M, G or T',
    )
    _flag(
        group,
        '--low-mem',
        action='store_true',
        help='harmonize one slice at a time, which is slower but needs less memory',
    )
    _flag(
        group,
        '--use-plugin',
        '--nipype-plugin-file',
        dest='use_plugin',
        type=Path,
        metavar='FILE',
        help='YAML file with a nipype plugin and its arguments',
    )


def add_behaviour(parser: argparse.ArgumentParser) -> None:
    """What a run writes and logs."""
    group = parser.add_argument_group('other options')
    _flag(
        group,
        '--config-file',
        type=Path,
        metavar='FILE',
        help='settings of an earlier run, logs/<run id>/settings.toml; flags override its values',
    )
    _flag(
        group,
        '--dry-run',
        action='store_true',
        help='list on standard output what would be done for each scan and why (new, changed, '
        'incomplete, done), without writing any output',
    )
    _flag(group, '--boilerplate-only', action='store_true', help='write only the methods text')
    _flag(
        group,
        '--reports-only',
        action='store_true',
        help='write only the HTML reports, from existing outputs',
    )
    _flag(
        group,
        '--write-graph',
        action='store_true',
        help='write the graph of the workflow to the log folder of the run',
    )
    _flag(
        group,
        '--stop-on-first-crash',
        action='store_true',
        help='stop when the first scan fails (default: process the other scans)',
    )
    _flag(
        group,
        '--random-seed',
        type=number('random_seed'),
        metavar='N',
        help='seed of the random number generators in training (default: 0)',
    )
    _flag(
        group,
        '--resource-monitor',
        action='store_true',
        help='record the memory and CPU use of every step in the work directory',
    )
    _flag(
        group,
        '--notrack',
        action='store_true',
        help='accepted for compatibility with other BIDS-Apps; ddae-app never sends data anywhere',
    )
    group.add_argument(
        '-v', '--verbose', dest='verbose_count', action='count', help='log more; -vv for debugging'
    )
