"""Affine registration to MNI152 with ANTs, and the check whether it succeeded."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import ants
import nibabel as nib
import numpy as np

from ddae_app.errors import ImageError, RegistrationError
from ddae_app.imaging import volumes
from ddae_app.imaging.grid import Grid

MIN_CORRELATION = 0.33
"""Least correlation with the template inside its brain mask. Measured: 0.38 or more for real scans
(``benchmarks/brain.py``), and less for the broken heads of its option ``--broken``. A scan that is
flipped left to right cannot be detected."""

OTHER_CONTRAST = -0.2
"""Below this correlation, a scan is of another contrast: what is bright in it is dark in T1w."""

SCALE_RANGE = (0.7, 1.6)
"""Plausible scale from scan to template along each principal axis; adult heads measured 0.95 to
1.33."""

RANDOM_SEED = 14193
"""ANTs samples voxels at random. With this seed they are the same every time."""

ITERATIONS = {'aff_iterations': (2100, 1200, 1200, 10)}
"""At most, at each of the four resolutions of ANTs."""

FEW_ITERATIONS = {
    'aff_iterations': (100, 40),
    'aff_shrink_factors': (6, 3),
    'aff_smoothing_sigmas': (3, 1),
}
"""At two resolutions."""

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Registration:
    """An affine from a scan to a template.

    Attributes
    ----------
    matrix : np.ndarray, shape (4, 4)
        Template mm to scan mm, RAS: the direction in which images are resampled.
    correlation : float
        Pearson correlation with the template inside the template's brain mask.
    scales : tuple of float
        Scale from scan to template along the principal axes, ascending.
    """

    matrix: np.ndarray
    correlation: float
    scales: tuple[float, float, float]

    def check(self, advice: str = '') -> None:
        """Refuse a registration that failed.

        Parameters
        ----------
        advice : str
            What to try before all else, ending in a space.

        Raises
        ------
        RegistrationError
            The correlation is too low, or a scale is implausible.
        """
        low, high = SCALE_RANGE
        if self.correlation < OTHER_CONTRAST:
            raise RegistrationError(
                'not T1-weighted: what is bright in the template is dark in the scan, as in T2w '
                f'(correlation {self.correlation:.2f}, expected at least {MIN_CORRELATION}); name '
                'the file by its contrast, or exclude it with --bids-filter-file'
            )
        if self.correlation < MIN_CORRELATION:
            raise RegistrationError(
                f'registration to the template failed: correlation {self.correlation:.2f} inside '
                f'the brain, expected at least {MIN_CORRELATION}; {advice}inspect the scan (is '
                'it cropped, upside down, of another contrast, or skull-stripped badly?) or '
                'exclude it with --bids-filter-file'
            )
        if self.scales[0] < low or self.scales[-1] > high:
            raise RegistrationError(
                f'registration to the template failed: scale {self.scales[0]:.2f} to '
                f'{self.scales[-1]:.2f}, expected {low} to {high}; is this a whole adult brain?'
            )


def register_affine(
    moving: nib.Nifti1Image,
    fixed: nib.Nifti1Image,
    fixed_mask: nib.Nifti1Image,
    *,
    sloppy: bool = False,
) -> Registration:
    """Register a scan to the template image of the same kind.

    Avants et al. 2011, doi:10.1016/j.neuroimage.2010.09.025. The same input gives the same bytes
    if ANTs runs on one thread and ``ANTS_RANDOM_SEED`` is in the environment before ANTs is
    imported. The command line sets both.

    Parameters
    ----------
    moving : nib.Nifti1Image
        The conformed scan.
    fixed, fixed_mask : nib.Nifti1Image
        The template and its brain mask, on one grid.
    sloppy : bool
        Fewer iterations, for testing only.

    Raises
    ------
    ImageError
        ANTs failed to compute a transform.
    """
    # ITK takes no axes that are not at right angles: the shear becomes a part of the affine.
    sheared = volumes.is_sheared(moving.affine, moving.shape)
    frame = volumes.straight(moving.affine) if sheared else moving.affine
    upright = nib.Nifti1Image(np.asarray(moving.dataobj), frame)
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = ants.registration(
                to_ants(fixed),
                to_ants(upright),
                'Affine',
                outprefix=f'{folder}/',
                random_seed=RANDOM_SEED,
                **(FEW_ITERATIONS if sloppy else ITERATIONS),
            )
            transform = ants.read_transform(result['fwdtransforms'][0])
        except (RuntimeError, ValueError, IndexError) as e:
            raise ImageError(f'ANTs could not register the scan ({e}); inspect the image') from e
    matrix = _ras_matrix(transform)
    if sheared:
        matrix = moving.affine @ np.linalg.inv(frame) @ matrix
    return evaluate_affine(moving, matrix, fixed, fixed_mask)


def evaluate_affine(
    moving: nib.Nifti1Image,
    matrix: np.ndarray,
    fixed: nib.Nifti1Image,
    fixed_mask: nib.Nifti1Image,
) -> Registration:
    """Measure how well a matrix aligns a scan with a template.

    Parameters
    ----------
    moving : nib.Nifti1Image
        The conformed scan.
    matrix : np.ndarray, shape (4, 4)
        Template mm to scan mm.
    fixed, fixed_mask : nib.Nifti1Image
        The template and its brain mask, on one grid.
    """
    warped = volumes.resample(moving, matrix, fixed.shape, fixed.affine)
    inside = np.asarray(fixed_mask.dataobj) > 0
    reference = np.asarray(fixed.dataobj)[inside]
    with np.errstate(invalid='ignore', divide='ignore'):
        correlation = float(np.nan_to_num(np.corrcoef(warped[inside], reference)[0, 1]))
    low, middle, high = sorted(1 / np.linalg.svd(matrix[:3, :3], compute_uv=False))
    return Registration(matrix, correlation, (float(low), float(middle), float(high)))


def resample_to_grid(image: nib.Nifti1Image, matrix: np.ndarray, grid: Grid) -> nib.Nifti1Image:
    """Resample a scan to a grid in template space: trilinear, 0 outside the scan.

    Parameters
    ----------
    image : nib.Nifti1Image
        The conformed scan.
    matrix : np.ndarray, shape (4, 4)
        Template mm to scan mm.
    grid : Grid
        The grid to resample to.
    """
    data = volumes.resample(image, matrix, grid.shape, grid.affine)
    return nib.Nifti1Image(data, grid.affine)


def write_itk_affine(matrix: np.ndarray, path: Path) -> None:
    """Write a template-to-scan matrix as an ITK text file, for ANTs, SimpleITK and Slicer.

    With ``antsApplyTransforms -t`` it resamples the scan to template space.
    """
    lps = LPS @ matrix @ LPS
    numbers = [*lps[:3, :3].ravel(), *lps[:3, 3]]
    path.write_text(
        '#Insight Transform File V1.0\n#Transform 0\n'
        'Transform: AffineTransform_double_3_3\n'
        f'Parameters: {" ".join(f"{value:.17g}" for value in numbers)}\n'
        'FixedParameters: 0 0 0\n'
    )


def read_itk_affine(path: Path) -> np.ndarray:
    """Read a file of :func:`write_itk_affine`: template mm to scan mm, RAS, shape (4, 4)."""
    return _ras_matrix(ants.read_transform(str(path)))


def to_ants(image: nib.Nifti1Image) -> ants.ANTsImage:
    """Convert an image for ANTs, whose axes point to the left and to the back (LPS)."""
    affine = LPS @ image.affine
    spacing = nib.affines.voxel_sizes(image.affine)
    return ants.from_numpy(
        np.asarray(image.dataobj, dtype=np.float32),
        origin=affine[:3, 3].tolist(),
        spacing=spacing.tolist(),
        direction=affine[:3, :3] / spacing,
    )


def _ras_matrix(transform: ants.ANTsTransform) -> np.ndarray:
    parameters = np.asarray(transform.parameters, dtype=float)
    center = np.asarray(transform.fixed_parameters, dtype=float)
    linear = parameters[:9].reshape(3, 3)
    lps = np.eye(4)
    lps[:3, :3] = linear
    lps[:3, 3] = parameters[9:] + center - linear @ center
    return LPS @ lps @ LPS
