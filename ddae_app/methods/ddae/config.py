"""Settings of a network and of its training, frozen and validated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ddae_app.errors import ModelError

SCHEDULES = ('linear', 'cosine')
PREDICTIONS = ('epsilon', 'v')
TIMES = ('uniform', 'lognormal')

BATCH_SIZE = 8
"""Slices at once in rendering; more are no faster on a CPU."""

POSITION_WAVES = 8
"""Sines, and as many cosines, that encode the position of a slice in a scan."""


CURVE_LEVELS = 33
"""Quantile levels at which a contrast curve is known, evenly from 0 to 1."""

EDGE_PIXELS = 4
"""Depth to which the edge of the brain is distinguished from its interior."""


def _within(config: object, name: str, low: float, high: float) -> None:
    value = getattr(config, name)
    if not low <= value <= high:
        raise ModelError(f'{name} is {value}; give a number from {low} to {high}')


def _among(config: object, name: str, choices: tuple) -> None:
    value = getattr(config, name)
    if value not in choices:
        raise ModelError(f'{name} is {value!r}; choose among {", ".join(map(str, choices))}')


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the networks and of the noise process.

    Attributes
    ----------
    image_size : int
        Height and width of a slice, pixels (paper: 128).
    depth : int
        Slices of a scan; with more than one, the networks are given the position (paper: 1).
    neighbors : int
        Slices on either side that the noise network sees as well, where a volume has several. A
        scan of one slice shows it that slice again.
    volume_depth : int
        Slices of the volumes among which the networks know the position of a slice; 0 for those
        of a scan. So networks that were trained on whole volumes also take their middle slice.
    first_slice : int
        Position in the volume of the first slice of a scan.
    unshuffle : {1, 2, 4}
        The networks see ``unshuffle**2`` channels at ``image_size / unshuffle``.
    channels : int
        Channels of the first level, a multiple of 4.
    multipliers : tuple of int
        Channels of each level over ``channels``; each further level halves the resolution.
    blocks : int
        Residual blocks per level of the noise network; the encoder has one.
    attention : tuple of int
        Feature-map sizes that get self-attention.
    z_u_dim : int
        Size of the unknown-variance latent.
    z_u_noise : float
        Above 0, ``z_u`` has unit variance and training adds noise of this standard deviation.
    age_dim, sex_dim, site_dim : int
        Sizes of the three groups that make up the known-variance latent ``z_k``.
    dropout : float
        In the residual blocks of the noise network.
    timesteps : int
        Noise levels T.
    schedule : {'linear', 'cosine'}
        Linear betas (Ho et al. 2020) or cosine alpha-bar (Nichol and Dhariwal 2021).
    prediction : {'epsilon', 'v'}
        What the network is asked for: the noise, or v (Salimans and Ho 2022).
    times : {'uniform', 'lognormal'}
        How training spreads over the noise levels: evenly in time (Ho et al. 2020), or most where
        image and noise are about equal (Karras et al. 2022).
    condition_dropout : float
        Chance, per group and image, that training shows the null token. At 0 the null tokens are
        untrained unless labels are missing.
    encoder_augment : bool
        Whether training randomizes the contrast of the semantic encoder's input.
    site_curve : bool
        Whether every image is brought to a common contrast by a curve of its site, and back by
        that of the target.
    site_edge : bool
        Whether the same is done to the edge of the brain by its depth, where pixels are mixed.
    site_average : bool
        Whether the networks see deviations from the average image of the site; without it, from
        mid-gray. Then the networks need not learn what a site does to all scans alike.
    coordinates : bool
        Whether the networks are given the coordinates of each pixel.
    noise_corrected : bool
        Whether training accounts for the noise of the images themselves, so that the networks
        estimate the clean image and not another noisy one.

    Raises
    ------
    ModelError
        If a value is out of range or the sizes do not divide.
    """

    image_size: int = 128
    depth: int = 1
    neighbors: int = 0
    volume_depth: int = 0
    first_slice: int = 0
    unshuffle: int = 1
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    z_u_dim: int = 512
    z_u_noise: float = 0.0
    age_dim: int = 32
    sex_dim: int = 8
    site_dim: int = 32
    dropout: float = 0.1
    timesteps: int = 1000
    schedule: str = 'linear'
    prediction: str = 'epsilon'
    times: str = 'uniform'
    condition_dropout: float = 0.0
    encoder_augment: bool = False
    site_curve: bool = False
    site_edge: bool = False
    site_average: bool = False
    coordinates: bool = False
    noise_corrected: bool = False

    def __post_init__(self) -> None:
        _within(self, 'image_size', 8, 1024)
        _within(self, 'depth', 1, 1024)
        _within(self, 'neighbors', 0, 8)
        _within(self, 'volume_depth', 0, 1024)
        _within(self, 'first_slice', 0, max(0, self.positions - self.depth))
        _among(self, 'unshuffle', (1, 2, 4))
        _within(self, 'channels', 4, 1024)
        _within(self, 'blocks', 1, 8)
        for name in ('z_u_dim', 'age_dim', 'sex_dim', 'site_dim'):
            _within(self, name, 1, 4096)
        _within(self, 'z_u_noise', 0, 10)
        _within(self, 'dropout', 0, 0.9)
        _within(self, 'condition_dropout', 0, 0.9)
        _within(self, 'timesteps', 2, 10_000)
        _among(self, 'schedule', SCHEDULES)
        _among(self, 'prediction', PREDICTIONS)
        _among(self, 'times', TIMES)
        if (self.schedule, self.prediction) == ('cosine', 'epsilon'):
            # At its last time no signal is left, and DDIM would divide by it.
            raise ModelError('schedule cosine needs prediction v; with epsilon, take linear')
        if not 1 <= len(self.multipliers) <= 8 or not all(1 <= m <= 16 for m in self.multipliers):
            raise ModelError(
                f'multipliers is {self.multipliers}; give 1 to 8 integers from 1 to 16'
            )
        if self.channels % 4:
            raise ModelError(f'channels is {self.channels}; give a multiple of 4')
        divisor = self.unshuffle * 2 ** (len(self.multipliers) - 1)
        if self.image_size % divisor:
            raise ModelError(
                f'image_size {self.image_size} is not divisible by {divisor}, as unshuffle '
                f'{self.unshuffle} and {len(self.multipliers)} levels need; change one of them'
            )
        if not set(self.attention) <= set(self.resolutions):
            raise ModelError(
                f'attention is {self.attention}, but the feature maps have sizes '
                f'{self.resolutions}; choose among these'
            )

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Feature-map size of each level, finest first."""
        first = self.image_size // self.unshuffle
        return tuple(first // 2**i for i in range(len(self.multipliers)))

    @property
    def positions(self) -> int:
        """Slices of the volume in which the networks know the position of a slice."""
        return self.volume_depth or self.depth

    @property
    def context(self) -> int:
        """Slices on either side that the noise network sees as well, k."""
        return self.neighbors if self.positions > 1 else 0

    @property
    def z_k_dim(self) -> int:
        """Size of the known-variance latent ``z_k = [age | sex | site | position]``."""
        position_dim = 2 * POSITION_WAVES if self.positions > 1 else 0
        return self.age_dim + self.sex_dim + self.site_dim + position_dim


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained; every duration is counted in images seen.

    Attributes
    ----------
    images : int
        Images seen in all.
    batch_size : int
    learning_rate : float
        AdamW, constant between warm-up and decay.
    warmup_images : int
        The learning rate rises linearly over these.
    decay_fraction : float
        Over the last part of the run, as large as this, the learning rate falls linearly to 0.
    weight_decay : float
    ema_halflife_images : int
        Half-life of the weights' moving average, which is what the model file holds.
    grad_clip : float
        Largest gradient norm.
    validation_interval_images : int
        Images between two rows of ``losses.tsv``.
    validation_fraction : float
        Part of each site's subjects that is held out.
    shift_pixels : int
        Largest random translation of the training image itself.
    lone_fraction : float
        Part of the images that are shown in place of their neighbors as well, as the only slice
        of a scan is.
    residual_correction : bool
        Whether it is measured at the end. Networks that are only to be calibrated do without.

    Raises
    ------
    ModelError
        If a value is out of range.
    """

    images: int = 1_000_000
    batch_size: int = 16
    learning_rate: float = 1e-4
    warmup_images: int = 0
    decay_fraction: float = 0.0
    weight_decay: float = 0.0
    ema_halflife_images: int = 100_000
    grad_clip: float = 1.0
    validation_interval_images: int = 10_000
    validation_fraction: float = 0.1
    shift_pixels: int = 0
    lone_fraction: float = 0.0
    residual_correction: bool = True

    def __post_init__(self) -> None:
        _within(self, 'images', 1, 10**10)
        _within(self, 'batch_size', 1, 65_536)
        _within(self, 'learning_rate', 1e-8, 1)
        _within(self, 'warmup_images', 0, 10**10)
        _within(self, 'decay_fraction', 0, 1)
        _within(self, 'weight_decay', 0, 1)
        _within(self, 'ema_halflife_images', 1, 10**10)
        _within(self, 'grad_clip', 1e-6, 1e6)
        _within(self, 'validation_interval_images', 1, 10**10)
        _within(self, 'validation_fraction', 0, 0.9)
        _within(self, 'shift_pixels', 0, 64)
        _within(self, 'lone_fraction', 0, 1)

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""
        return math.ceil(self.images / self.batch_size)
