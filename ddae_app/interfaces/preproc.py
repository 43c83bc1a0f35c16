"""Nipype interfaces over :mod:`ddae_app.imaging`: files in, files out."""

from __future__ import annotations

import math
from pathlib import Path

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
from ddae_app.settings import Protocol, protocol_from


class _ConformInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=False, mandatory=True, desc='T1w image as found in the dataset')
    sha256 = traits.Str(desc='of the image, when the run was planned')


class _ConformOutputSpec(TraitedSpec):
    out_file = File(desc='RAS, 3D, float32')
    kind = traits.Enum('head', 'brain', desc='whole head, or skull-stripped')


class Conform(SimpleInterface):
    """Check a T1w image and bring it to one form."""

    input_spec = _ConformInputSpec
    output_spec = _ConformOutputSpec

    def _run_interface(self, runtime):
        sha256 = self.inputs.sha256 if isdefined(self.inputs.sha256) else None
        image = conform.conform(conform.load_t1w(Path(self.inputs.in_file), sha256))
        out = Path(runtime.cwd) / 'conformed.nii'
        image.to_filename(out)
        self._results |= {'out_file': str(out), 'kind': registration.head_kind(image)}
        return runtime


class _RegisterInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='conformed T1w')
    kind = traits.Enum('head', 'brain', mandatory=True, desc='what the T1w shows')
    head = File(exists=True, desc='whole-head template')
    brain = File(exists=True, mandatory=True, desc='skull-stripped template')
    mask = File(exists=True, mandatory=True, desc='brain mask of the template')
    template = traits.Str(mandatory=True, desc='name of the template')
    sloppy = traits.Bool(False, usedefault=True, desc='few iterations')


class _RegisterOutputSpec(TraitedSpec):
    out_xfm = File(desc='ITK affine that resamples the T1w into template space')
    fixed = File(desc='the template image that was registered to')
    qc = traits.Dict(desc='similarity and stretch')


class RegisterMNI(SimpleInterface):
    """Affine registration to the template image that matches the scan, checked afterwards."""

    input_spec = _RegisterInputSpec
    output_spec = _RegisterOutputSpec

    def _run_interface(self, runtime):
        fixed = self._fixed()
        affine = registration.register_affine(
            volumes.read(self.inputs.in_file),
            volumes.read(fixed),
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
        self._results |= {'out_xfm': str(out), 'fixed': fixed, 'qc': qc}
        return runtime

    def _fixed(self) -> str:
        if self.inputs.kind == 'head' and not isdefined(self.inputs.head):
            raise templates.no_head(self.inputs.template)
        return getattr(self.inputs, self.inputs.kind)


class _ResampleInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='conformed T1w')
    in_xfm = File(exists=True, mandatory=True, desc='affine to template space')
    protocol = traits.Dict(mandatory=True, desc='preprocessing protocol')


class _OutFileOutputSpec(TraitedSpec):
    out_file = File(desc='the image that was made')


class ResampleGrid(SimpleInterface):
    """Resample onto the model's grid."""

    input_spec = _ResampleInputSpec
    output_spec = _OutFileOutputSpec

    def _run_interface(self, runtime):
        target = _grid(protocol_from(self.inputs.protocol))
        matrix = registration.read_itk_affine(Path(self.inputs.in_xfm))
        image = registration.resample_to_grid(volumes.read(self.inputs.in_file), matrix, target)
        out = Path(runtime.cwd) / 'resampled.nii'
        volumes.write(out, np.asarray(image.dataobj), image.affine)
        self._results['out_file'] = str(out)
        return runtime


class _CorrectBiasInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='image in template space')
    sloppy = traits.Bool(False, usedefault=True, desc='few iterations')


class CorrectBias(SimpleInterface):
    """N4 bias-field correction."""

    input_spec = _CorrectBiasInputSpec
    output_spec = _OutFileOutputSpec

    def _run_interface(self, runtime):
        image = bias.correct_bias(volumes.read(self.inputs.in_file), sloppy=self.inputs.sloppy)
        out = Path(runtime.cwd) / 'n4.nii'
        volumes.write(out, np.asarray(image.dataobj), image.affine)
        self._results['out_file'] = str(out)
        return runtime


class _ExtractBrainInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc='bias-corrected image in template space')
    kind = traits.Enum('head', 'brain', mandatory=True, desc='what the image shows')
    method = traits.Enum('hd-bet', 'template', 'none', mandatory=True)
    fixed = File(exists=True, mandatory=True, desc='template image of the same kind')
    mask = File(exists=True, mandatory=True, desc='brain mask of the template')
    registration_qc = traits.Dict(mandatory=True, desc='how much the scan was stretched')
    weights = Directory(desc='HD-BET weights')
    weights_sha256 = traits.Str(desc='of the weights, as they were checked')
    device = traits.Str('cpu', usedefault=True, nohash=True)
    use_gpu = traits.Bool(False, usedefault=True, nohash=True, desc='queue for the GPU')
    sloppy = traits.Bool(False, usedefault=True, desc='few iterations')


class _ExtractBrainOutputSpec(TraitedSpec):
    out_file = File(desc='brain only')
    out_mask = File(desc='brain mask')
    qc = traits.Dict(desc='volume and overlap with the template')


class ExtractBrain(SimpleInterface):
    """Brain mask by the chosen method, and the image inside it."""

    input_spec = _ExtractBrainInputSpec
    output_spec = _ExtractBrainOutputSpec

    def _run_interface(self, runtime):
        image = volumes.read(self.inputs.in_file)
        template = volumes.read(self.inputs.mask)
        mask = self._mask(image, template)
        data = np.asarray(image.dataobj)
        out, out_mask = Path(runtime.cwd) / 'brain.nii', Path(runtime.cwd) / 'mask.nii'
        volumes.write(out, np.where(mask, data, 0), image.affine)
        volumes.write(out_mask, mask, image.affine)
        volume = brain.volume_ml(mask, image.affine)
        qc = {
            'brain_volume_ml': volume / self.inputs.registration_qc['scale_volume'],
            'brain_volume_template_ml': volume,
            'mask_template_dice': brain.overlap_with_template(mask, image.affine, template),
            **quality.tissue_contrast(data, mask),
        }
        self._results |= {'out_file': str(out), 'out_mask': str(out_mask), 'qc': qc}
        return runtime

    def _mask(self, image, template) -> np.ndarray:
        if self.inputs.method == 'hd-bet':
            return brain.hd_bet_mask(
                image,
                Path(self.inputs.weights),
                self.inputs.weights_sha256,
                self.inputs.device,
            )
        if self.inputs.method == 'template':
            fixed = volumes.read(self.inputs.fixed)
            return brain.template_mask(image, fixed, template, sloppy=self.inputs.sloppy)
        return brain.stripped_mask(image, self.inputs.kind)


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
            'facts': {'IntensityScale': stack.scale, 'SliceIndices': list(stack.indices)},
        }
        return runtime


def _grid(protocol: Protocol) -> grid.Grid:
    return grid.model_grid(protocol.template, protocol.grid)
