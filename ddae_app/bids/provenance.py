"""What an output was made from, in its sidecar, so that a later run knows what is done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from ddae_app import __version__
from ddae_app.bids import sidecars
from ddae_app.bids.extraction import Extraction
from ddae_app.bids.sidecars import Metadata
from ddae_app.settings import Protocol

Record = dict[str, Any]

KEY = 'MadeFrom'
"""The entry of a sidecar. It is written last and removed first: where it is, the image and
everything that was made with it are complete and belong together."""

STEPS = 'conform, brain, register, N4'
"""The steps of preprocessing in their order; images of other steps are made again."""

MEANING = {
    'RawSHA256': 'T1w image',
    'Template': 'template',
    'Grid': 'grid',
    'Steps': 'steps of preprocessing',
    'SkullStrip': 'skull stripping',
    'SkullStripWeightsSHA256': 'weights of HD-BET',
    'BrainMaskSHA256': 'brain mask',
    'Sloppy': 'sloppy',
    'SoftwareVersion': 'version of ddae-app',
    'Preprocessing': 'preprocessing',
    'ModelSHA256': 'model',
    'SourceSite': 'site of the scan',
    'TargetSite': 'target site',
    'UnseenSitePolicy': 'unseen site',
    'Age': 'age',
    'Sex': 'sex',
    'KeepNoise': 'keep noise',
    'SiteScansSHA256': 'scans of its site',
}
"""How the entries of a record are called where they differ."""


def preprocessing_record(
    raw_sha256: str | None,
    protocol: Protocol,
    extraction: Extraction,
    *,
    sloppy: bool,
) -> Record:
    """Everything that a preprocessed image depends on.

    Parameters
    ----------
    raw_sha256 : str or None
        Of the T1w; None if it cannot be read.
    protocol : Protocol
        Template and grid; its slices do not matter yet.
    extraction : Extraction
    sloppy : bool
        Few iterations.
    """
    return {
        'RawSHA256': raw_sha256,
        'Template': protocol.template,
        'Grid': list(protocol.grid),
        'Steps': STEPS,
        **extraction.record(),
        'Sloppy': sloppy,
        'SoftwareVersion': __version__,
    }


def harmonization_record(
    preprocessing: Record,
    metadata: Metadata,
    site_scans_sha256: str | None,
    *,
    keep_noise: bool,
    sloppy: bool,
) -> Record:
    """Everything that a harmonized image depends on.

    Parameters
    ----------
    preprocessing : dict
        Record of the preprocessed image.
    metadata : dict
        As :func:`~ddae_app.bids.sidecars.harmonization` gives it.
    site_scans_sha256 : str or None
        Digest of the images in which the appearance of an unseen site is measured, as
        :func:`digest_of_images` gives it.
    keep_noise, sloppy : bool
    """
    names = 'ModelSHA256', 'SourceSite', 'TargetSite', 'UnseenSitePolicy', 'Age', 'Sex'
    return {
        'Preprocessing': preprocessing,
        **{name: metadata[name] for name in names},
        'KeepNoise': keep_noise,
        'Sloppy': sloppy,
        'SiteScansSHA256': site_scans_sha256,
        'SoftwareVersion': __version__,
    }


def read_record(image: Path) -> Record | None:
    """What an image was made from; None if its sidecar does not say or is not there."""
    record = sidecars.read(image).get(KEY)
    return record if isinstance(record, dict) else None


def difference(earlier: Record, now: Record) -> str:
    """What changed, in words: ``target site (PhantomA, now PhantomB), model``."""
    parts = []
    for key in [*now, *(key for key in earlier if key not in now)]:
        before, after = earlier.get(key), now.get(key)
        if before == after:
            continue
        name = MEANING.get(key, key)
        short = all(isinstance(v, bool | int | float | str) for v in (before, after))
        parts.append(
            name if key.endswith('SHA256') or not short else f'{name} ({before}, now {after})'
        )
    return ', '.join(parts)


def digest_of_images(images: Sequence[Path]) -> str:
    """One digest of what some images were made from, whatever their order."""
    identities = sorted(
        json.dumps([image.name, read_record(image)], sort_keys=True) for image in images
    )
    return sha256('\n'.join(identities).encode()).hexdigest()
