"""What still tells the site from the outputs of a method, and what can be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ddae_app.evaluation.estimates import Estimate
from ddae_app.evaluation.findings import OUTPUT_PROBES, best_probe, with_interval

PROBES = {
    'site_cnn': 'a convolutional network',
    'site_linear': 'the linear probe',
    'site_histogram': 'the intensity histogram alone',
}
SCALES = {
    'site_broad': 'broad structure: shading, the level of tissues, large structures',
    'site_middle': 'structure of middle size: gyri, ventricles, nuclei',
    'site_fine': 'fine structure: noise, sharpness, thin structures',
}
CLOSE = 0.05
"""A difference of accuracies that is not spoken of."""

FEW_SCANS = 50
"""Scans of a site with fewer of which more scans would help; docs/sites.md has the figures."""


@dataclass(frozen=True)
class Explanation:
    """Sentences on what a probe of the site sees, and on what to do next."""

    seen: tuple[str, ...]
    advice: tuple[str, ...]


def explain(
    estimates: Mapping[str, Estimate],
    controls: Mapping[str, Estimate],
    chance: float,
    fewest_scans: int,
    *,
    harmonized: bool = True,
) -> Explanation:
    """Say which probe tells the site best from the outputs, what it sees, and what to do next.

    Parameters
    ----------
    estimates : mapping of str to Estimate
        Of one method, as :func:`ddae_app.evaluation.protocol.evaluate` returns them.
    controls : mapping of str to Estimate
        From :func:`ddae_app.evaluation.protocol.controls`.
    chance : float
        Balanced accuracy of a random guess at the site.
    fewest_scans : int
        Number of scans of the smallest site.
    harmonized : bool
        Whether the estimates are those of outputs, and not of the original scans.
    """
    best = best_probe(estimates, chance)
    if best.low <= chance:
        scans = max(estimates[name].n for name in OUTPUT_PROBES)
        return Explanation(
            (
                f'No probe tells the site from these {scans} scans better than chance. With more '
                'scans, a probe may find what it does not find here.',
            ),
            ('Keep the site as a covariate where your design allows it: it costs little.',),
        )
    name = next(name for name in OUTPUT_PROBES if estimates[name] is best)
    seen = [
        f'Of the three probes, {PROBES[name]} tells the site best '
        f'({with_interval(best)}, chance {chance:.2f}).'
    ]
    if 'site_interior' in estimates:
        seen += _places(estimates, chance)
        seen += _scales(estimates, chance)
    seen += _people(best, controls, chance)
    advice = ['Harmonize the scans: "ddae-app BIDS OUT participant --target-site SITE".']
    if harmonized:
        advice = _advice(name, estimates, controls, chance, fewest_scans)
    return Explanation(tuple(seen), tuple(advice))


def _places(estimates: Mapping[str, Estimate], chance: float) -> list[str]:
    inside, whole = estimates['site_interior'], estimates['site_linear']
    if inside.low <= chance < whole.low:
        if inside.value >= whole.low:
            return [
                'Whether the interior of the brain alone tells the site remains open '
                f'({with_interval(inside)}, from {inside.n} scans).'
            ]
        return [
            'The interior of the brain does not tell the site '
            f'({with_interval(inside)}), so what tells it probably lies at the edge of the brain.'
        ]
    if inside.low <= chance:
        return [f'The interior of the brain does not tell the site ({with_interval(inside)}).']
    return [f'The interior of the brain alone tells the site, too ({with_interval(inside)}).']


def _scales(estimates: Mapping[str, Estimate], chance: float) -> list[str]:
    if estimates['site_interior'].low <= chance:
        return []
    telling = [name for name in SCALES if estimates[name].low > chance]
    if not telling:
        return ['There, no single spatial scale tells it.']
    most = max(telling, key=lambda name: estimates[name].value)
    text = f'There, it is told most of all by {SCALES[most]} ({with_interval(estimates[most])})'
    rest = [f'{with_interval(estimates[name])} from {SCALES[name].split(":")[0]}'
            for name in SCALES if name != most]  # fmt: skip
    sentences = [f'{text}; {" and ".join(rest)}.']
    if _anatomy_tells(estimates, chance):
        sentences.append(
            'Where CSF, gray and white matter lie tells it about as well '
            f'({with_interval(estimates["site_tissues"])}), without their intensities.'
        )
    return sentences


def _anatomy_tells(estimates: Mapping[str, Estimate], chance: float) -> bool:
    tissues = estimates.get('site_tissues')
    if tissues is None or tissues.low <= chance:
        return False
    return tissues.value >= estimates['site_interior'].value - CLOSE


def _people(best: Estimate, controls: Mapping[str, Estimate], chance: float) -> list[str]:
    sentences = []
    for control, text in (
        ('mask', 'The shape of the brain mask alone tells the site'),
        ('demographics', 'Age and sex alone tell the site'),
    ):
        found = controls.get(control)
        if found and found.low > chance:
            as_well = found.value >= best.value - CLOSE
            sentences.append(f'{text}{" as well" * as_well} ({with_interval(found)}).')
    return sentences


def _advice(
    name: str,
    estimates: Mapping[str, Estimate],
    controls: Mapping[str, Estimate],
    chance: float,
    fewest_scans: int,
) -> list[str]:
    """What to do next, the most likely to help first."""
    advice = []
    mask = controls['mask'].low > chance
    if mask or ('site_interior' in estimates and _anatomy_tells(estimates, chance)):
        advice.append(
            'Look at outlines and registration on the pages of the sites that are told apart: '
            'scans that were stripped or registered in another way differ in shape, which no '
            'change of intensities can mend. All sites should be stripped by the same '
            '--skull-strip.'
        )
    elif 'site_broad' in estimates and estimates['site_broad'].low > chance:
        advice.append(
            'Look at the maps of the variance that the site explains, below: broad differences '
            'are shading or levels of tissue, where masks and tissues do not tell the site.'
        )
    people = controls.get('demographics')
    if people and people.low > chance:
        advice.append(
            'The sites have people of other ages or sexes, and brains differ with these. Compare '
            'the sites in the common range of ages (--participant-label).'
        )
    intensities = estimates['site_histogram'].low > chance
    if intensities and fewest_scans < FEW_SCANS:
        advice.append(
            f'The smallest site has {fewest_scans} scans. What is left in the intensities falls '
            'with the number of scans that a site is calibrated to: add scans, and run '
            '"ddae-app BIDS OUT train" again.'
        )
    fine = estimates.get('site_fine')
    if intensities or name == 'site_cnn' or (fine and fine.low > chance):
        advice.append(
            'Train networks on these scans ("ddae-app BIDS OUT train --preset base") where there '
            'are hundreds of them, and compare.'
        )
    advice.append(
        'Keep the site as a covariate in your analysis where each site has people of each group.'
    )
    return advice
