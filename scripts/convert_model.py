"""Rewrite a DDAE of format 8 to 11 in format 12; its weights do not change.

    python scripts/convert_model.py OLD.safetensors NEW.safetensors

Format 9 also holds what a calibration is measured against, format 10 how scanners differ, and
format 11 which sites are those of packaged scans, and the subjects of each site instead of its
scans (of a model of medial slices, their slices, which is the number that a converted one has).
Format 12 also holds what is left of the contrast of each site, which a conversion leaves out. A
model that is converted renders the same images, bit for bit; it has no site that a calibration
could keep. The site codes that format 9 could compute are replaced by that of an
unknown site. A model that was calibrated is converted from format 11 only, and has to be
calibrated again to gain what format 12 brings; from earlier formats, calibrate again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ddae_app.methods.ddae.bundle import load_bundle
from ddae_app.methods.ddae.config import ModelConfig
from ddae_app.methods.ddae.remaining import RemainingContrast
from ddae_app.methods.ddae.sharpness import AXES
from ddae_app.methods.modelfile import FORMAT_VERSION, METADATA_KEY


def main() -> None:
    """Convert one model, and load it as a check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('old', type=Path)
    parser.add_argument('new', type=Path)
    arguments = parser.parse_args()
    with safe_open(arguments.old, framework='pt') as file:
        metadata = file.metadata() or {}
        if METADATA_KEY not in metadata:
            parser.error(f'{arguments.old} is no model of ddae-app')
        header = json.loads(metadata[METADATA_KEY])
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    version, info = header['format_version'], header['info']
    if version not in (8, 9, 10, 11) or info['method'] != 'ddae':
        parser.error(f'{arguments.old} is not a DDAE of format 8 to 11')
    if version < 11 and info.get('evidence'):
        parser.error(f'{arguments.old} was calibrated; calibrate again with this version')
    header['format_version'] = FORMAT_VERSION
    if version < 11:
        info['training']['subjects_per_site'] = info['training'].pop('scans_per_site')
    weights['remaining.quantiles'] = RemainingContrast(len(info['sites'])).quantiles
    if info['config'].pop('site_looks', False):
        # What a site looks like was found to say no more than the code of an unknown site.
        unknown = weights['networks.condition.site']
        weights['networks.condition.site'] = unknown.repeat(len(info['sites']) + 1, 1)
        weights = {k: v for k, v in weights.items() if '.condition.look.' not in k}
    if version == 8:
        info |= {'evidence': [], 'networks': ''}
        info['config'] = asdict(ModelConfig()) | info['config']
        weights['residuals.variance'] = torch.zeros_like(weights['residuals.spread'][0])
        weights['residuals.rough'] = torch.zeros(len(AXES))
    save_file(weights, arguments.new, {METADATA_KEY: json.dumps(header, sort_keys=True)})
    load_bundle(arguments.new)


if __name__ == '__main__':
    main()
