"""The flags of ddae-app, one function a group."""

from __future__ import annotations

import argparse

from ddae_app.cli.values import checked, decimal, number
from ddae_app.methods.registry import single_slice
from ddae_app.settings import CHOICES, choices


def add_flag(group: argparse._ArgumentGroup, *names: str, **options) -> None:
    """Add a flag with its underscore spelling, which older BIDS-Apps use, as an alias.

    One that takes several values extends the list each time that it is given: argparse would
    forget all but the last in silence.
    """
    aliases = [
        '--' + n[2:].replace('-', '_') for n in names if n.startswith('--') and '-' in n[2:]
    ]
    action = group.add_argument(*names, *aliases, **options)
    # The aliases work, but they would make the help twice as long.
    action.option_strings = [s for s in action.option_strings if s not in aliases]


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which scans are processed, and where their sites come from."""
    group = parser.add_argument_group('selection of scans')
    add_flag(
        group,
        '--participant-label',
        action='extend',
        nargs='+',
        metavar='LABEL',
        help='labels of the participants to process, with or without "sub-" (default: all)',
    )
    add_flag(
        group,
        '--session-label',
        action='extend',
        nargs='+',
        metavar='LABEL',
        help='labels of the sessions to process, with or without "ses-" (default: all)',
    )
    add_flag(
        group,
        '--bids-filter-file',
        metavar='FILE',
        help='a JSON file {"t1w": {"entity": value}} that selects T1w images by their BIDS '
        'entities; null selects images without the entity, "*" images with any value of it',
    )
    add_flag(
        group,
        '--bids-database-dir',
        metavar='PATH',
        help='folder of a pybids database index, which is created if it does not exist '
        '(not by --dry-run)',
    )
    add_flag(
        group,
        '--skip-bids-validation',
        action='store_true',
        help='assume that the input dataset is valid BIDS and skip the validation',
    )
    add_flag(
        group,
        '-d',
        '--derivatives',
        action='extend',
        nargs='+',
        metavar='PACKAGE=PATH',
        help='derivatives of the dataset. ddae-app=PATH, the output folder of an earlier run: its '
        'preprocessed scans are used; any other name, as fmriprep=PATH, smriprep=PATH, '
        'freesurfer=PATH or fastsurfer=PATH: its brain masks are used, or, with --features aparc, '
        'its stats files, or, with --features thickness, its maps on the cortex',
    )
    add_flag(
        group,
        '--site-column',
        metavar='NAME',
        help='column of participants.tsv or sessions.tsv that names the site of each scan; where '
        "the tables do not say, the field of this name in the scan's JSON does, for example "
        'StationName (default: the first column of site, site_id, scanner, center, centre, '
        'institution, ...)',
    )
    add_flag(
        group,
        '--source-site',
        metavar='NAME',
        help='the site of the scans of which nothing else names the site; it changes no other',
    )


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    """How scans are resampled to the grid of the model."""
    group = parser.add_argument_group('preprocessing')
    add_flag(
        group,
        '--skull-strip',
        choices=CHOICES['skull_strip'],
        help='method of brain extraction. hd-bet: the network of HD-BET, whose weights have to be '
        'downloaded; deepbet: the packaged networks of deepbet; template: the brain mask of the '
        'template, warped to the scan by SyN; none: the scans are already skull-stripped; auto: '
        'hd-bet if its weights are there, else deepbet (default: auto)',
    )
    add_flag(
        group,
        '--brain-mask-filter',
        metavar='FILE',
        help='a JSON file {"entity": value} that selects the brain masks in the datasets of '
        '--derivatives; null selects masks without the entity (default: desc-brain_mask in the '
        'space of the scan)',
    )
    add_flag(
        group,
        '--hd-bet-weights',
        metavar='PATH',
        help='folder of the HD-BET weights (default: $HDBET_WEIGHTS, else the folder of HD-BET)',
    )
    add_flag(
        group,
        '--hd-bet-sha256',
        metavar='HEX',
        help='SHA-256 of HD-BET weights that you trust although ddae-app-fetch did not download '
        'them (default: the digest that ddae-app-fetch recorded)',
    )
    add_flag(
        group,
        '--template',
        metavar='NAME',
        help='standard space: MNI152NLin2009aSym, which is packaged, or, for a network of your '
        'own that is trained with it, MNI152NLin2009cAsym, which is read from TEMPLATEFLOW_HOME '
        '(default: the template of the model; MNI152NLin2009aSym without a model)',
    )
    add_flag(
        group,
        '--slices',
        choices=CHOICES['slices'],
        help='axial slices to harmonize or to train on: all of them, or the medial one, as in the '
        'paper (default: those of the model; without a model all, but medial for --preset paper '
        f'and for --method {" and ".join(single_slice())})',
    )
    add_flag(
        group,
        '--sloppy',
        action='store_true',
        help='use few iterations, for testing only; the results are not suitable for analysis',
    )


def add_harmonization(parser: argparse.ArgumentParser) -> None:
    """How the slices are harmonized, and with which model."""
    group = parser.add_argument_group('harmonization')
    add_flag(
        group,
        '--target-site',
        metavar='NAME',
        help='the site to harmonize to: a site of the dataset, or one that the model knows, such '
        'as the packaged IXI, Novosibirsk and UCLA; help lists them',
    )
    add_flag(
        group,
        '--target-scans',
        metavar='PATH',
        help='a BIDS dataset of reference scans of at least five participants, which are taken '
        'as the target site; where its tables name none, the site has the name of the folder',
    )
    add_flag(
        group,
        '--model',
        metavar='FILE',
        help='file of a model (default: $DDAE_MODEL, else the model in <output_dir>/models/, else '
        'the packaged networks, calibrated to the sites of the dataset)',
    )
    add_flag(
        group,
        '--method',
        choices=choices('method'),
        help='harmonization method. At the train level, the method to train (default: ddae, or '
        'with --features combat); at the participant level, the method that the model must have '
        '(default: any)',
    )
    add_flag(
        group,
        '--unseen-site',
        choices=CHOICES['unseen_site'],
        help='how to treat scans from a site that the model does not know, for example one of '
        'fewer than five participants. agnostic: the appearance of the site is estimated from '
        'each scan alone, which removes some between-subject variation; adapt: it is estimated '
        'from all preprocessed scans of the site, of at least five participants; refuse: these '
        'scans fail; auto: agnostic where the model can, with a warning (default: auto)',
    )
    add_flag(
        group,
        '--keep-noise',
        action='store_true',
        help='keep the noise of each scan; by default, harmonized slices are denoised, because '
        'noise levels reveal the scanner; the residual correction is left out as well',
    )
    add_flag(
        group,
        '--write-site-effect',
        action='store_true',
        help='also write the change that harmonization made to each scan, as desc-siteeffect_T1w',
    )
    add_flag(
        group,
        '--stage',
        choices=CHOICES['stage'],
        help='part of the workflow to run. preproc: stop before the network, so that no GPU is '
        'needed; harmonize: start from preprocessed outputs (default: all)',
    )
    add_flag(
        group,
        '--device',
        type=checked('device'),
        metavar='{auto,cpu,cuda[:n]}',
        help='device on which the networks run; auto uses a GPU if there is one (default: auto)',
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    """How a model is trained."""
    group = parser.add_argument_group('training')
    add_flag(
        group,
        '--preset',
        choices=CHOICES['preset'],
        help='calibrated: train no network, but measure the sites of the dataset for that of '
        '--init-from, or else of the packaged model, in minutes; or the size and training '
        'schedule of a network of your own: tiny for a CPU, base for a GPU, paper as a '
        'reconstruction of the published network (default: calibrated, for the methods that can '
        'be)',
    )
    add_flag(
        group,
        '--train-images',
        type=number('train_images'),
        metavar='N',
        help='number of slices shown to the network in training (default: that of the preset)',
    )
    add_flag(
        group,
        '--precision',
        choices=CHOICES['precision'],
        help='precision of training; auto is bf16 on a GPU and fp32 on a CPU (default: auto)',
    )
    add_flag(
        group,
        '--max-hours',
        type=decimal('max_hours', 'a number of hours'),
        metavar='H',
        help='stop training after this many hours and exit with 0; the same command resumes it '
        '(default: no limit)',
    )
    add_flag(
        group,
        '--init-from',
        metavar='FILE',
        help='initialize training with the weights of this model, which also determines the size '
        'of the network; sites that are new to it start as unknown sites',
    )
    add_flag(
        group,
        '--allow-few-scans',
        action='store_true',
        help='train even if a site has fewer than ten participants, or also calibrate sites of '
        'fewer than five',
    )
    add_flag(
        group,
        '--allow-confounding',
        action='store_true',
        help='train even if age or sex is confounded with the site',
    )
    add_flag(
        group,
        '--model-name',
        type=checked('model_name'),
        metavar='NAME',
        help='name of the trained model, which is written to '
        '<output_dir>/models/NAME.safetensors (default: calibrated, or the name of the method)',
    )


def add_features(parser: argparse.ArgumentParser) -> None:
    """Harmonizing a table, or maps on the cortex, instead of scans."""
    group = parser.add_argument_group('tables of features, and maps on the cortex')
    add_flag(
        group,
        '--features',
        metavar='TABLE',
        help='harmonize this table, .tsv or .csv, instead of scans, with ComBat or a DDAE '
        '(--method): columns participant_id, session_id (optional), and numbers. aparc, '
        'aparc.a2009s, aparc.DKTatlas or aseg: the table is read from the stats files of '
        'FreeSurfer or FastSurfer in --derivatives. Any other word, as thickness, area, curv or '
        'sulc: maps on the cortex in --derivatives. Site, age and sex come from the '
        'dataset. --target-site names a site that stays as it is (default: all sites are brought '
        'to their mean); flags that concern images are refused',
    )
    add_flag(
        group,
        '--age-spline',
        action='store_true',
        help='with --features: protect a smooth curve of age, and not only a straight line',
    )


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """What the group level evaluates."""
    group = parser.add_argument_group('evaluation at the group level')
    add_flag(
        group,
        '--biology',
        action='extend',
        nargs='+',
        metavar='COLUMN',
        help='further columns of participants.tsv that harmonized images should still predict, '
        'such as a diagnosis or a score; the values are numbers or at most six categories',
    )
    add_flag(
        group,
        '--inception-weights',
        metavar='FILE',
        help='the published file weights-inception-2015-12-05-6726825d.pth, which is needed to '
        'compute FID and KID (default: they are not computed)',
    )
