"""Nipype interfaces over :mod:`ddae_app.methods`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import pandas as pd
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from ddae_app.imaging import anatomy, brain, conform, native, noise, quality, registration, volumes
from ddae_app.imaging.grid import model_grid
from ddae_app.imaging.slices import training_stacks
from ddae_app.methods.base import AdaptableHarmonizer, StoredHarmonizer
from ddae_app.methods.device import resolve_device

APPEARANCE_NAME = 'appearance.safetensors'


def _load(model: str, sha256: str, **options: Any) -> StoredHarmonizer:
    """The harmonizer in a model file that has not changed since the run was planned."""
    from ddae_app.methods.find import load_harmonizer  # which loads PyTorch

    harmonizer = load_harmonizer(model, **options)
    conform.check_unchanged(Path(model), sha256)
    return harmonizer


class _HarmonizeInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='slices, brain in [0, 1]')
    model = File(exists=True, mandatory=True, desc='model file')
    model_sha256 = traits.Str(mandatory=True, desc='of the model, when the run was planned')
    source_site = traits.Str(mandatory=True, desc='where the scan was acquired')
    target_site = traits.Str(mandatory=True, desc='the site to harmonize to')
    unseen_site = traits.Enum('refuse', 'agnostic', 'adapt', usedefault=True)
    appearance = File(
        exists=True, desc='measured appearance of a site that the model does not know'
    )
    site_scans = traits.Int(0, usedefault=True, desc='number of scans in which it was measured')
    keep_noise = traits.Bool(False, usedefault=True, desc='do not denoise')
    # NaN differs from itself, so that nipype would never find the step done.
    age = traits.Float(-1.0, usedefault=True, desc='years, negative if unknown')
    sex = traits.Enum('', 'M', 'F', usedefault=True)
    sloppy = traits.Bool(False, usedefault=True, desc='few steps')
    batch_size = traits.Int(8, usedefault=True, nohash=True, desc='slices at once')
    device = traits.Str('auto', usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc='queue for the GPU')


class _HarmonizeOutputSpec(TraitedSpec):
    out_file = File(desc='slices at the target site, same scale as the input')
    difference = File(desc='what that adds to the input')
    qc = traits.Dict(desc='similarity to the input, distance to the target site')
    provenance = traits.Dict(desc='what was run')


class Harmonize(SimpleInterface):
    """Render the slices of one scan as if acquired at the target site."""

    input_spec = _HarmonizeInputSpec
    output_spec = _HarmonizeOutputSpec

    def _run_interface(self, runtime):
        inputs = self.inputs
        options = {
            'device': inputs.device,
            'unseen_site': inputs.unseen_site,
            'keep_noise': inputs.keep_noise,
            'batch_size': inputs.batch_size,
        }
        if inputs.sloppy:
            options['steps'] = 2
        harmonizer = _load(inputs.model, inputs.model_sha256, **options)
        if isdefined(inputs.appearance):
            adaptable = cast(AdaptableHarmonizer, harmonizer)
            harmonizer = adaptable.with_site(inputs.source_site, Path(inputs.appearance))
        image = volumes.read(inputs.in_file)
        before = np.ascontiguousarray(np.moveaxis(np.asarray(image.dataobj), 2, 0))
        after = harmonizer.transform(
            before[None],
            pd.DataFrame(
                {
                    'site': [inputs.source_site],
                    'age': inputs.age if inputs.age >= 0 else float('nan'),
                    'sex': inputs.sex or None,
                }
            ),
            inputs.target_site,
        )[0]
        out = Path(runtime.cwd) / 'harmonized.nii'
        difference = out.with_name('difference.nii')
        volumes.write(out, np.moveaxis(after, 0, 2), image.affine)
        volumes.write(difference, np.moveaxis(after - before, 0, 2), image.affine)
        levels, reference = harmonizer.info.typical_intensities(inputs.target_site)
        qc = {
            'noise_sd': noise.noise_sd(before),
            **quality.fidelity(before, after),
            **anatomy.evaluate_anatomy(before, after, image.affine),
            'target_distance_before': quality.quantile_distance(before, levels, reference),
            'target_distance_after': quality.quantile_distance(after, levels, reference),
        }
        self._results |= {
            'out_file': str(out),
            'difference': str(difference),
            'qc': qc | {'harmonization_unchecked': quality.unchecked(qc)},
            'provenance': {
                'SourceSiteKnown': inputs.source_site in harmonizer.info.source_sites,
                'ScansAdaptedTo': inputs.site_scans,
                **harmonizer.facts(),
                'Device': str(resolve_device(inputs.device)),
            },
        }
        return runtime


class _MeasureAppearanceInputSpec(BaseInterfaceInputSpec):
    model = File(exists=True, mandatory=True, desc='model file')
    model_sha256 = traits.Str(mandatory=True, desc='of the model, when the run was planned')
    site = traits.Str(mandatory=True, desc='a site that the model does not know')
    images = traits.List(File(exists=True), mandatory=True, desc='preprocessed scans of the site')
    masks = traits.List(File(exists=True), mandatory=True, desc='their brain masks')
    participants = traits.List(traits.Str, mandatory=True, desc='their participants')
    device = traits.Str('auto', usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc='queue for the GPU')


class _MeasureAppearanceOutputSpec(TraitedSpec):
    out_file = File(desc='appearance of the site')


class MeasureAppearance(SimpleInterface):
    """Measure the appearance of a site in its scans."""

    input_spec = _MeasureAppearanceInputSpec
    output_spec = _MeasureAppearanceOutputSpec

    def _run_interface(self, runtime):
        inputs = self.inputs
        loaded = _load(inputs.model, inputs.model_sha256, device=inputs.device)
        harmonizer = cast(AdaptableHarmonizer, loaded)
        protocol, stacks, subjects = harmonizer.info.protocol, [], []
        grid = model_grid(protocol.template, protocol.grid)
        for image, mask, participant in zip(
            inputs.images, inputs.masks, inputs.participants, strict=True
        ):
            scan, brain = (np.asarray(volumes.read(file).dataobj) for file in (image, mask))
            stacks.append(training_stacks(scan, brain > 0, grid, protocol))
            subjects += [participant] * len(stacks[-1])
        out = Path(runtime.cwd) / APPEARANCE_NAME
        harmonizer.measure_site(np.concatenate(stacks), inputs.site, subjects, out)
        self._results['out_file'] = str(out)
        return runtime


class _BringBackInputSpec(BaseInterfaceInputSpec):
    # Nipype need not read the file, of which the digest is an input.
    t1w = File(exists=False, mandatory=True, nohash=True, desc='T1w image as found in the dataset')
    sha256 = traits.Str(desc='of the image, when the run was planned')
    xfm = File(exists=True, mandatory=True, desc='its affine to template space')
    slices = File(exists=True, mandatory=True, desc='all slices, brain in [0, 1]')
    difference = File(exists=True, mandatory=True, desc='what harmonization adds to them')


class _BringBackOutputSpec(TraitedSpec):
    out_file = File(desc='the T1w with the difference added, header and all')
    difference = File(desc='the difference alone, in the units of the T1w')
    facts = traits.Dict(desc='whether the T1w is skull-stripped')


class BringBack(SimpleInterface):
    """Add what harmonization changed to the scan in its own space."""

    input_spec = _BringBackInputSpec
    output_spec = _BringBackOutputSpec

    def _run_interface(self, runtime):
        t1w = Path(self.inputs.t1w)
        sha256 = self.inputs.sha256 if isdefined(self.inputs.sha256) else None
        stored = conform.read_nifti(t1w, sha256)
        scan = conform.conform(conform.checked_t1w(t1w, stored))
        matrix = registration.read_itk_affine(Path(self.inputs.xfm))
        slices, difference = (
            volumes.read(file) for file in (self.inputs.slices, self.inputs.difference)
        )
        before, change = (np.asarray(image.dataobj) for image in (slices, difference))
        shown = nib.Nifti1Image((before > 0).astype(np.float32), slices.affine)
        mask = volumes.resample(shown, np.linalg.inv(matrix), scan.shape, scan.affine) > 0.5
        change = native.in_file_order(
            native.native_difference(
                native.in_scan_units(before, change, scan, matrix, slices.affine),
                before > 0,
                slices.affine,
                matrix,
                scan,
            ),
            stored,
        )
        out, effect = (Path(runtime.cwd) / f'{name}.nii.gz' for name in ('native', 'effect'))
        native.write_like(stored, native.write_changed(stored, change, out), effect)
        self._results |= {
            'out_file': str(out),
            'difference': str(effect),
            'facts': {'SkullStripped': brain.head_kind(scan, mask) == 'brain'},
        }
        return runtime
