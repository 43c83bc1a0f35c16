"""The model card: what a model was trained on, how well it does, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class SiteFacts:
    """The training data of one site.

    Attributes
    ----------
    name : str
    people, slices, held_out : int
        People and slices in all, and the people held out.
    age_mean, age_sd : float
        Years; NaN if no age is known.
    female : float
        Part of the people whose sex is known; NaN if none is.
    """

    name: str
    people: int
    slices: int
    held_out: int
    age_mean: float
    age_sd: float
    female: float


@dataclass(frozen=True)
class ModelCard:
    """Everything on a card.

    Attributes
    ----------
    name, description, dataset, license : str
        Of the model, of its method, and of its training data.
    phantom : bool
        Trained on simulated scanners.
    sites : tuple of SiteFacts
    training, figures : mapping of str to str
        What was done, and what came out on the people held out: a name and a value in words.
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
    'It renders T1-weighted, skull-stripped brains in the space named above, and nothing else.',
    'It knows the sites of the table. A scan from elsewhere is refused unless --unseen-site says '
    'otherwise.',
    'It learnt from the people of the table. What it makes of other ages, or of a disease that '
    'nobody there had, was not tested.',
    'It was not made for diagnosis.',
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
        lines += ['**Trained on simulated scanners: not suitable for real scans.**', '']
    lines += [f'> {warning}' for warning in card.warnings] + [''] * bool(card.warnings)
    lines += ['## Data', '', f'Dataset: {card.dataset}. License: {card.license}.', '']
    lines += ['| site | people | held out | slices | age, years | female |']
    lines += ['| --- | --- | --- | --- | --- | --- |']
    for site in card.sites:
        age = (
            'n/a' if site.age_mean != site.age_mean else f'{site.age_mean:.1f} ± {site.age_sd:.1f}'
        )
        female = 'n/a' if site.female != site.female else f'{site.female:.0%}'
        row = (site.name, site.people, site.held_out, site.slices, age, female)
        lines.append(f'| {" | ".join(str(value).replace("|", " ") for value in row)} |')
    for title, facts in (('Training', card.training), ('On the people held out', card.figures)):
        lines += ['', f'## {title}', '']
        lines += [f'- {name}: {value}' for name, value in facts.items()] or ['- nothing']
    lines += ['', '## Limits', '', *(f'- {limit}' for limit in LIMITS), '']
    return '\n'.join(lines)
