"""Nipype interfaces over :mod:`ddae_app.reports`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    traits,
)

from ddae_app.imaging import volumes
from ddae_app.reports import charts, figures


class _PlotPreprocInputSpec(BaseInterfaceInputSpec):
    head = File(exists=True, mandatory=True, desc='scan in template space, skull and all')
    brain = File(exists=True, mandatory=True, desc='its brain, bias-corrected')
    mask = File(exists=True, mandatory=True, desc='its brain mask')
    template = File(exists=True, mandatory=True, desc='brain of the template')
    template_mask = File(exists=True, mandatory=True, desc='its brain mask, from 0 to 1')


class _PlotPreprocOutputSpec(TraitedSpec):
    registration = File(desc='scan and template alternating')
    brain = File(desc='scan with the outline of its brain mask')


class PlotPreproc(SimpleInterface):
    """Pictures of the registration and of the brain mask."""

    input_spec = _PlotPreprocInputSpec
    output_spec = _PlotPreprocOutputSpec

    def _run_interface(self, runtime):
        registration, brain = (Path(runtime.cwd) / f'{n}.svg' for n in ('registration', 'brain'))
        images = {
            name: volumes.read(getattr(self.inputs, name))
            for name in ('head', 'brain', 'mask', 'template', 'template_mask')
        }
        figures.plot_registration(
            images['brain'], images['template'], images['template_mask'], registration
        )
        figures.plot_mask(images['head'], images['mask'], brain)
        self._results |= {'registration': str(registration), 'brain': str(brain)}
        return runtime


class _PlotHarmonizationInputSpec(BaseInterfaceInputSpec):
    before = File(exists=True, mandatory=True, desc='slices, brain in [0, 1]')
    after = File(exists=True, mandatory=True, desc='the same, harmonized')
    source_site = traits.Str(mandatory=True)
    target_site = traits.Str(mandatory=True)
    reference = traits.Dict(mandatory=True, desc='intensity quantiles of the target site')
    qc = traits.Dict(mandatory=True, desc='with the place of the largest unexplained change')


class _PlotHarmonizationOutputSpec(TraitedSpec):
    harmonized = File(desc='before, after, difference')
    flicker = File(desc='before and after alternating')
    histogram = File(desc='intensities before and after, and those of the target site')
    planes = File(desc='before, after, difference in three planes; of whole scans alone')


class PlotHarmonization(SimpleInterface):
    """Pictures of what harmonization changed."""

    input_spec = _PlotHarmonizationInputSpec
    output_spec = _PlotHarmonizationOutputSpec

    def _run_interface(self, runtime):
        images = [volumes.read(path) for path in (self.inputs.before, self.inputs.after)]
        before, after = (np.moveaxis(np.asarray(image.dataobj), 2, 0) for image in images)
        target = self.inputs.target_site
        names = 'harmonized', 'flicker', 'histogram'
        paths = {name: Path(runtime.cwd) / f'{name}.svg' for name in names}
        for plot, name in (
            (figures.plot_harmonization, 'harmonized'),
            (figures.plot_flicker, 'flicker'),
        ):
            plot(before, after, paths[name], self.inputs.source_site, target, images[0].affine)
        charts.plot_histogram(before, after, self.inputs.reference, paths['histogram'], target)
        self._results |= {name: str(path) for name, path in paths.items()}
        if len(before) > 1:
            planes, place = Path(runtime.cwd) / 'planes.svg', self.inputs.qc['anatomy_place']
            x, y = (np.asarray(image.dataobj) for image in images)
            figures.plot_planes(x, y, images[0].affine, place, planes)
            self._results['planes'] = str(planes)
        return runtime
