"""The methods text of a run: what its workflows do, with which software and which model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from importlib.metadata import version

from ddae_app import __version__
from ddae_app.methods.ddae.info import DDAEInfo
from ddae_app.methods.find import FoundModel
from ddae_app.settings import Settings

PREPROCESSING = ('antspyx', 'SimpleITK')
NETWORKS = {'hd-bet': ('HD_BET', 'nnunetv2', 'torch'), 'deepbet': ('torch',)}
"""Packages that do the work; those of networks by method of brain extraction."""

REFERENCES = {'SimpleITK': ' [@lowekamp2013]', 'torch': ' [@paszke2019]'}


def methods_text(
    parts: Sequence[str],
    settings: Settings,
    model: FoundModel | None,
    *,
    extractions: Collection[str],
    sites: Iterable[str | None] = (),
) -> str:
    """Paragraphs for a paper, with citations ``[@key]``.

    Parameters
    ----------
    parts : sequence of str
        What was done, in this order.
    settings : Settings
        Of the run.
    model : FoundModel or None
        None if nothing was harmonized.
    extractions : collection of str
        How this run extracted brains; empty if it preprocessed no scans.
    sites : iterable of str or None
        Where the scans were acquired; None if not known.
    """
    what = 'harmonization' if model else 'preprocessing'
    opening = (
        f'Results included in this manuscript come from {what} performed with *ddae-app* '
        f'{__version__}, which is based on *Nipype* {version("nipype")} [@gorgolewski2011].'
    )
    software = [*(PREPROCESSING if extractions else ())]
    for method in sorted(extractions):
        software += NETWORKS.get(method, ())
    software += model.method.software if model else ()
    named = [
        f'*{name}* {version(name)}{REFERENCES.get(name, "")}' for name in dict.fromkeys(software)
    ]
    closing = [f'This was computed with {_listed(named)}.'] if named else []
    if model:
        of_phantoms = ', made from simulated scans' if model.info.phantom else ''
        closing.insert(
            0,
            f'The target site was {_target(settings, model)}; the model was '
            f'{model.info.name} (SHA-256 {model.sha256[:16]}){_of_networks(model)}{of_phantoms}.'
            + _of_unseen(set(sites) - set(model.info.source_sites), settings, model),
        )
    if settings.preproc.sloppy:
        closing.append(
            'Only few iterations were run (--sloppy): the results are not suitable for analysis.'
        )
    return '\n\n'.join([opening, *parts, ' '.join(closing)]).strip()


def _target(settings: Settings, model: FoundModel) -> str:
    """The target site; a site of the dataset may have the name of a packaged one."""
    site = settings.harmonize.target_site
    of_others = site in model.info.sites and site not in model.info.source_sites
    return f'{site}, of reference scans that come with the program' if of_others else f'{site}'


def _of_networks(model: FoundModel) -> str:
    """Whose networks a calibrated model has."""
    if not isinstance(model.info, DDAEInfo) or not model.info.networks:
        return ''
    name = model.info.networks.rsplit(' ', 1)[0]
    return f', whose networks are those of {name}, calibrated to its sites'


def _of_unseen(sites: set[str | None], settings: Settings, model: FoundModel) -> str:
    """How sites that the model does not know were treated; it may know others of their names."""
    if not sites:
        return ''
    named = _listed(sorted(site or 'a site that is not recorded' for site in sites))
    adapted = settings.harmonize.unseen_site == 'adapt'
    scans = 'the scans of the site' if adapted else 'each scan alone'
    here = ' in this dataset' if sites.intersection(model.info.sites) else ''
    return (
        f' The model did not know the site appearance of {named}{here}: it was measured in '
        f'{scans}.'
    )


def _listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return ' and '.join([', '.join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
