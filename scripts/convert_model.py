"""Rewrite a DDAE of format 7 in format 8; its weights do not change.

    python scripts/convert_model.py OLD.safetensors NEW.safetensors

Format 8 keeps networks, site appearance and residual correction apart. A model that is converted
renders the same images, bit for bit.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from ddae_app.methods.ddae.bundle import load_bundle
from ddae_app.methods.modelfile import FORMAT_VERSION, METADATA_KEY

APPEARANCE = ('curve', 'edge', 'average', 'effect', 'deviation', 'noise')
RESIDUALS = ('white', 'white_level', 'spread', 'rendered', 'softness')


def main() -> None:
    """Convert one model, and load it as a check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('old', type=Path)
    parser.add_argument('new', type=Path)
    arguments = parser.parse_args()
    with safe_open(arguments.old, framework='pt') as file:
        header = json.loads((file.metadata() or {})[METADATA_KEY])
        weights = {renamed(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if header['format_version'] != 7 or header['info']['method'] != 'ddae':
        parser.error(f'{arguments.old} is not a DDAE of format 7')
    header['format_version'] = FORMAT_VERSION
    config = header['info']['config']
    config['neighbors'] = config.pop('neighbours')
    save_file(weights, arguments.new, {METADATA_KEY: json.dumps(header, sort_keys=True)})
    load_bundle(arguments.new)


def renamed(key: str) -> str:
    """The name of a weight in format 8."""
    if key in APPEARANCE:
        return f'appearance.{key}'
    return f'residuals.{key}' if key in RESIDUALS else f'networks.{key}'


if __name__ == '__main__':
    main()
