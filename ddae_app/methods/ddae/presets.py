"""Named networks, each with the training that suits it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ddae_app.methods.ddae.config import ModelConfig, TrainConfig


@dataclass(frozen=True)
class Preset:
    """A network and the training that suits it."""

    model: ModelConfig
    train: TrainConfig


_BASE = Preset(
    ModelConfig(
        neighbors=1,
        unshuffle=2,
        channels=64,
        multipliers=(1, 2, 4),
        z_u_dim=64,
        z_u_noise=0.3,
        schedule='cosine',
        prediction='v',
        times='lognormal',
        condition_dropout=0.15,
        encoder_augment=True,
        site_curve=True,
        site_edge=True,
        site_average=True,
        coordinates=True,
        noise_corrected=True,
    ),
    TrainConfig(
        images=2_000_000,
        batch_size=64,
        learning_rate=2e-4,
        warmup_images=10_000,
        decay_fraction=0.3,
        weight_decay=0.01,
        shift_pixels=2,
    ),
)

PRESETS = {
    # Reconstructed, not stated in the paper: the small configuration of its authors' earlier
    # brain-age diffusion autoencoder (32 channels, a 512-d code, eps-MSE, EMA 0.9999, batch 16).
    'paper': Preset(ModelConfig(), TrainConfig(images=3_000_000, ema_halflife_images=110_000)),
    # For a GPU: half resolution inside, wide.
    'base': _BASE,
    # For two CPU cores: the 12 evaluations of a slice take about a quarter of a second.
    'tiny': Preset(
        replace(
            _BASE.model,
            channels=16,
            multipliers=(1, 2, 4, 6),
            blocks=1,
            attention=(16,),
            z_u_dim=32,
            dropout=0.0,
        ),
        replace(
            _BASE.train,
            images=64_000,
            batch_size=32,
            learning_rate=1e-3,
            warmup_images=3_200,
            decay_fraction=0.4,
            ema_halflife_images=3_200,
            validation_interval_images=3_200,
        ),
    ),
}
"""Named settings: ``paper`` for comparison, ``base`` for a GPU, ``tiny`` for a CPU."""


def preset_of(name: str, images: int | None = None) -> Preset:
    """A preset, with another length of training where one is given.

    Parameters
    ----------
    name : {'tiny', 'base', 'paper'}
    images : int, optional
        To be seen in all. Averaging and warm-up keep their share of the run.
    """
    preset = PRESETS[name]
    if images is None:
        return preset
    shrink = min(1.0, images / preset.train.images)
    train = replace(
        preset.train,
        images=images,
        warmup_images=int(preset.train.warmup_images * shrink),
        ema_halflife_images=max(1, int(preset.train.ema_halflife_images * shrink)),
        validation_interval_images=max(1, int(preset.train.validation_interval_images * shrink)),
    )
    return replace(preset, train=train)
