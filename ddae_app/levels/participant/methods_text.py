"""The methods text of a run: what its workflows do, with which software and which model."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from ddae_app import __version__
from ddae_app.bids.layout import RunFiles, SpaceLayout
from ddae_app.bids.provenance import Record, read_record
from ddae_app.bids.scan import Scan
from ddae_app.engine.inputs import derivative_roots, find_preprocessed, skull_strip_of
from ddae_app.levels.participant.others import MOST_RUNS
from ddae_app.methods.ddae.info import DDAEInfo
from ddae_app.methods.find import FoundModel
from ddae_app.reports.boilerplate import plain, read_boilerplate
from ddae_app.settings import Settings
from ddae_app.workflows.harmonize import harmonization_methods
from ddae_app.workflows.preproc import preprocessing_methods

PREPROCESSING = ('antspyx', 'SimpleITK')
NETWORKS = {'hd-bet': ('HD_BET', 'nnunetv2', 'torch'), 'deepbet': ('torch',)}
"""Packages that do the work; those of networks by method of brain extraction."""

REFERENCES = {'SimpleITK': ' [@lowekamp2013]', 'torch': ' [@paszke2019]'}

SLOPPY = 'Only few iterations were run (--sloppy): the results are not suitable for analysis.'

_COMPUTED = re.compile(rf'This was computed with .+?\.(?=$| {re.escape(SLOPPY)})')
"""The sentence that names software with its versions."""


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
            f'{plain(model.info.name)} (SHA-256 {model.sha256[:16]})'
            f'{_of_networks(model)}{of_phantoms}.'
            + _of_unseen(set(sites) - set(model.info.source_sites), settings, model),
        )
    if settings.preproc.sloppy:
        closing.append(SLOPPY)
    return '\n\n'.join([opening, *parts, ' '.join(closing)]).strip()


def text_of_outputs(
    settings: Settings,
    layout: SpaceLayout,
    model: FoundModel | None,
    scans: Sequence[Scan],
) -> str:
    """The methods text of scans that earlier runs finished, from what their sidecars record.

    It is that of an earlier run if one says the same, since that also names the software which
    the run used. The text is empty where none is true of all these scans: no scan has outputs, or
    they were harmonized by another model than that of the run, or in several ways.

    Parameters
    ----------
    settings : Settings
        Of the run.
    layout : SpaceLayout
        Of the output folder.
    model : FoundModel or None
        None if the run stops after preprocessing.
    scans : sequence of Scan
    """
    roots = derivative_roots(settings)
    found = (find_preprocessed(scan, layout.space, roots) for scan in scans)
    images = [files.image for files in found if files]
    protocol = layout.space.protocol
    strip = sorted({skull_strip_of(image) for image in images})
    parts = [preprocessing_methods(protocol, method) for method in strip]
    records = [read_record(layout.image('harmonized', scan)) for scan in scans] if model else []
    harmonized = [record for record in records if record]
    made = [*(read_record(image) or {} for image in images), *harmonized]
    sloppy = any(record.get('Sloppy') for record in made)
    asked = settings.harmonize
    if model and harmonized:
        how, *others = {_how(record) for record in harmonized}
        sha256, target, unseen_site, keep_noise = how
        if others or sha256 != model.sha256 or target not in model.info.sites:
            return ''
        parts.append(harmonization_methods(model.method.describe(keep_noise=keep_noise), protocol))
        asked = replace(asked, target_site=target, unseen_site=unseen_site)
    if not parts:
        return ''
    text = methods_text(
        parts,
        replace(settings, harmonize=asked, preproc=replace(settings.preproc, sloppy=sloppy)),
        model if harmonized else None,
        extractions=(),
        sites=[_site(record) for record in harmonized],
    )
    return _with_versions(_without_versions(text), layout.runs())


def _how(record: Record) -> tuple[Any, ...]:
    """What the methods text says of a harmonization, from the record of its image."""
    return (
        record.get('ModelSHA256'),
        record.get('TargetSite'),
        record.get('UnseenSitePolicy'),
        bool(record.get('KeepNoise')),
    )


def _site(record: Record) -> str | None:
    site = record.get('SourceSite')
    return None if site == 'n/a' else site


def _with_versions(text: str, runs: Sequence[RunFiles]) -> str:
    """The text as the latest run wrote it that says the same, or else as it is.

    A run writes its text into its own logs, so that the next of many jobs finds it there and
    need not look at the runs of all others.
    """
    for run in runs[:MOST_RUNS]:
        with suppress(OSError, ValueError):  # not there, or spoiled
            earlier = read_boilerplate(run.citations['md'])
            if _without_versions(earlier) == text:
                return earlier
    return text


def _without_versions(text: str) -> str:
    return re.sub(' +', ' ', _COMPUTED.sub('', text)).strip()


def _target(settings: Settings, model: FoundModel) -> str:
    """The target site; a site of the dataset may have the name of a packaged one."""
    site = settings.harmonize.target_site
    of_others = site in model.info.sites and site not in model.info.source_sites
    of_program = ', of reference scans that come with the program' if of_others else ''
    return f'{plain(str(site))}{of_program}'


def _of_networks(model: FoundModel) -> str:
    """Whose networks a calibrated model has."""
    if not isinstance(model.info, DDAEInfo) or not model.info.networks:
        return ''
    name = model.info.networks.rsplit(' ', 1)[0]
    return f', whose networks are those of {plain(name)}, calibrated to its sites'


def _of_unseen(sites: set[str | None], settings: Settings, model: FoundModel) -> str:
    """How sites that the model does not know were treated; it may know others of their names."""
    if not sites:
        return ''
    named = _listed(sorted(plain(site or 'a site that is not recorded') for site in sites))
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
