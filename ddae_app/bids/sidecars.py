"""Contents of the JSON sidecars."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddae_app import __version__
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.extraction import Extraction
from ddae_app.bids.layout import sidecar
from ddae_app.bids.scan import Scan, Space
from ddae_app.settings import RAW

Metadata = dict[str, Any]

DESCRIPTIONS = {
    'preproc': 'Brain only, registered to the template, resampled to the grid of the model, '
    'bias-corrected',
    'brain': 'Brain mask',
    'slices': 'Axial slices as the model sees them; the brain scaled to [0, 1]',
    'harmonized': 'Axial slices re-rendered as if acquired at the target site; same scale as '
    'desc-slices',
    'native': 'The scan as if acquired at the target site, in its own space, resolution and '
    'intensity scale; only the brain differs from the scan',
    'siteeffect': 'What harmonization added to the brain',
}


def read(image: Path) -> Metadata:
    """What the sidecar of an image says; empty where there is none, or it is damaged."""
    try:
        content = json.loads(sidecar(image).read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True)
class ModelFacts:
    """What the sidecars say of the model.

    Attributes
    ----------
    label, name, sha256 : str
        Label of the method, name and digest of the model.
    phantom : bool
        Trained on simulated images.
    """

    label: str
    name: str
    sha256: str
    phantom: bool


def raw_uri(scan: Scan, bids_dir: Path) -> str:
    """BIDS URI of the image that everything came from."""
    return f'bids:{RAW}:{scan.path.relative_to(bids_dir).as_posix()}'


def preproc(space: Space, sources: Sequence[str], extraction: Extraction) -> Metadata:
    """Sidecar of the preprocessed image.

    Parameters
    ----------
    space : Space
    sources : sequence of str
        BIDS URIs of the scan, and of the brain mask that the user had of it.
    extraction : Extraction
        How the brain was extracted.
    """
    return {
        'Description': DESCRIPTIONS['preproc'],
        'Sources': [*sources],
        'SkullStripped': True,
        'GeneratedByVersion': __version__,
        **extraction.metadata(),
        **space.metadata(),
    }


def mask(space: Space, sources: Sequence[str]) -> Metadata:
    """Sidecar of the brain mask, which has the same sources as the preprocessed image."""
    return {
        'Description': DESCRIPTIONS['brain'],
        'Type': 'Brain',
        'Sources': [*sources],
        **space.metadata(),
    }


def slices(space: Space, source: str, *, harmonized: Metadata | None = None) -> Metadata:
    """Sidecar of the slice stack, or with `harmonized` of what became of it."""
    kind = 'slices' if harmonized is None else 'harmonized'
    return {
        'Description': DESCRIPTIONS[kind],
        'Sources': [source],
        'SkullStripped': True,
        'SliceAxis': 'axial',
        'IntensityPercentile': space.protocol.intensity_percentile,
        **space.metadata(),
        **(harmonized or {}),
    }


def native(raw: str, sources: Sequence[str], harmonized: Metadata) -> Metadata:
    """Sidecar of the harmonized scan in its own space.

    Parameters
    ----------
    raw : str
        BIDS URI of the scan.
    sources : sequence of str
        BIDS URIs of what else it is made from.
    harmonized : dict
        What was done.
    """
    return {
        'Description': DESCRIPTIONS['native'],
        'Sources': [raw, *sources],
        'SpatialReference': raw,
        'Resolution': 'That of the scan',
        **harmonized,
    }


def site_effect(harmonized: Metadata) -> Metadata:
    """Sidecar of the difference, from that of the harmonized image, which has the same sources."""
    return {**harmonized, 'Description': DESCRIPTIONS['siteeffect']}


def harmonization(
    model: ModelFacts, covariates: Covariates, target_site: str, unseen_site: str
) -> Metadata:
    """What was done to the slices, as far as it is known before the run."""
    return {
        'HarmonizationMethod': model.label,
        'SourceSite': covariates.site or 'n/a',
        **({'SourceSiteFrom': covariates.site_from} if covariates.site_from else {}),
        'TargetSite': target_site,
        'UnseenSitePolicy': unseen_site,
        'Age': None if math.isnan(covariates.age) else covariates.age,
        'Sex': covariates.sex,
        'ModelName': model.name,
        'ModelSHA256': model.sha256,
        'PhantomModel': model.phantom,
        'SoftwareVersion': __version__,
    }
