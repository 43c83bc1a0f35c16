"""The harmonization methods: one row each, with all that the program asks of a method.

This module imports nothing of the program and no large library, so that the command line can read
it. Classes and functions are named as ``module:attribute`` and loaded when they are needed.

To add a method, write its module and its row here, and add what it cites to
``data/boilerplate.bib``; see docs/contributing.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Method:
    """A harmonization method.

    Attributes
    ----------
    label : str
        How figures, sidecars and pages call it.
    description : str
        What was done to the slices, in whole sentences for the methods text of a paper, with
        citations ``[@key]`` of the packaged bibliography.
    card : str
        What a model of it is, at the start of a model card.
    info : str
        Class of what its model file says of itself, a
        :class:`~ddae_app.methods.modelfile.ModelInfo`.
    loader : str
        ``(path, **options) -> StoredHarmonizer``.
    trainer : str
        ``(TrainingRequest) -> TrainedModel or None``; None if it was stopped by its time limit.
    check : str, optional
        ``(People) -> None``: refuses people of whom no model can be made, whatever their scans
        show, before these are preprocessed.
    refit : str, optional
        Class of a harmonizer without options that the group level fits anew to half of the
        participants, as a baseline for every evaluation.
    options : frozenset of str
        Options that `loader` takes, among ``device``, ``batch_size``, ``steps``, ``unseen_site``
        (sites that the model was not trained on) and ``keep_noise``.
    whole_scans : bool
        Whether it takes scans of many slices, or the medial slice alone.
    parallel : bool
        Whether several processes train it together; else the first one does alone.
    reconstructs : bool
        Whether rendering a scan at its own site reconstructs it from latents, so that the group
        level shows its reconstructions.
    uses_covariates : bool
        Whether age and sex of a scan change how it is harmonized; a model may tell otherwise.
    continues : bool
        Whether training can start from another model (``--init-from``).
    denoised : str
        What is added to `description` unless ``--keep-noise`` is given.
    software : tuple of str
        Packages that do the work, for the methods text.
    """

    label: str
    description: str = ''
    card: str = ''
    info: str = 'ddae_app.methods.modelfile:ModelInfo'
    loader: str = ''
    trainer: str = ''
    check: str = ''
    refit: str = ''
    options: frozenset[str] = frozenset()
    whole_scans: bool = True
    parallel: bool = False
    reconstructs: bool = False
    uses_covariates: bool = False
    continues: bool = False
    denoised: str = ''
    software: tuple[str, ...] = ('torch',)

    def describe(self, *, keep_noise: bool) -> str:
        """What was done to the slices, for a paper."""
        return self.description + ('' if keep_noise else self.denoised)

    def supports(self, option: str) -> bool:
        """Whether a harmonizer of this method takes an option."""
        return option in self.options


NETWORK = frozenset({'device', 'batch_size'})

METHODS: dict[str, Method] = {
    'ddae': Method(
        label='DDAE',
        description='Axial slices were re-rendered at the target site with a Disentangled '
        'Diffusion Autoencoder [@ijishakin2024]: each scan was brought to the contrast curve, '
        'edge intensities and average image of the target site, and the difference between what '
        'the model renders at the target and at the source site was added, under shared noise '
        'that decreases from level to level [@kulikov2024].',
        denoised=' The result was denoised by the same model, at the noise level measured in each '
        'scan [@immerkaer1996], and residual shading, spread, sharpness and contrast were '
        'corrected.',
        card='A Disentangled Diffusion Autoencoder (Ijishakin, Lawry Aguila et al. 2024, arXiv '
        '2408.15890), as ddae-app trains it',
        info='ddae_app.methods.ddae.info:DDAEInfo',
        loader='ddae_app.methods.ddae.harmonizer:DDAEHarmonizer.load',
        trainer='ddae_app.methods.ddae.trainer:train_model',
        options=NETWORK | {'steps', 'unseen_site', 'keep_noise'},
        parallel=True,
        continues=True,
    ),
    'cvae': Method(
        label='cVAE',
        description='Axial slices were rendered anew by a conditional variational autoencoder '
        '[@sohn2015; @moyer2020], given another site.',
        card='A conditional variational autoencoder (Sohn et al. 2015; Moyer et al. 2020), as '
        'ddae-app trains it',
        info='ddae_app.methods.cvae:CVAEInfo',
        loader='ddae_app.methods.cvae:CVAEHarmonizer.load',
        reconstructs=True,
        trainer='ddae_app.methods.cvae:train_model',
        uses_covariates=True,
        options=NETWORK,
        whole_scans=False,
    ),
    'style-gan': Method(
        label='Style-Encoding GAN',
        description='Axial slices were rendered in the mean style of the target site by a '
        'style-encoding generative adversarial network [@choi2020; @liu2021].',
        card='A style-encoding generative adversarial network (Choi et al. 2020; Liu et al. '
        '2021), as ddae-app trains it',
        info='ddae_app.methods.style_gan:StyleGANInfo',
        loader='ddae_app.methods.style_gan:StyleGANHarmonizer.load',
        trainer='ddae_app.methods.style_gan:train_model',
        options=NETWORK,
        whole_scans=False,
    ),
    'combat': Method(
        label='ComBat',
        description='The intensities of each pixel of the axial slices were brought from the '
        'source site to the target site with ComBat [@johnson2007; @fortin2018], age and sex '
        'protected where known.',
        card='ComBat per pixel (Johnson et al. 2007; Fortin et al. 2018), as ddae-app fits it, '
        'age and sex protected',
        loader='ddae_app.methods.combat:ComBat.load',
        trainer='ddae_app.methods.combat:train_model',
        check='ddae_app.methods.combat:check_people',
        refit='ddae_app.methods.combat:ComBat',
        uses_covariates=True,
        software=('numpy',),
    ),
    'histogram': Method(
        label='Histogram matching',
        refit='ddae_app.methods.histogram:HistogramMatching',
    ),
}
"""The methods by the name that ``--method`` and model files give them."""

DEFAULT = 'ddae'


def trainable() -> tuple[str, ...]:
    """Names of the methods whose models are files, in the order of the rows."""
    return tuple(name for name, method in METHODS.items() if method.trainer)


def single_slice() -> tuple[str, ...]:
    """Names of the trainable methods that take the medial slice alone."""
    return tuple(name for name in trainable() if not METHODS[name].whole_scans)


def refitted() -> dict[str, Method]:
    """The methods that the group level fits anew, by name."""
    return {name: method for name, method in METHODS.items() if method.refit}


def imported(reference: str) -> Any:
    """What ``module:attribute`` names."""
    module, _, path = reference.partition(':')
    value: Any = import_module(module)
    for name in path.split('.'):
        value = getattr(value, name)
    return value
