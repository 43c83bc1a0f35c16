"""Writing a derivative: image and sidecar, each whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from ddae_app.files import write_atomically
from ddae_app.imaging import volumes


class _SinkInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='what an earlier step made')
    out_path = traits.Str(mandatory=True, desc='where it goes in the output dataset')
    sidecar = traits.Str('', usedefault=True, desc='where its JSON goes; empty: none')
    metadata = traits.Dict(desc='known before the run')
    results = traits.List(traits.Dict, desc='found by the run')


class _SinkOutputSpec(TraitedSpec):
    out_file = File(desc='the file in the output dataset')


class DerivativeSink(SimpleInterface):
    """Put a file, and the JSON that describes it, into the output dataset."""

    input_spec = _SinkInputSpec
    output_spec = _SinkOutputSpec
    # An output that was deleted must come back, whatever nipype remembers of it.
    _always_run = True

    def _run_interface(self, runtime):
        source, target = Path(self.inputs.in_file), Path(self.inputs.out_path)
        # Sidecar first: where there is an image, it is complete.
        if self.inputs.sidecar:
            content = dict(self.inputs.metadata)
            for found in self.inputs.results or []:
                content |= found
            text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)
            write_atomically(Path(self.inputs.sidecar), text + '\n')
        if source.suffix == '.nii':
            image = volumes.read(source)
            data = np.asarray(image.dataobj)
            volumes.write(target, data > 0 if data.dtype == np.uint8 else data, image.affine)
        else:
            write_atomically(target, source.read_bytes())
        self._results['out_file'] = str(target)
        return runtime
