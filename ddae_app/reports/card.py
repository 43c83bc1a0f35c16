"""The model card: the training data of a model, its performance and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ddae_app.reports.boilerplate import plain


@dataclass(frozen=True)
class SiteFacts:
    """The training data of one site.

    Attributes
    ----------
    name : str
    subjects, slices, held_out : int
        Numbers of subjects, of slices, and of subjects held out of training.
    age_mean, age_sd : float
        Mean and standard deviation, years; NaN if no age is known.
    female : float
        Share of the subjects of known sex, 0 to 1; NaN if no sex is known.
    """

    name: str
    subjects: int
    slices: int
    held_out: int
    age_mean: float
    age_sd: float
    female: float


@dataclass(frozen=True)
class ModelCard:
    """The contents of a model card.

    Attributes
    ----------
    name, description, dataset, license : str
        Of the model, of its method, and of its training data.
    phantom : bool
        Whether the model was made from simulated scans.
    sites : tuple of SiteFacts
    training, figures : mapping of str to str
        How the model was trained, and the measures on the subjects held out: names and values.
    warnings : tuple of str
    """

    name: str
    description: str
    dataset: str
    license: str
    phantom: bool
    sites: tuple[SiteFacts, ...]
    training: Mapping[str, str]
    figures: Mapping[str, str]
    warnings: tuple[str, ...]


LIMITS = (
    'The model harmonizes T1-weighted, skull-stripped brains in the space named above only.',
    'The model knows the sites of the table. A scan of another site is harmonized by itself, '
    "which removes some of what is its subject's own, or as --unseen-site says.",
    'The model knows the participants of the table. Its effect on other ages, and on '
    'diseases that no participant had, was not tested.',
    'The model is not intended for diagnosis.',
)


def format_card(card: ModelCard) -> str:
    """The card as Markdown."""
    lines = [f'# {card.name}', '']
    lines += [
        f'{card.description}. It renders T1-weighted slices of one site as if acquired at '
        'another.',
        '',
    ]
    if card.phantom:
        lines += [
            '**This model was made from simulated scans. It is not suitable for real ones.**',
            '',
        ]
    lines += [f'> {plain(warning)}' for warning in card.warnings] + [''] * bool(card.warnings)
    lines += [
        '## Data',
        '',
        f'Dataset: {plain(card.dataset)}. License: {plain(card.license)}.',
        '',
    ]
    lines += ['| site | participants | held out | slices | age, years | female |']
    lines += ['| --- | --- | --- | --- | --- | --- |']
    for site in card.sites:
        age = (
            'n/a' if site.age_mean != site.age_mean else f'{site.age_mean:.1f} ± {site.age_sd:.1f}'
        )
        female = 'n/a' if site.female != site.female else f'{site.female:.0%}'
        row = (site.name, site.subjects, site.held_out, site.slices, age, female)
        lines.append(f'| {" | ".join(plain(str(value)).replace("|", " ") for value in row)} |')
    for title, facts in (
        ('Training', card.training),
        ('Performance on held-out participants', card.figures),
    ):
        lines += ['', f'## {title}', '']
        lines += [f'- {plain(name)}: {plain(value)}' for name, value in facts.items()] or [
            '- None.'
        ]
    lines += ['', '## Limits', '', *(f'- {limit}' for limit in LIMITS), '']
    return '\n'.join(lines)
