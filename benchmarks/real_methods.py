"""The methods that are compared on real scans, each fitted to one half of the people."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.quality import BATCH, say
from benchmarks.real_scans import Scans, medial
from ddae_app.errors import UsageError
from ddae_app.evaluation import probes
from ddae_app.methods.base import Harmonizer, cohort_of, in_brain
from ddae_app.methods.combat import ComBat
from ddae_app.methods.cvae import CVAEHarmonizer
from ddae_app.methods.ddae.bundle import Bundle, load_bundle
from ddae_app.methods.ddae.calibration import calibrate
from ddae_app.methods.ddae.harmonizer import DDAEHarmonizer
from ddae_app.methods.ddae.model import DDAE
from ddae_app.methods.ddae.presets import preset_of
from ddae_app.methods.ddae.train import TrainingControl, train
from ddae_app.methods.find import packaged_model
from ddae_app.methods.histogram import HistogramMatching
from ddae_app.methods.modelfile import ModelIdentity
from ddae_app.methods.style_gan import StyleGANHarmonizer


@dataclass(frozen=True)
class Fit:
    """What a method is given: the scans of people to fit to, and of others to harmonize.

    Attributes
    ----------
    fitting, others : Scans
    target : str
        The site to harmonize to.
    images : int
        To be shown in a training.
    folder : Path
        For the files of a training that may resume.
    """

    fitting: Scans
    others: Scans
    target: str
    images: int
    folder: Path

    def apply(self, harmonizer: Harmonizer) -> np.ndarray:
        """Harmonize the others; shape as :meth:`Scans.inputs`."""
        return harmonizer.transform(self.others.inputs(), self.others.people, self.target)

    def at_target(self) -> np.ndarray:
        """The scans of the target to fit to; shape as :meth:`Scans.inputs`."""
        return self.fitting.take(np.flatnonzero(self.fitting.sites == self.target)).inputs()


Method = Callable[[Fit], np.ndarray]
"""From people to the harmonized scans of the others, or to other features, shape (M, F)."""


def demographics(fit: Fit) -> np.ndarray:
    """Standardized age, sex and squared age of the others, shape (M, 3)."""
    ages, usual = fit.others.people['age'], fit.fitting.people['age']
    age = ((ages - usual.mean()) / usual.std()).to_numpy(np.float32)
    sex = (fit.others.people['sex'] == 'M').to_numpy(np.float32)
    return np.column_stack([age, sex, age**2])


def refitted(make: Callable[[], Harmonizer]) -> Method:
    """A method that is fitted to what it takes, as the group level does."""
    return lambda fit: fit.apply(make().fit(fit.fitting.inputs(), fit.fitting.people))


def nyul(fit: Fit) -> np.ndarray:
    """Piecewise linear curves to the standard scale of the target's scans (Nyul and Udupa 1999).

    The package leaves the unit of the scale open; here it is that of the target's scans.
    """
    package, at_target = _intensity_normalization(), fit.at_target()
    low, high = (
        float(np.mean([np.percentile(image[image > 0], level) for image in at_target]))
        for level in (1, 99)
    )
    normalizer = package.NyulNormalizer(output_min_value=low, output_max_value=high)
    normalizer.fit_population([package.create_image(image) for image in at_target])
    inputs = fit.others.inputs()
    out = [normalizer.transform(package.create_image(image)).get_data() for image in inputs]
    return in_brain(np.stack(out), inputs)


def white_stripe(fit: Fit) -> np.ndarray:
    """Mean and spread of normal-appearing white matter as at the target (Shinohara et al. 2014).

    The package makes them 0 and 1; here they are those of the target's scans.
    """
    package = _intensity_normalization()

    def stripe(image: np.ndarray) -> tuple[float, float]:
        fitted = package.WhiteStripeNormalizer().fit(package.create_image(image))
        return fitted.mean, fitted.std

    mean, spread = np.mean([stripe(image) for image in fit.at_target()], axis=0)
    inputs, out = fit.others.inputs(), []
    for image in inputs:
        own_mean, own_spread = stripe(image)
        out.append(mean + spread * (image - own_mean) / own_spread)
    return in_brain(np.stack(out), inputs)


def _intensity_normalization():
    """The package, which only this benchmark needs."""
    try:
        import intensity_normalization
    except ImportError as error:
        raise UsageError(
            f'the methods nyul and white-stripe need the package intensity-normalization '
            f'({error}); install the extra "benchmarks", or leave them out of --methods'
        ) from error
    return intensity_normalization


def calibrated(evidence: bool) -> Method:
    """The packaged networks, of which nothing is trained, for the sites of the half.

    Without `evidence`, what the packaged model says of age and sex is left out: it was measured
    in all people of this dataset (``benchmarks.references``), those who are judged on as well.
    """

    def run(fit: Fit) -> np.ndarray:
        bundle = load_bundle(packaged_model('all' if fit.fitting.volumes else 'medial').path)
        if not evidence:
            bundle = without_evidence(bundle)
        known = calibrate(bundle, fit.fitting.training())
        return fit.apply(DDAEHarmonizer(bundle=known, device='cpu', batch_size=BATCH))

    return run


def without_evidence(bundle: Bundle) -> Bundle:
    """The networks alone, which a calibration starts from as if they knew no site."""
    old = bundle.model
    model = DDAE(old.networks, old.appearance, old.residuals).eval()
    return replace(bundle, model=model, info=replace(bundle.info, evidence=()))


def trained(fit: Fit) -> np.ndarray:
    """A DDAE of preset tiny that is trained on the half; an interrupted training resumes."""
    preset, depth = preset_of('tiny', fit.images), fit.fitting.protocol.depth
    path = train(
        fit.fitting.training(), replace(preset.model, depth=depth), preset.train,
        fit.fitting.protocol, fit.folder, control=TrainingControl(progress=say),
        identity=ModelIdentity('real-tiny', 'half of the people of benchmarks/real.py'),
    )  # fmt: skip
    assert path is not None  # None only after a deadline
    return fit.apply(DDAEHarmonizer.load(path, device='cpu', batch_size=BATCH))


def network(kind: type[CVAEHarmonizer] | type[StyleGANHarmonizer]) -> Method:
    """A baseline that is a network of single slices, trained on the half."""

    def run(fit: Fit) -> np.ndarray:
        data = fit.fitting.training()
        if data.depth > 1:
            raise UsageError(f'{kind.method} takes single slices; leave out --slices all')
        untrained = kind(images=fit.images, device='cpu', progress=say)
        return fit.apply(untrained.fit(data.images[:, 0], cohort_of(data)))

    return run


def measured(method: Method, fit: Fit) -> dict[str, np.ndarray]:
    """What a method makes of the others.

    Returns
    -------
    dict of str to np.ndarray
        The medial slices as ``images``, shape (N, H, W), or other features; of whole volumes also
        their ``quantiles``, shape (N, 33); and the processor time in ``seconds``, shape ().
    """
    started = time.process_time()
    out = method(fit)
    found = {'seconds': np.array(time.process_time() - started)}
    if out.ndim != 4:
        return found | {'images': out}
    return found | {'images': medial(out), 'quantiles': probes.intensity_quantiles(out)}


TRAINED: dict[str, Method] = {
    'cvae': network(CVAEHarmonizer),
    'style-gan': network(StyleGANHarmonizer),
    'ddae-trained': trained,
}
METHODS: dict[str, Method] = {
    'source': lambda fit: fit.others.inputs(),
    'mask': lambda fit: (fit.others.inputs() > 0).astype(np.float32),
    'age-and-sex': demographics,
    'histogram': refitted(HistogramMatching),
    'nyul': nyul,
    'white-stripe': white_stripe,
    'combat': refitted(ComBat),
    'ddae-calibrated': calibrated(evidence=False),
    'ddae-calibrated-with-evidence': calibrated(evidence=True),
    **TRAINED,
}
USUAL = [name for name in METHODS if name not in TRAINED and not name.endswith('evidence')]
