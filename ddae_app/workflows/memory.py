"""How much memory is planned for the steps that hold a scan in its own voxels."""

from __future__ import annotations

PROCESS_GB = 0.5
"""Of a process, whatever the scan."""

BYTES_PER_VOXEL = {'conform': 14, 'extract_brain': 24, 'register_mni': 14, 'bring_back': 34}
"""Of each step, beside that; measured in a scan of 0.5 mm, of 68 million voxels. To conform a scan
takes most where whole numbers are scaled, and a half more where they are of 64 bits."""


def planned_gb(step: str, voxels: int, least: float) -> float:
    """The memory that nipype plans with for a step.

    Parameters
    ----------
    step : str
        One of `BYTES_PER_VOXEL`.
    voxels : int
        Of the scan; 0 if they are not known.
    least : float
        GB, of a scan of usual voxels.
    """
    return max(least, PROCESS_GB + BYTES_PER_VOXEL[step] * voxels / 1e9)
