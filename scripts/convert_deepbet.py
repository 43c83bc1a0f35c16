#!/usr/bin/env python
"""Convert the two networks of the deepbet package to ddae_app/data/deepbet.safetensors.

    pip download --no-deps deepbet==1.0.2
    python scripts/convert_deepbet.py deepbet-1.0.2-py3-none-any.whl

The weights of deepbet are numbers of half precision stored in single precision, so that the
conversion loses nothing; the script refuses weights for which that does not hold. The license
(MIT) is written beside them, as it asks for.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from ddae_app.imaging.deepbet import LICENSE_FILE, NETWORKS, WEIGHTS_FILE

MEMBERS = {'locate': 'data/models/bbox_model.pt', 'segment': 'data/models/model.pt'}


def main() -> None:
    """Convert the wheel that the command names."""
    tensors = {}
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        for network in NETWORKS:
            module = torch.jit.load(io.BytesIO(wheel.read(MEMBERS[network])), map_location='cpu')
            for name, tensor in module.state_dict().items():
                half = tensor.half()
                if not torch.equal(half.float(), tensor):
                    sys.exit(f'{network} {name}: half precision would lose something')
                tensors[f'{network}.{name}'] = half.contiguous()
        (notice,) = (name for name in wheel.namelist() if name.endswith('dist-info/LICENSE'))
        Path(LICENSE_FILE).write_bytes(wheel.read(notice))
    source = Path(sys.argv[1]).name
    save_file(tensors, WEIGHTS_FILE, {'source': source, 'license': 'MIT'})
    print(f'{WEIGHTS_FILE}: {len(tensors)} tensors, {Path(WEIGHTS_FILE).stat().st_size} bytes')


if __name__ == '__main__':
    main()
