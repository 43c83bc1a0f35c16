"""The quality measures of a scan: one row each, with all that the program says about it.

The table feeds ``*_scans.tsv`` and its JSON, the pages, and ``docs/measures.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ddae_app.imaging.anatomy import MOST_SHARE_CHANGE, MOST_UNEXPLAINED

USUAL_CORRELATION = 0.36
"""Fifteen real scans registered at .44 to .56; lower values are marked, much lower ones are
refused."""

USUAL_DICE = 0.92
"""Masks of 48 scans overlap by .943 or more; masks that are 4 mm too small or large overlap by
.904, .933, .907 and .884 in the median, worse ones by less (benchmarks/failures.py)."""

NOTABLE_DISTANCE = 0.01
"""On the scale 0 to 1; scans of the target site itself move by about 0.0001."""

Rule = Callable[[float, Mapping[str, Any]], bool]
"""From the value of a measure, and all entries of the scan, to whether the value is unusual."""


@dataclass(frozen=True)
class Measure:
    """A quality measure of a scan.

    Attributes
    ----------
    meaning : str
        What is measured, for human readers.
    unit : str
        Empty where it has none.
    range : str
        Of possible values; empty for texts.
    unusual : str
        Which values are marked, in words; empty where none is.
    rule : callable, optional
        The same for the program.
    """

    meaning: str
    unit: str = ''
    range: str = ''
    unusual: str = ''
    rule: Rule | None = None

    def is_unusual(self, value: Any, entries: Mapping[str, Any]) -> bool:
        """Whether a value should be checked by eye."""
        return self.rule is not None and self.rule(value, entries)

    @property
    def dictionary(self) -> dict[str, str]:
        """The description of its column, as BIDS wants it."""
        units = {'Units': self.unit} if self.unit else {}
        return {'Description': self.meaning, **units}


def below(limit: float) -> dict[str, Any]:
    """Values below a limit are unusual."""
    return {'unusual': f'below {limit:g}', 'rule': lambda value, entries: value < limit}


def above(limit: float) -> dict[str, Any]:
    """Values above a limit are unusual."""
    return {'unusual': f'above {limit:g}', 'rule': lambda value, entries: value > limit}


def beyond(limit: float) -> dict[str, Any]:
    """Values farther from 0 than a limit are unusual."""
    return {
        'unusual': f'more than {limit:g} from 0',
        'rule': lambda value, entries: abs(value) > limit,
    }


def _moved_away(value: float, entries: Mapping[str, Any]) -> bool:
    before = entries.get('target_distance_before')
    return isinstance(before, int | float) and value > before + NOTABLE_DISTANCE


MEASURES = {
    'registration_correlation': Measure(
        'Correlation of the scan with the template inside its brain mask after registration',
        range='-1 to 1, higher is better',
        **below(USUAL_CORRELATION),
    ),
    'scale_min': Measure(
        'Smallest scaling factor of the registration along a principal axis', range='above 0'
    ),
    'scale_max': Measure(
        'Largest scaling factor of the registration along a principal axis', range='above 0'
    ),
    'brain_volume_ml': Measure('Brain volume', unit='mL', range='above 0'),
    'brain_volume_template_ml': Measure(
        'Brain volume in template space', unit='mL', range='above 0'
    ),
    'mask_template_dice': Measure(
        'Dice overlap of the brain mask with that of the template',
        range='0 to 1, higher is better',
        **below(USUAL_DICE),
    ),
    'cjv': Measure(
        'Coefficient of joint variation of gray and white matter (Ganzetti et al. 2016)',
        range='above 0, lower is better',
    ),
    'snr_gray': Measure(
        'Mean over standard deviation of the intensities of gray matter (Magnotta and Friedman '
        '2006)',
        range='above 0, higher is better',
    ),
    'snr_white': Measure(
        'Mean over standard deviation of the intensities of white matter (Magnotta and Friedman '
        '2006)',
        range='above 0, higher is better',
    ),
    'brain_unchecked': Measure(
        'Which of the measures of the brain could not be taken, and why; none if all were',
        unusual='not none',
    ),
    'bright_share': Measure(
        'Share of the brain that outshines all tissue, such as vessels after contrast agent, and '
        'was left out of the intensity scale',
        range='0 to 1, 0 for ordinary scans',
        **above(0),
    ),
    'noise_sd': Measure(
        'Standard deviation of the noise of the slices before harmonization, on the scale 0 to 1 '
        '(Immerkaer 1996)',
        range='0 or more, lower is better',
    ),
    'ssim': Measure(
        'Structural similarity of the slices before and after harmonization (Wang et al. 2004)',
        range='-1 to 1, 1 where nothing changed',
    ),
    'gradient_correlation': Measure(
        'Correlation of the gradient magnitude in the brain before and after harmonization',
        range='-1 to 1, 1 where every edge is where it was',
    ),
    'mean_absolute_change': Measure(
        'Mean absolute change of the intensities of the brain, on the scale 0 to 1',
        range='0 or more',
    ),
    'target_distance_before': Measure(
        'Wasserstein-1 distance of the intensities of the brain to those typical of the target '
        'site, before harmonization, on the scale 0 to 1',
        range='0 or more',
    ),
    'target_distance_after': Measure(
        'Wasserstein-1 distance of the intensities of the brain to those typical of the target '
        'site, after harmonization, on the scale 0 to 1',
        range='0 or more, lower is better',
        unusual=f'more than {NOTABLE_DISTANCE:g} above target_distance_before',
        rule=_moved_away,
    ),
    'anatomy_unexplained': Measure(
        'Largest structure that no change of contrast or shading makes of the scan, on the scale '
        '0 to 1',
        range='0 or more, lower is better',
        **above(MOST_UNEXPLAINED),
    ),
    'csf_share_change': Measure(
        'Change of the share of the brain that is as dark as CSF',
        range='-1 to 1',
        **beyond(MOST_SHARE_CHANGE),
    ),
    'gray_share_change': Measure(
        'Change of the share of the brain that is as bright as gray matter',
        range='-1 to 1',
        **beyond(MOST_SHARE_CHANGE),
    ),
    'white_share_change': Measure(
        'Change of the share of the brain that is as bright as white matter',
        range='-1 to 1',
        **beyond(MOST_SHARE_CHANGE),
    ),
    'anatomy_flag': Measure(
        'Why the anatomy should be checked by eye; none if nothing is unusual, not checked if it '
        'could not be measured',
        unusual='not none',
    ),
    'harmonization_unchecked': Measure(
        'Which of the measures of the harmonization could not be taken, and why; none if all were',
        unusual='not none',
    ),
    'source_site': Measure('Site where the scan was acquired'),
    'target_site': Measure('Site to which the scan was harmonized'),
}
"""The measures by the name of their column, in the order of the tables."""


def table_of_measures() -> str:
    """The measures as a Markdown table, for the documentation."""
    lines = [
        '| measure | what it is | unit | range | marked as unusual |',
        '|---|---|---|---|---|',
    ]
    lines += [
        f'| `{name}` | {m.meaning} | {m.unit or "-"} | {m.range or "text"} | {m.unusual or "-"} |'
        for name, m in MEASURES.items()
    ]
    return '\n'.join(lines) + '\n'
