"""Whether a model can do what is asked of it for some scans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ddae_app.errors import ModelError, UsageError
from ddae_app.methods.modelfile import ModelInfo
from ddae_app.methods.registry import METHODS
from ddae_app.methods.suitability import FEWEST_TO_CALIBRATE
from ddae_app.settings import Protocol

FEWEST_TO_ADAPT = 5
"""Subjects. With fewer, the appearance of a site is known better from each scan alone."""

_CALIBRATE = (
    'calibrate first (ddae-app BIDS_DIR OUTPUT_DIR train), which takes '
    f'{FEWEST_TO_CALIBRATE} participants of a site or more'
)
"""What a user of networks that know no site of a dataset can do."""


def unseen_site_policy(info: ModelInfo, asked: str) -> str:
    """What is done with scans of sites that a model does not know.

    What was asked for; ``auto`` is ``agnostic`` where the model can do that, else ``refuse``.
    """
    able = METHODS[info.method].supports('unseen_site') and not info.uses_covariates
    return asked if asked != 'auto' else 'agnostic' if able else 'refuse'


def calibrates_first(asked: str) -> bool:
    """Whether a run calibrates the sites of its dataset, by what is asked for unknown sites.

    These are then the sites of too few participants. They are refused, or harmonized a scan at a
    time, whereas ``agnostic`` and ``adapt`` say how sites are measured that are not calibrated.
    """
    return asked in ('auto', 'refuse')


def fate_of_unknown(asked: str) -> str:
    """What becomes of a scan whose site is not calibrated, in words."""
    return 'refused (--unseen-site refuse)' if asked == 'refuse' else 'harmonized by itself'


def check_options(info: ModelInfo, unseen_site: str, *, keep_noise: bool) -> None:
    """Refuse what the method of a model does not support.

    Raises
    ------
    UsageError
    """
    for option, flag, given in (
        ('unseen_site', f'--unseen-site {unseen_site}', unseen_site != 'refuse'),
        ('keep_noise', '--keep-noise', keep_noise),
    ):
        if given and not METHODS[info.method].supports(option):
            able = [m.label for m in METHODS.values() if m.supports(option)]
            raise UsageError(
                f'{flag}: {info.name!r} is a model of {info.method}, which does not support it; '
                f'leave the flag out, or give a model of {" or ".join(able)}'
            )


def check_target(info: ModelInfo, target_site: str | None) -> str:
    """The target site, if the model knows it.

    Raises
    ------
    UsageError
        Not given, or not one of the model's.
    """
    if target_site not in info.sites:
        problem = (
            'is missing' if target_site is None else f'{target_site!r} is unknown to the model'
        )
        remedy = '' if info.source_sites else f'; for a site of the dataset, {_CALIBRATE}'
        raise UsageError(
            f'--target-site {problem}; {info.name!r} knows {", ".join(info.sites)}{remedy}'
        )
    return target_site


def check_protocol(info: ModelInfo, template: str | None, slices: str | None) -> Protocol:
    """The model's preprocessing protocol, if it is what was asked for.

    Raises
    ------
    ModelError
        A flag asks for another template or other slices.
    """
    for flag, asked, needed in (
        ('--template', template, info.protocol.template),
        ('--slices', slices, info.protocol.slices),
    ):
        if asked is not None and asked != needed:
            raise ModelError(
                f'{flag} {asked}: the model {info.name!r} was trained with {needed}; '
                f'leave the flag out, or give a model that was trained with {asked}'
            )
    return info.protocol


def site_refusal(
    info: ModelInfo,
    site: str | None,
    policy: str,
    subjects: int | None = None,
    missing: str = '',
) -> str | None:
    """Why scans of a site cannot be harmonized with a model, if so.

    Parameters
    ----------
    info : ModelInfo
    site : str or None
        None if it is not recorded.
    policy : {'refuse', 'agnostic', 'adapt'}
        For sites that the model was not trained on.
    subjects : int, optional
        Of that site, with preprocessed scans to measure its appearance from; None where they have
        not been preprocessed yet.
    missing : str
        Where the site is not recorded: what is missing.
    """
    if site in info.source_sites:
        return None
    problem = f'source site {site or "n/a"} is unknown to {info.name!r}'
    if site is None and missing:
        problem = f'its site is not known: {missing}'
    if policy == 'agnostic':
        return None
    if policy == 'adapt' and site:
        too_few = subjects is not None and subjects < FEWEST_TO_ADAPT
        return too_few_to_adapt(site, subjects or 0) if too_few else None
    supported = METHODS[info.method].supports('unseen_site')
    ways = '--unseen-site agnostic or adapt, or ' if supported else ''
    remedy = f'give {ways}a model trained with this site'
    known = f'knows {", ".join(info.source_sites)}'
    if not info.source_sites:
        known = 'is calibrated to no site'
        remedy = f'{_CALIBRATE}, or give --unseen-site agnostic to harmonize each scan by itself'
    if site is None:
        remedy = 'fill it in, or give --source-site, the site of scans that have none'
    return f'{problem} ({info.name!r} {known}); {remedy}'


def too_few_to_adapt(site: str, subjects: int) -> str:
    """Why ``--unseen-site adapt`` cannot be done for a site."""
    return (
        f'site {site} is unknown to the model, and --unseen-site adapt needs preprocessed scans '
        f'of {FEWEST_TO_ADAPT} of its subjects, {subjects} are there; preprocess more of them, or '
        'give --unseen-site agnostic'
    )


def mismatch(
    info: ModelInfo, sites: Iterable[str], protocol: Protocol, *, any_slices: bool = False
) -> str | None:
    """Why a model does not fit some preprocessed scans, if so.

    Parameters
    ----------
    info : ModelInfo
    sites : iterable of str
        Of the scans, and the target.
    protocol : Protocol
        How the scans were preprocessed.
    any_slices : bool
        Whether a model of whole scans fits medial slices, and the other way round.
    """
    unknown = sorted(set(sites) - set(info.sites))
    if unknown:
        return f'it does not know {", ".join(unknown)}'
    expected = replace(info.protocol, slices=protocol.slices) if any_slices else info.protocol
    return None if expected == protocol else 'it takes scans that were preprocessed differently'
