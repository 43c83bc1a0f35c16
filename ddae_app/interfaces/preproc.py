"""Nipype interfaces over :mod:`ddae_app.imaging`: files in, files out."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel as nib
import numpy as np
from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    Directory,
    File,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from ddae_app.imaging import (
    bias,
    brain,
    conform,
    grid,
    quality,
    registration,
    slices,
    templates,
    volumes,
)
from ddae_app.imaging.intensities import without_hot_voxels
from ddae_app.settings import Protocol, protocol_from


class _ConformInputSpec(BaseInterfaceInputSpec):
    # Nipype need not read the file, of which the digest is an input.
    in_file = File(
        exists=False, mandatory=True, nohash=True, desc='T1w image as found in the dataset'
    )
    sha256 = traits.Str(desc='of the image, when the run was planned')


class _OutFileOutputSpec(TraitedSpec):
    out_file = File(desc='the image that was made')


class Conform(SimpleInterface):
    """Check a T1w image and bring it to one form: RAS, 3D, float32."""

    input_spec = _ConformInputSpec
    output_spec = _OutFileOutputSpec

    def _run_interface(self, runtime):
        sha256 = self.inputs.sha256 if isdefined(self.inputs.sha256) else None
        image = conform.conform(conform.load_t1w(Path(self.inputs.in_file), sha256))
        out = Path(runtime.cwd) / 'conformed.nii'
        image.to_filename(out)
        self._results['out_file'] = str(out)
        return runtime


class _ExtractBrainInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='conformed T1w')
    method = traits.Enum('hd-bet', 'deepbet', 'template', 'none', 'mask', mandatory=True)
    weights = Directory(desc='HD-BET weights')
    weights_sha256 = traits.Str(desc='of the weights, as they were checked')
    # As of the T1w, the digest stands for it: a mask that is gone ends its scan, and not the run.
    given = File(exists=False, nohash=True, desc='brain mask of the user')
    given_sha256 = traits.Str(desc='of that mask, when the run was planned')
    head = File(exists=True, desc='whole-head template')
    brain = File(exists=True, desc='skull-stripped template')
    mask = File(exists=True, desc='brain mask of the template')
    template = traits.Str(desc='name of the template')
    protocol = traits.Dict(desc='preprocessing protocol')
    device = traits.Str('cpu', usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc='queue for the GPU')
    sloppy = traits.Bool(False, usedefault=True, desc='few iterations')


class _ExtractBrainOutputSpec(TraitedSpec):
    out_mask = File(desc='brain mask on the grid of the T1w')
    kind = traits.Enum('head', 'brain', desc='whole head, or skull-stripped')


class ExtractBrain(SimpleInterface):
    """Brain mask of a scan in its own space, by the chosen method."""

    input_spec = _ExtractBrainInputSpec
    output_spec = _ExtractBrainOutputSpec

    def _run_interface(self, runtime):
        scan = volumes.read(self.inputs.in_file)
        # No method is to see the few voxels that would set the scale of all others.
        calm = without_hot_voxels(np.asarray(scan.dataobj))
        image = nib.Nifti1Image(calm, scan.affine)
        mask = self._mask(image)
        out = Path(runtime.cwd) / 'mask.nii'
        volumes.write(out, mask, image.affine)
        self._results |= {'out_mask': str(out), 'kind': brain.head_kind(image, mask)}
        return runtime

    def _mask(self, image) -> np.ndarray:
        asked = self.inputs
        if asked.method == 'hd-bet':
            return brain.hd_bet_mask(
                image, Path(asked.weights), asked.weights_sha256, asked.device
            )
        if asked.method == 'deepbet':
            # It loads torch, which the other methods do without.
            from ddae_app.imaging.deepbet import deepbet_mask

            return brain.checked_mask(deepbet_mask(image, asked.device), image)
        if asked.method == 'template':
            template = templates.Template(
                asked.template,
                volumes.read(asked.head) if isdefined(asked.head) else None,
                volumes.read(asked.brain),
                volumes.read(asked.mask),
            )
            return brain.template_mask(
                image, template, _grid(protocol_from(asked.protocol)), sloppy=asked.sloppy
            )
        if asked.method == 'mask':
            given = Path(asked.given)
            mask = brain.given_mask(image, given)
            sha256 = asked.given_sha256 if isdefined(asked.given_sha256) else None
            conform.check_unchanged(given, sha256)
            return mask
        return brain.stripped_mask(image)


class _RegisterInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='conformed T1w')
    in_mask = File(exists=True, mandatory=True, desc='its brain mask')
    brain = File(exists=True, mandatory=True, desc='skull-stripped template')
    mask = File(exists=True, mandatory=True, desc='brain mask of the template')
    sloppy = traits.Bool(False, usedefault=True, desc='few iterations')


class _RegisterOutputSpec(TraitedSpec):
    out_xfm = File(desc='ITK affine that resamples the T1w into template space')
    qc = traits.Dict(desc='similarity and stretch')


class RegisterMNI(SimpleInterface):
    """Affine registration of the brain to that of the template, checked afterwards."""

    input_spec = _RegisterInputSpec
    output_spec = _RegisterOutputSpec

    def _run_interface(self, runtime):
        scan, mask = volumes.read(self.inputs.in_file), volumes.read(self.inputs.in_mask)
        affine = registration.register_affine(
            brain.brain_only(scan, np.asarray(mask.dataobj) > 0),
            volumes.read(self.inputs.brain),
            volumes.read(self.inputs.mask),
            sloppy=self.inputs.sloppy,
        )
        affine.check()
        out = Path(runtime.cwd) / 'affine.txt'
        registration.write_itk_affine(affine.matrix, out)
        qc = {
            'registration_correlation': affine.correlation,
            'scale_min': affine.scales[0],
            'scale_max': affine.scales[-1],
            'scale_volume': math.prod(affine.scales),
        }
        self._results |= {'out_xfm': str(out), 'qc': qc}
        return runtime


class _ResampleInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='conformed T1w')
    in_mask = File(exists=True, mandatory=True, desc='its brain mask')
    in_xfm = File(exists=True, mandatory=True, desc='affine to template space')
    protocol = traits.Dict(mandatory=True, desc='preprocessing protocol')


class _ResampleOutputSpec(TraitedSpec):
    out_file = File(desc='the T1w, skull and all')
    out_mask = File(desc='its brain mask')


class ResampleGrid(SimpleInterface):
    """Resample a scan and its brain mask onto the model's grid."""

    input_spec = _ResampleInputSpec
    output_spec = _ResampleOutputSpec

    def _run_interface(self, runtime):
        target = _grid(protocol_from(self.inputs.protocol))
        matrix = registration.read_itk_affine(Path(self.inputs.in_xfm))
        image = registration.resample_to_grid(volumes.read(self.inputs.in_file), matrix, target)
        inside = registration.resample_to_grid(volumes.read(self.inputs.in_mask), matrix, target)
        mask = (np.asarray(inside.dataobj) > 0.5) & (np.asarray(image.dataobj) > 0)
        volume = brain.volume_ml(mask, target.affine)
        brain.check_volume(volume, brain.TEMPLATE_VOLUME_ML, 'in template space')
        out, out_mask = Path(runtime.cwd) / 'resampled.nii', Path(runtime.cwd) / 'mask.nii'
        volumes.write(out, np.asarray(image.dataobj), image.affine)
        volumes.write(out_mask, mask, image.affine)
        self._results |= {'out_file': str(out), 'out_mask': str(out_mask)}
        return runtime


class _CorrectBiasInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image in template space')
    in_mask = File(exists=True, mandatory=True, desc='its brain mask')
    sloppy = traits.Bool(False, usedefault=True, desc='few iterations')


class CorrectBias(SimpleInterface):
    """N4 bias-field correction of the brain; 0 outside it."""

    input_spec = _CorrectBiasInputSpec
    output_spec = _OutFileOutputSpec

    def _run_interface(self, runtime):
        image, mask = volumes.read(self.inputs.in_file), volumes.read(self.inputs.in_mask)
        inside = np.where(np.asarray(mask.dataobj) > 0, np.asarray(image.dataobj), 0)
        corrected = bias.correct_bias(
            nib.Nifti1Image(inside, image.affine), sloppy=self.inputs.sloppy
        )
        out = Path(runtime.cwd) / 'n4.nii'
        volumes.write(out, np.asarray(corrected.dataobj), image.affine)
        self._results['out_file'] = str(out)
        return runtime


class _MeasureBrainInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='preprocessed image')
    in_mask = File(exists=True, mandatory=True, desc='its brain mask')
    template_mask = File(exists=True, mandatory=True, desc='that of the template, from 0 to 1')
    registration_qc = traits.Dict(mandatory=True, desc='how much the scan was stretched')


class _MeasureBrainOutputSpec(TraitedSpec):
    qc = traits.Dict(desc='volume, overlap with the template, contrast of the tissues')


class MeasureBrain(SimpleInterface):
    """Quality measures of a preprocessed image."""

    input_spec = _MeasureBrainInputSpec
    output_spec = _MeasureBrainOutputSpec

    def _run_interface(self, runtime):
        image, mask = volumes.read(self.inputs.in_file), volumes.read(self.inputs.in_mask)
        inside = np.asarray(mask.dataobj) > 0
        expected = np.asarray(volumes.read(self.inputs.template_mask).dataobj) > 0.5
        volume = brain.volume_ml(inside, image.affine)
        qc = {
            'brain_volume_ml': volume / self.inputs.registration_qc['scale_volume'],
            'brain_volume_template_ml': volume,
            'mask_template_dice': brain.dice(inside, expected),
            **quality.tissue_contrast(np.asarray(image.dataobj), inside),
        }
        self._results['qc'] = qc | {'brain_unchecked': quality.unchecked(qc)}
        return runtime


class _ExtractSlicesInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='preprocessed image on the model grid')
    in_mask = File(exists=True, mandatory=True, desc='brain mask')
    protocol = traits.Dict(mandatory=True, desc='preprocessing protocol of the model')


class _ExtractSlicesOutputSpec(TraitedSpec):
    out_file = File(desc='slices, axes left-right, back-front, bottom-top; brain in [0, 1]')
    facts = traits.Dict(desc='scale back to the input, and positions along the z axis of the grid')


class ExtractSlices(SimpleInterface):
    """Cut and scale the slices that the model takes."""

    input_spec = _ExtractSlicesInputSpec
    output_spec = _ExtractSlicesOutputSpec

    def _run_interface(self, runtime):
        protocol = protocol_from(self.inputs.protocol)
        volume, mask = volumes.read(self.inputs.in_file), volumes.read(self.inputs.in_mask)
        stack = slices.extract_slices(
            np.asarray(volume.dataobj), np.asarray(mask.dataobj) > 0, _grid(protocol), protocol
        )
        out = Path(runtime.cwd) / 'slices.nii'
        volumes.write(out, np.moveaxis(stack.data, 0, 2), stack.affine)
        self._results |= {
            'out_file': str(out),
            'facts': {
                'IntensityScale': stack.scale,
                'SliceIndices': list(stack.indices),
                'bright_share': stack.bright_share,
            },
        }
        return runtime


def _grid(protocol: Protocol) -> grid.Grid:
    return grid.model_grid(protocol.template, protocol.grid)
