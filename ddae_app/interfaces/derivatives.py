"""Writing a derivative: image and sidecar, each whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from ddae_app.files import write_atomically
from ddae_app.imaging import volumes


class _SinkInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='what an earlier step made')
    out_path = traits.Str(mandatory=True, desc='where it goes in the output dataset')
    sidecar = traits.Str('', usedefault=True, desc='where its JSON goes; empty: none')
    metadata = traits.Dict(desc='known before the run')
    results = traits.List(traits.Dict, desc='measured by the run')
    record = traits.Dict(desc='added to the sidecar after everything else is written')
    voids = traits.List(
        traits.Tuple(traits.Str, traits.Str),
        desc='sidecars and their entries that no longer hold once this is written',
    )
    after = traits.List(traits.Str, desc='what has to be written before')


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
        for sidecar, entry in self.inputs.voids or []:
            _forget(Path(sidecar), entry)
        # Sidecar first: where there is an image, it is complete.
        content: dict[str, Any] = {}
        if self.inputs.sidecar:
            content |= self.inputs.metadata
            for result in self.inputs.results or []:
                content |= result
            _write_json(Path(self.inputs.sidecar), content)
        if source.suffix == '.nii':
            image = volumes.read(source)
            data = np.asarray(image.dataobj)
            data = data > 0 if data.dtype == np.uint8 else data
            volumes.write(target, data, image.affine, durable=True)
        else:
            write_atomically(target, source.read_bytes())
        if isdefined(self.inputs.record):
            _write_json(Path(self.inputs.sidecar), content | self.inputs.record)
        self._results['out_file'] = str(target)
        return runtime


def _forget(sidecar: Path, entry: str) -> None:
    """Take an entry out of a sidecar, if it is there."""
    try:
        content = json.loads(sidecar.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(content, dict) and content.pop(entry, None) is not None:
        _write_json(sidecar, content)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    # JSON has no number that is not finite; a measure without a value is left out.
    finite = {k: v for k, v in content.items() if not isinstance(v, float) or math.isfinite(v)}
    text = json.dumps(finite, indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False)
    write_atomically(path, text + '\n')
