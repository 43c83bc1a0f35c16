"""Conclusions from the measures of a candidate, in words, with warnings where it fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ddae_app.evaluation.estimates import Estimate

Estimates = Mapping[str, Estimate]

MIN_IDENTIFIED = 0.5
"""Share of the value of the original scans below which individuals are considered lost."""

MIN_VARIANCE_RATIO = 0.5
"""Between-subject variance, relative to the original scans, below which it is considered lost."""

OUTPUT_PROBES = ('site_cnn', 'site_linear', 'site_histogram')
"""Site classifiers that are trained on the outputs."""

MAX_AGE_SLOPE = 0.1
"""Years that the predicted age may follow each year of a false age given to the harmonizer."""


@dataclass(frozen=True)
class Finding:
    """One or two sentences, and whether they are a warning."""

    text: str
    warning: bool = False


def headline(methods: Mapping[str, Estimates], name: str, chance: float) -> str:
    """Summarize one method beside the others, in two sentences.

    Parameters
    ----------
    methods : mapping of str to mapping of str to Estimate
        The original scans, ``source``, are among them.
    name : str
        The method that the summary is about.
    chance : float
        Balanced accuracy of a random guess at the site.
    """
    best = {method: best_probe(estimates, chance) for method, estimates in methods.items()}
    subject = 'The original scans' if name == 'source' else f'The outputs of {name}'
    others = [
        f'{"the original scans" if method == "source" else method} {accuracy.value:.2f}'
        for method, accuracy in best.items()
        if method != name
    ]
    return (
        f'{_site_verdict(subject, best[name], chance)} '
        f'For comparison, the accuracy for the others is: {", ".join(others)}.'
    )


def best_probe(estimates: Estimates, chance: float) -> Estimate:
    """Of the probes that are trained on the outputs, the one that tells the site best.

    Those that tell it better than chance come first: a network is tested on fewer scans than the
    others, so that it may have the highest accuracy and say nothing.
    """
    probes = (estimates[name] for name in OUTPUT_PROBES)
    return max(probes, key=lambda e: (e.low > chance, e.value))


def _site_verdict(subject: str, best: Estimate, chance: float) -> str:
    """Whether the site can be classified, by the best probe that is trained on the outputs."""
    if best.low <= chance:
        verdict = f'{subject} show no site effects that a classifier can detect'
    else:
        verdict = f'{subject} show site effects: the site can be classified from them'
    return f'{verdict} (best balanced accuracy {with_interval(best)}, chance {chance:.2f}).'


def findings(
    estimates: Estimates,
    source: Estimates,
    chance: float,
    *,
    label_blind: bool = False,
    fitted: bool = True,
) -> list[Finding]:
    """Draw conclusions about a candidate, in comparison with the original scans.

    Parameters
    ----------
    estimates, source : mapping of str to Estimate
        Of the candidate and of the original scans, as
        :func:`ddae_app.evaluation.protocol.evaluate` returns them.
    chance : float
        Balanced accuracy of a random guess at the site.
    label_blind : bool
        Whether the method is known to receive no age.
    fitted : bool
        Whether there was anything to fit, and so to be fitted to the wrong participants.

    Returns
    -------
    list of Finding
        The first is about the site.
    """
    subject = 'The original scans' if estimates is source else 'The outputs'
    conclusions = [Finding(_site_verdict(subject, best_probe(estimates, chance), chance))]
    warnings = [
        _below_chance(estimates, chance) if fitted else None,
        _hidden_site_effects(estimates, source, chance),
        _unchanged_site_effects(estimates, source, chance),
        _lost_individuals(estimates, source),
        _lost_age(estimates, source),
        _injected_age(estimates),
    ]
    if gain := _gained_age(estimates, source):
        trusted = label_blind or ('age_slope' in estimates and not _injected_age(estimates))
        doubt = ' The method may have written the age into the images.'
        conclusions.append(Finding(gain if trusted else gain + doubt, warning=not trusted))
    return conclusions + [Finding(text, warning=True) for text in warnings if text]


def _below_chance(estimates: Estimates, chance: float) -> str | None:
    accuracy = estimates.get('site_all')
    if accuracy and accuracy.high < chance:
        return (
            'The site is classified below chance when all participants are cross-validated '
            f'({with_interval(accuracy)}, chance {chance:.2f}). The method was fitted to the '
            'participants that it is evaluated on, so its results are too optimistic.'
        )
    return None


def _hidden_site_effects(estimates: Estimates, source: Estimates, chance: float) -> str | None:
    """A probe of original scans comes half way to chance, a probe of the outputs does not."""
    half_way = (source['site_linear'].value + chance) / 2
    source_probe, output_probe = estimates['site_raw_probe'], estimates['site_linear']
    if source_probe.value < half_way <= output_probe.low:
        return (
            'Site effects are hidden, not removed: a classifier that was trained on the original '
            f'scans fails ({with_interval(source_probe)}), but one that is trained on the '
            f'outputs succeeds ({with_interval(output_probe)}).'
        )
    return None


def _unchanged_site_effects(estimates: Estimates, source: Estimates, chance: float) -> str | None:
    names = ('site_cnn', 'site_linear')
    if estimates is source or best_probe(estimates, chance).low <= chance:
        return None
    if all(estimates[name].high >= source[name].value for name in names):
        return (
            'The site can be classified as well as from the original scans '
            f'({with_interval(estimates["site_linear"])}).'
        )
    return None


def _lost_individuals(estimates: Estimates, source: Estimates) -> str | None:
    identified, variance = estimates['identified'], estimates['variance_ratio']
    if identified.high < MIN_IDENTIFIED * source['identified'].value:
        return (
            'Individual anatomy is lost: the share of outputs that are most similar to a scan of '
            f'their own participant is only {with_interval(identified)}.'
        )
    if variance.high < MIN_VARIANCE_RATIO:
        return (
            'Between-subject variation is lost: its ratio to that of the original scans is only '
            f'{with_interval(variance)}.'
        )
    return None


def _lost_age(estimates: Estimates, source: Estimates) -> str | None:
    if 'age_r' in source and estimates['age_r'].high < source['age_r'].low:
        return f'Age is predicted worse than from the original scans{_age_r(estimates, source)}.'
    return None


def _gained_age(estimates: Estimates, source: Estimates) -> str | None:
    if 'age_r' in source and estimates['age_r'].low > source['age_r'].high:
        return f'Age is predicted better than from the original scans{_age_r(estimates, source)}.'
    return None


def _age_r(estimates: Estimates, source: Estimates) -> str:
    after, before = with_interval(estimates['age_r']), with_interval(source['age_r'])
    return f' (r {after}, from the original scans {before})'


def _injected_age(estimates: Estimates) -> str | None:
    slope = estimates.get('age_slope')
    if slope and slope.low > MAX_AGE_SLOPE:
        return (
            'The method writes age into the images: for each year by which a false age is '
            f'changed, the predicted age follows by {with_interval(slope)} years.'
        )
    return None


def with_interval(estimate: Estimate) -> str:
    """The value and its interval, in words of a sentence."""
    return f'{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]'
