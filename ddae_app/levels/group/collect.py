"""Collect the medial slice of each scan, before and after harmonization, from the outputs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.layout import Layout, SpaceLayout
from ddae_app.bids.provenance import read_record
from ddae_app.bids.scan import Scan, Space
from ddae_app.engine.inputs import (
    derivative_roots,
    find_preprocessed,
    preprocessed_not_fetched,
    space_of,
)
from ddae_app.errors import ImageError, NotEvaluableError, UsageError
from ddae_app.files import not_fetched
from ddae_app.imaging import volumes
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.slices import extract_slices
from ddae_app.imaging.templates import TEMPLATES
from ddae_app.settings import Protocol, Settings

log = logging.getLogger('ddae_app')


@dataclass(frozen=True)
class Outputs:
    """The medial slices of a dataset, before and after harmonization.

    Attributes
    ----------
    source : np.ndarray, shape (N, H, W), float32
    harmonized : np.ndarray of that shape, or None
        None if no scan was harmonized.
    cohort : pandas.DataFrame, N rows
        ``subject``, ``site``, ``age``, ``sex`` and the columns of ``--biology``.
    target : str
        The site that the scans were harmonized to; it need not be a site of these scans.
    baseline_target : str
        The site of these scans that methods are harmonized to which know no other: the target
        where it is one of them, else the site of most scans.
    method : str
        The method that harmonized the scans, with the name of the model.
    model_sha256 : str
        Of the file of that model; '' if no scan was harmonized.
    label_blind : bool
        Whether the method received no age.
    protocol : Protocol
        How the scans were preprocessed.
    """

    source: np.ndarray
    harmonized: np.ndarray | None
    cohort: pd.DataFrame
    target: str
    baseline_target: str
    method: str
    model_sha256: str
    label_blind: bool
    protocol: Protocol


class Facts(NamedTuple):
    """How a scan was harmonized; only scans that were harmonized alike are evaluated together."""

    target: str
    method: str
    label_blind: bool
    model_sha256: str
    noise_kept: bool


def gather(settings: Settings, scans: Sequence[Scan], cohort: Cohort) -> Outputs:
    """Collect the medial slices of all harmonized scans, or of all preprocessed scans if none is.

    Raises
    ------
    NotEvaluableError
        If no preprocessed scan of a known site is found.
    UsageError
        If the target is not a site of these scans.
    """
    layout = Layout(settings.output_dir).in_space(_space(settings, scans))
    known = [scan for scan in scans if cohort[scan].site is not None]
    facts = {scan: _harmonized_facts(layout, scan, str(cohort[scan].site)) for scan in known}
    kinds = Counter(kind for kind in facts.values() if kind)
    kind = kinds.most_common(1)[0][0] if kinds else None
    sources, outputs, rows = [], [], []
    for scan in known:
        if kind and facts[scan] != kind:
            continue
        try:
            _check_fetched(layout, scan)
            source = _medial_slice(settings, scan, layout, stored=facts[scan] is not None)
            output = [_middle(layout.image('harmonized', scan))] if kind else []
        except ImageError as error:
            log.warning('The scan %s is excluded from the evaluation: %s', scan.stem, error)
            continue
        if source is None:
            continue
        sources.append(source)
        outputs += output
        person = cohort[scan]
        further = [person.further.get(name) for name in settings.evaluate.biology]
        rows.append((scan.participant, person.site, person.age, person.sex, *further))
    if not rows:
        raise NotEvaluableError(
            f'{settings.output_dir} holds no preprocessed scan of a known site; run the '
            'participant level first, and name the column of the sites with --site-column'
        )
    if len(rows) < len(scans):
        log.warning(
            'Only %d of %d scans can be evaluated; the others have no known site, are not '
            'preprocessed, or were not harmonized like most scans.',
            len(rows), len(scans),
        )  # fmt: skip
    table = pd.DataFrame(
        rows, columns=['subject', 'site', 'age', 'sex', *settings.evaluate.biology]
    )
    target = kind.target if kind else _target(settings, table)
    return Outputs(
        np.stack(sources),
        np.stack(outputs) if kind else None,
        table,
        target,
        target if target in set(table['site']) else _largest_site(table),
        kind.method if kind else 'nothing',
        kind.model_sha256 if kind else '',
        kind is not None and kind.label_blind,
        layout.space.protocol,
    )


def _target(settings: Settings, table: pd.DataFrame) -> str:
    """The site to harmonize the baselines to if no scan was harmonized."""
    asked, sites = settings.harmonize.target_site, table['site']
    if asked is not None and asked not in set(sites):
        raise UsageError(
            f'--target-site {asked!r} is not among the sites {", ".join(sorted(set(sites)))}'
        )
    return asked or _largest_site(table)


def _largest_site(table: pd.DataFrame) -> str:
    return str(table['site'].value_counts().index[0])


def _space(settings: Settings, scans: Sequence[Scan]) -> Space:
    """The space in which most scans were preprocessed, by this run or in another dataset."""
    asked, roots = settings.preproc.template, derivative_roots(settings)
    spaces = [
        space_of(replace(Protocol(), template=template))
        for template in TEMPLATES
        if asked in (None, template)
    ]

    def there(scan: Scan, space: Space) -> bool:
        cut = SpaceLayout(settings.output_dir, space).image('slices', scan)
        return cut.is_file() or find_preprocessed(scan, space, roots) is not None

    counts = [sum(there(scan, space) for scan in scans) for space in spaces]
    if not any(counts):
        for space in spaces:
            for scan in scans:
                if message := preprocessed_not_fetched(scan, space, roots):
                    raise NotEvaluableError(message)
        raise NotEvaluableError(
            f'no preprocessed scan was found in {", ".join(map(str, roots))}; run the participant '
            'level first'
        )
    return spaces[int(np.argmax(counts))]


def _check_fetched(layout: SpaceLayout, scan: Scan) -> None:
    for kind in ('slices', 'harmonized'):
        if message := not_fetched(layout.image(kind, scan)):
            raise ImageError(message)


def _medial_slice(
    settings: Settings, scan: Scan, layout: SpaceLayout, *, stored: bool
) -> np.ndarray | None:
    """The input of a model: the stored slices or, without these, cut from the volume.

    Slices are stored with a harmonized image. Where that is not whole, they may be those of an
    earlier preprocessing.
    """
    slices, space = layout.image('slices', scan), layout.space
    if stored and slices.is_file():
        return _middle(slices)
    found = find_preprocessed(scan, space, derivative_roots(settings))
    if found is None:
        return None
    image, mask = (np.asarray(volumes.read(file).dataobj) for file in (found.image, found.mask))
    grid = model_grid(space.protocol.template, space.protocol.grid)
    return extract_slices(image, mask > 0, grid, space.protocol).data[0]


def _harmonized_facts(layout: SpaceLayout, scan: Scan, site: str) -> Facts | None:
    """How a scan of this site was harmonized; None if it was not, or not whole."""
    path = layout.image('harmonized', scan)
    if not path.is_file():
        return None
    said, record = sidecars.read(path), read_record(path)
    names = ('TargetSite', 'HarmonizationMethod', 'ModelName', 'ModelSHA256')
    texts = [said.get(name) for name in names]
    if record is None or not all(isinstance(text, str) for text in texts):
        problem = 'its harmonization was interrupted, or it was preprocessed anew since'
    elif said.get('SourceSite') != site:
        problem = f'it was harmonized as one of {said.get("SourceSite")}, and is now of {site}'
    else:
        target, method, model, digest = map(str, texts)
        blind, noisy = bool(said.get('LabelBlind')), bool(record.get('KeepNoise'))
        return Facts(target, f'{method} ({model})', blind, digest, noisy)
    log.warning(
        'The image %s is excluded from the evaluation: %s; run the participant level again.',
        path.name, problem,
    )  # fmt: skip
    return None


def _middle(path: Path) -> np.ndarray:
    """The middle slice of a stack that is stored in a file."""
    stack = volumes.read(path).dataobj
    return np.ascontiguousarray(stack[:, :, stack.shape[2] // 2], dtype=np.float32)
