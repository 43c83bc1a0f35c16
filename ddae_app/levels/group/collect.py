"""What a run has written, gathered: the medial slice of each scan, before and after."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ddae_app.bids import sidecars
from ddae_app.bids.cohort import Cohort
from ddae_app.bids.layout import Layout, SpaceLayout
from ddae_app.bids.scan import Scan, Space
from ddae_app.engine.inputs import derivative_roots, find_preprocessed, space_of
from ddae_app.errors import ImageError, NotJudgedError, UsageError
from ddae_app.imaging import volumes
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.slices import extract_slices
from ddae_app.imaging.templates import TEMPLATES
from ddae_app.settings import Protocol, Settings

log = logging.getLogger('ddae_app')


@dataclass(frozen=True)
class Outputs:
    """The medial slices of a dataset, before and after.

    Attributes
    ----------
    source : np.ndarray, shape (N, H, W), float32
    harmonized : np.ndarray of that shape, or None
        If the scans were harmonised.
    cohort : pandas.DataFrame, N rows
        ``subject``, ``site``, ``age``, ``sex`` and the columns of ``--biology``.
    target : str
    method : str
        What harmonised them, with the name of the model.
    label_blind : bool
        Whether that was told no age.
    protocol : Protocol
        How the scans were preprocessed.
    """

    source: np.ndarray
    harmonized: np.ndarray | None
    cohort: pd.DataFrame
    target: str
    method: str
    label_blind: bool
    protocol: Protocol


def gather(settings: Settings, scans: Sequence[Scan], cohort: Cohort) -> Outputs:
    """The medial slices of all scans that were preprocessed, or of those harmonised if any was.

    Raises
    ------
    NotJudgedError
        If there are none.
    UsageError
        If the target is no site of theirs.
    """
    layout = Layout(settings.output_dir).in_space(_space(settings, scans))
    known = [scan for scan in scans if cohort[scan].site is not None]
    facts = {scan: _harmonized_facts(layout, scan) for scan in known}
    kinds = Counter(kind for kind in facts.values() if kind)
    kind = kinds.most_common(1)[0][0] if kinds else None
    sources, outputs, rows = [], [], []
    for scan in known:
        if kind and facts[scan] != kind:
            continue
        try:
            source = _medial_slice(settings, scan, layout)
        except ImageError as error:
            log.warning('%s is left out: %s', scan.stem, error)
            continue
        if source is None:
            continue
        sources.append(source)
        if kind:
            outputs.append(_middle(layout.image('harmonized', scan)))
        person = cohort[scan]
        further = [person.further.get(name) for name in settings.evaluate.biology]
        rows.append((scan.participant, person.site, person.age, person.sex, *further))
    if not rows:
        raise NotJudgedError(f'no preprocessed scan of a known site in {settings.output_dir}')
    if len(rows) < len(scans):
        log.warning(
            '%d of %d scans are judged; the others lack a site, preprocessing, or the '
            'harmonization of most', len(rows), len(scans),
        )  # fmt: skip
    table = pd.DataFrame(
        rows, columns=['subject', 'site', 'age', 'sex', *settings.evaluate.biology]
    )
    return Outputs(
        np.stack(sources),
        np.stack(outputs) if kind else None,
        table,
        kind[0] if kind else _target(settings, table),
        kind[1] if kind else 'nothing',
        kind is not None and kind[2],
        layout.space.protocol,
    )


def _target(settings: Settings, table: pd.DataFrame) -> str:
    """The site that baselines are brought to where nothing was harmonised."""
    asked, sites = settings.harmonize.target_site, table['site']
    if asked is not None and asked not in set(sites):
        raise UsageError(
            f'--target-site {asked!r} is not among the sites {", ".join(sorted(set(sites)))}'
        )
    return asked or str(sites.value_counts().index[0])


def _space(settings: Settings, scans: Sequence[Scan]) -> Space:
    """The space in which most of the scans were preprocessed, here or elsewhere."""
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
        raise NotJudgedError(
            f'no scan was preprocessed in {", ".join(map(str, roots))}; run the participant level'
        )
    return spaces[int(np.argmax(counts))]


def _medial_slice(settings: Settings, scan: Scan, layout: SpaceLayout) -> np.ndarray | None:
    """As a model sees it: cut already where the scan was harmonised, else from the whole image."""
    slices, space = layout.image('slices', scan), layout.space
    if slices.is_file():
        return _middle(slices)
    found = find_preprocessed(scan, space, derivative_roots(settings))
    if found is None:
        return None
    image, mask = (np.asarray(volumes.read(file).dataobj) for file in (found.image, found.mask))
    grid = model_grid(space.protocol.template, space.protocol.grid)
    return extract_slices(image, mask > 0, grid, space.protocol).data[0]


def _harmonized_facts(layout: SpaceLayout, scan: Scan) -> tuple[str, str, bool] | None:
    """To which site, and with what, a scan was harmonised, and whether that was label-blind."""
    path = layout.image('harmonized', scan)
    if not path.is_file():
        return None
    facts = sidecars.read(path)
    texts = [facts.get(key) for key in ('TargetSite', 'HarmonizationMethod', 'ModelName')]
    if not all(isinstance(text, str) for text in texts):
        log.warning('%s is left out: its sidecar does not tell how it was made', path.name)
        return None
    target, method, model = map(str, texts)
    return target, f'{method} ({model})', bool(facts.get('LabelBlind'))


def _middle(path: Path) -> np.ndarray:
    """The middle slice of a stack in a file."""
    stack = volumes.read(path).dataobj
    return np.ascontiguousarray(stack[:, :, stack.shape[2] // 2], dtype=np.float32)
