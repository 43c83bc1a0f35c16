"""N4 bias-field correction with SimpleITK."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813

from ddae_app.imaging.intensities import without_hot_voxels

SHRINK_FACTOR = 4
"""N4 works at a quarter of the resolution, because the field is smooth. It takes 2 to 5 s on real
scans, and about thirty times as long at full resolution."""


def correct_bias(image: nib.Nifti1Image, *, sloppy: bool = False) -> nib.Nifti1Image:
    """Divide a scan by its smooth bias field (N4).

    Tustison et al. 2010, doi:10.1109/TMI.2010.2046908.

    Parameters
    ----------
    image : nib.Nifti1Image
        Intensities of 0 or more.
    sloppy : bool
        Fewer iterations, for testing only.

    Returns
    -------
    nib.Nifti1Image
        On the same grid, float32; 0 where the input is 0. A few voxels far brighter than tissue
        stay so, but do not move the field.
    """
    data = np.asarray(image.dataobj, dtype=np.float32)
    # The field is that of the tissue: both Otsu's threshold and N4 have 200 bins over all
    # intensities, which a few voxels can stretch until they hold little else.
    full = sitk.GetImageFromArray(without_hot_voxels(data).T)
    # N4 takes logarithms, so its mask holds only voxels above Otsu's threshold, which are not 0.
    head = sitk.OtsuThreshold(full, 0, 1, 200)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([10, 10] if sloppy else [50, 50, 30, 20])
    factors = [SHRINK_FACTOR] * 3
    n4.Execute(sitk.Shrink(full, factors), sitk.Shrink(head, factors))
    field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(full)).T)
    return nib.Nifti1Image((data / field).astype(np.float32), image.affine)
