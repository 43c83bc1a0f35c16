"""Brain extraction with the packaged networks of deepbet.

Fisch et al. 2024, doi:10.1016/j.compbiomed.2024.108845. The weights are those of the deepbet
package 1.0.2 (MIT, Medical Machine Learning Lab, University of Münster), converted by
``scripts/convert_deepbet.py``; their notice lies beside them. The network and the steps around it
are written anew, without the libraries that the package needs.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import load_file
from scipy import ndimage
from torch import nn
from torch.nn import functional

from ddae_app.errors import ImageError

WEIGHTS_FILE = str(resources.files('ddae_app') / 'data' / 'deepbet.safetensors')
LICENSE_FILE = str(resources.files('ddae_app') / 'data' / 'deepbet-LICENSE.txt')

NETWORKS = ('locate', 'segment')
"""The first finds the box of the brain in the whole scan, the second the brain in that box."""

LOCATE_VOXELS = (128, 128, 128)
SEGMENT_VOXELS = (256, 256, 256)
BOX_MARGIN = 0.1
"""The box grows by this share of its size on every side."""

BOX_THRESHOLD = 0.02
"""A plane belongs to the box if more than this share of it is brain."""

Box = tuple[slice, slice, slice]


def deepbet_mask(image: nib.Nifti1Image, device: str) -> np.ndarray:
    """Brain mask by the networks of deepbet.

    Parameters
    ----------
    image : nib.Nifti1Image
        Conformed scan (RAS) of a whole head, defaced or not, or of a stripped brain.
    device : str
        A torch device.

    Returns
    -------
    np.ndarray, bool
        Voxels on the scan's grid whose probability of being brain is above one half. The caller
        chooses the largest object.

    Raises
    ------
    ImageError
        No brain was found in the scan.
    """
    networks = _networks(device)
    scan = torch.from_numpy(np.ascontiguousarray(image.dataobj, dtype=np.float32)).to(device)
    with torch.inference_mode():
        small = _resized(scan, LOCATE_VOXELS)
        low, high = (small.quantile(level) for level in (0.005, 0.995))
        if not high > low:
            raise ImageError(
                'brain extraction found no brain: 99 % of the scan has one intensity; inspect it'
            )
        found = networks['locate'](_normalized(small, low, high)[None, None])[0, 1]
        box = _box(_largest(found.cpu().numpy() > 0.5), scan.shape)
        part = _resized(scan[box], SEGMENT_VOXELS)
        brain = networks['segment'](_normalized(part, low, high)[None, None])[0, 1]
        probability = _resized(brain, scan[box].shape)
    mask = np.zeros(scan.shape, bool)
    mask[box] = probability.cpu().numpy() > 0.5
    return mask


@lru_cache(maxsize=1)
def _networks(device: str) -> dict[str, LinkNet]:
    tensors = load_file(WEIGHTS_FILE, device)
    networks = {}
    for name in NETWORKS:
        network = LinkNet()
        own = {k.removeprefix(f'{name}.'): v for k, v in tensors.items() if k.startswith(name)}
        network.load_state_dict({key: value.float() for key, value in own.items()})
        networks[name] = network.to(device).eval()
    return networks


def _resized(volume: torch.Tensor, shape: tuple[int, ...] | torch.Size) -> torch.Tensor:
    return functional.interpolate(volume[None, None], tuple(shape), mode='nearest-exact')[0, 0]


def _normalized(volume: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Clipped intensities of the mean and standard deviation with which deepbet was trained."""
    clipped = ((volume - low) / (high - low)).clamp(0, 1)
    return 0.226 * (clipped - clipped.mean()) / clipped.std() + 0.449


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if not count:
        raise ImageError(
            'brain extraction found no brain in the scan; inspect it, or use another --skull-strip'
        )
    return labels == 1 + np.bincount(labels.ravel())[1:].argmax()


def _box(found: np.ndarray, shape: tuple[int, ...]) -> Box:
    """The box of the brain, with a margin, in a scan of another shape than the mask."""
    sides = []
    for axis, voxels in enumerate(shape):
        others = tuple(a for a in range(3) if a != axis)
        planes = np.flatnonzero(found.mean(axis=others) > BOX_THRESHOLD)
        if not planes.size:
            raise ImageError(
                'brain extraction found too little brain in the scan; inspect it, or use another '
                '--skull-strip'
            )
        scale = voxels / found.shape[axis]
        center = round(scale * (planes[0] + planes[-1] + 1) / 2)
        size = round(scale * (planes[-1] + 1 - planes[0]) * (1 + 2 * BOX_MARGIN))
        sides.append(slice(max(0, int(center - size / 2)), min(voxels, int(center + size / 2))))
    return sides[0], sides[1], sides[2]


class LinkNet(nn.Module):
    """The network of deepbet: LinkNet (Chaurasia and Culurciello 2017, arXiv:1707.03718) in 3D.

    Takes images of shape (B, 1, X, Y, Z), whose sides are multiples of 32, and returns the
    probabilities of background and brain, shape (B, 2, X, Y, Z). The names of the layers are those
    of the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.init = nn.Sequential(
            nn.Conv3d(1, 16, 7, 2, 3, bias=False),
            nn.InstanceNorm3d(16),
            nn.ReLU(inplace=True),
            nn.MaxPool3d(3, 2, 1),
        )
        self.down0 = _Down(16, 16, stride=1)
        self.down1 = _Down(16, 32)
        self.down2 = _Down(32, 64)
        self.down3 = _Down(64, 128)
        self.up0 = _Up(128, 64)
        self.up1 = _Up(64, 32)
        self.up2 = _Up(32, 16)
        self.up3 = _Up(16, 16, stride=1)
        self.tp_conv1 = nn.Sequential(
            nn.ConvTranspose3d(16, 8, 3, 2, 1, 1), nn.InstanceNorm3d(8), nn.ReLU(inplace=True)
        )
        self.conv = nn.Sequential(
            nn.Conv3d(8, 8, 3, 1, 1), nn.InstanceNorm3d(8), nn.ReLU(inplace=True)
        )
        self.tp_conv2 = nn.ConvTranspose3d(8, 2, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Probabilities of background and brain."""
        start = self.init(x)
        first = self.down0(start)
        second = self.down1(first)
        third = self.down2(second)
        x = self.up0(self.down3(third)) + third
        x = self.up1(x) + second
        x = self.up2(x) + first
        x = self.up3(x) + start
        return torch.softmax(self.tp_conv2(self.conv(self.tp_conv1(x))), 1)


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv3d(channels, out, 3, stride, 1, bias=False),
            nn.InstanceNorm3d(out),
            nn.ReLU(inplace=True),
            nn.Conv3d(out, out, 3, 1, 1, bias=False),
            nn.InstanceNorm3d(out),
        )
        self.downsample = (
            None
            if stride == 1
            else nn.Sequential(
                nn.Conv3d(channels, out, 1, stride, bias=False), nn.InstanceNorm3d(out)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x if self.downsample is None else self.downsample(x)
        return torch.relu_(self.double_conv(x) + kept)


class _Down(nn.Module):
    def __init__(self, channels: int, out: int, stride: int = 2) -> None:
        super().__init__()
        self.block1 = _Block(channels, out, stride)
        self.block2 = _Block(out, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block2(self.block1(x))


class _Up(nn.Module):
    def __init__(self, channels: int, out: int, stride: int = 2) -> None:
        super().__init__()
        inner = channels // 4
        self.conv1 = nn.Sequential(
            nn.Conv3d(channels, inner, 1, bias=False),
            nn.InstanceNorm3d(inner),
            nn.ReLU(inplace=True),
        )
        self.tp_conv = nn.Sequential(
            nn.ConvTranspose3d(inner, inner, 3, stride, 1, stride - 1, bias=False),
            nn.InstanceNorm3d(inner),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            nn.Conv3d(inner, out, 1, bias=False), nn.InstanceNorm3d(out), nn.ReLU(inplace=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(self.tp_conv(self.conv1(x)))
