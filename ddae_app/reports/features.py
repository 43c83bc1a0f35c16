"""Pages, figures and model cards of tables of features."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from ddae_app.reports import boilerplate
from ddae_app.reports.canvas import (
    AFTER_COLOR,
    BEFORE_COLOR,
    LIGHT_GRAY,
    WHITE,
    WIDTH_IN,
    render,
    report_style,
    shortened,
)
from ddae_app.reports.cortex import CortexMap, draw_cortex
from ddae_app.reports.evaluation import Estimate
from ddae_app.reports.page import write_page

MOST_NAMED = 12
"""Features whose names are drawn."""

LONGEST_NAME = 28


@dataclass(frozen=True)
class FeatureFacts:
    """What harmonization did to one feature.

    Attributes
    ----------
    name : str
    before, after : float, 0 to 1
        Share of the variance that the site explains, at equal age and sex.
    change : float
        Mean absolute change, in standard deviations of the feature.
    """

    name: str
    before: float
    after: float
    change: float


@dataclass(frozen=True)
class Cortex:
    """What is drawn of maps on the cortex.

    Attributes
    ----------
    maps : sequence of CortexMap
    note : str
        Why nothing is drawn.
    """

    maps: Sequence[CortexMap]
    note: str

    @property
    def figure(self) -> str:
        """The figure, as a data URL; empty if nothing is drawn."""
        return _url(draw_cortex(self.maps)) if self.maps else ''


@dataclass(frozen=True)
class MarkedRow:
    """A row that the anatomy guard marks.

    Attributes
    ----------
    name, site : str
    why : str
    places : str
        The features for which it is marked most, with their values in standard deviations.
    measures : mapping of str to str
        By the name of its column.
    """

    name: str
    site: str
    why: str
    places: str
    measures: Mapping[str, str]


@dataclass(frozen=True)
class Guard:
    """What the anatomy guard found.

    Attributes
    ----------
    line : str
        In a sentence.
    rows : sequence of MarkedRow
    more : int
        Marked rows that are not among these.
    file : str
        Where all rows are told, from the page; empty if nothing is known.
    cortex : Cortex or None
        Pictures of the first of them; None if there is none.
    """

    line: str
    rows: Sequence[MarkedRow]
    more: int
    file: str
    cortex: Cortex | None


@dataclass(frozen=True)
class FeaturesReport:
    """The content of the page of a harmonized table.

    Attributes
    ----------
    name, title, version : str
        Of the table or the maps, what they are, and of the program.
    warnings : sequence of str
    facts : mapping of str to str
        Names and values.
    sites : sequence of mapping of str to str
        A row a site, of the same columns.
    features : sequence of FeatureFacts
        All that were harmonized.
    methods : str
        The methods text, as :mod:`~ddae_app.reports.boilerplate` takes it.
    guard : Guard
    cortex : Cortex or None
        Pictures of maps; None of a table.
    fewest : int
        How many rows two sites need to tell what the site explains, if they have fewer; else 0.
    """

    name: str
    title: str
    version: str
    warnings: Sequence[str]
    facts: Mapping[str, str]
    sites: Sequence[Mapping[str, str]]
    features: Sequence[FeatureFacts]
    methods: str
    guard: Guard
    cortex: Cortex | None = None
    fewest: int = 0

    @property
    def most_affected(self) -> list[FeatureFacts]:
        """The features that changed most."""
        return sorted(self.features, key=lambda f: -f.change)[:MOST_NAMED]

    @property
    def figure(self) -> str:
        """The figure of the variance that the site explains, as a data URL."""
        return _url(draw_variance(self.features, named=self.cortex is None))

    @property
    def methods_html(self) -> Markup:
        """The methods text; text of the user in it is escaped."""
        return Markup(boilerplate.html_body(self.methods))


@dataclass(frozen=True)
class FeaturesEvaluation:
    """The content of the group page of a table.

    Attributes
    ----------
    name, title, version, headline, protocol : str
    warnings : sequence of str
    chance : float
        Balanced accuracy of a random guess at the site.
    demographics : Estimate or None
        Accuracy of the site from age and sex.
    methods : mapping of str to mapping of str to Estimate
        By candidate and measure.
    meanings : mapping of str to str
        The definition of each measure.
    features : sequence of FeatureFacts
    guard : Guard
        As the participant level wrote it.
    cortex : Cortex or None
        Pictures of maps; None of a table.
    """

    name: str
    title: str
    version: str
    headline: str
    protocol: str
    warnings: Sequence[str]
    chance: float
    demographics: Estimate | None
    methods: Mapping[str, Mapping[str, Estimate]]
    meanings: Mapping[str, str]
    features: Sequence[FeatureFacts]
    guard: Guard
    cortex: Cortex | None = None

    @property
    def figure(self) -> str:
        """As that of :class:`FeaturesReport`."""
        return _url(draw_variance(self.features, named=self.cortex is None))


def write_features_page(path: Path, report: FeaturesReport) -> None:
    """Write the page of a harmonized table."""
    write_page(path, 'features.html.j2', report=report)


def write_features_group_page(path: Path, report: FeaturesEvaluation) -> None:
    """Write the page of the evaluation of a table."""
    write_page(path, 'features_group.html.j2', report=report)


def draw_variance(features: Sequence[FeatureFacts], *, named: bool = True) -> bytes:
    """Draw the share of the variance that the site explains, before and after harmonization.

    Parameters
    ----------
    features : sequence of FeatureFacts
    named : bool
        Whether they have names; vertices are only counted.

    Returns
    -------
    bytes
        A PNG image: all features by their share before, and the names of the highest.
    """
    ordered = sorted(features, key=lambda f: -f.before)
    before, after = (np.array([100 * v for v in values]) for values in (
        [f.before for f in ordered], [f.after for f in ordered],
    ))  # fmt: skip
    colors = {'before': BEFORE_COLOR, 'after': AFTER_COLOR}
    if not named:
        return _draw_shares({'before': before, 'after': after})
    with report_style():
        figure = Figure(figsize=(WIDTH_IN, 4.2), facecolor=WHITE, layout='constrained')
        every, first = figure.subplots(1, 2, width_ratios=(3, 2))
        places = np.arange(1, len(ordered) + 1)
        every.vlines(places, after, before, color=LIGHT_GRAY, linewidth=1)
        for (label, color), values in zip(colors.items(), (before, after), strict=True):
            every.plot(places, values, 'o', color=color, markersize=3, label=label)
        every.set(
            xlabel='features, ordered by their share before', ylabel='% of variance',
            ylim=(-1, None), xlim=(0, len(ordered) + 1),
        )  # fmt: skip
        number = len(ordered)
        every.set_title(
            f'Explained by the site: {"1 feature" if number == 1 else f"all {number} features"}'
        )
        every.legend()
        top = ordered[:MOST_NAMED]
        rows = np.arange(len(top))
        first.hlines(rows, after[: len(top)], before[: len(top)], color=LIGHT_GRAY, linewidth=2)
        for color, values in zip(colors.values(), (before, after), strict=True):
            first.plot(values[: len(top)], rows, 'o', color=color, markersize=5)
        first.set_yticks(rows, [shortened(f.name, LONGEST_NAME) for f in top])
        first.set(xlabel='% of variance', ylim=(len(top) - 0.5, -0.5), xlim=(-1, None))
        first.set_title(f'The {len(top)} highest before' if number > 1 else 'By name')
        return render(figure, 'png')


def _draw_shares(shares: Mapping[str, np.ndarray]) -> bytes:
    """How many vertices have which share, in percent, before and after."""
    with report_style():
        figure = Figure(figsize=(WIDTH_IN, 2.8), facecolor=WHITE, layout='constrained')
        axes = figure.subplots()
        ends = np.linspace(0, max(1.0, *(v.max() for v in shares.values())), 81)
        for (name, values), color in zip(shares.items(), (BEFORE_COLOR, AFTER_COLOR), strict=True):
            axes.hist(values, ends.tolist(), color=color, alpha=0.6, label=name)
        axes.set(xlabel='% of variance', ylabel='vertices', yscale='log', xlim=(0, ends[-1]))
        axes.yaxis.set_major_formatter('{x:,.0f}')
        axes.set_title(f'Explained by the site: all {len(values):,} vertices')
        axes.legend()
        return render(figure, 'png')


def format_features_card(
    name: str,
    facts: Mapping[str, str],
    sites: Sequence[Mapping[str, str]],
    warnings: Sequence[str],
    *,
    method: str,
    scope: str,
    what: str = '',
) -> str:
    """The card of a model of features, as Markdown.

    Parameters
    ----------
    name : str
    facts : mapping of str to str
    sites : sequence of mapping of str to str
        A row a site, of the same columns.
    warnings : sequence of str
    method : str
        What the model is, at the start of a sentence.
    scope : str
        Of which sites it harmonizes people, at the end of one.
    what : str
        What is mapped on which mesh; empty of a table.
    """
    plain = boilerplate.plain
    columns = list(sites[0])
    table = [columns, ['---'] * len(columns), *([row[c] for c in columns] for row in sites)]
    lines = [
        f'# {name}',
        '',
        f'{method}, of {what or "a table of features"}, as ddae-app fits it.',
        '',
        *(f'> {plain(warning)}' for warning in warnings),
        *[''] * bool(warnings),
        '## Data',
        '',
        *(f'| {" | ".join(plain(cell).replace("|", " ") for cell in row)} |' for row in table),
        '',
        *(f'- {what}: {plain(value)}' for what, value in facts.items()),
        '',
        '## Limits',
        '',
        f'- The model harmonizes {"maps" if what else "tables"} of the same features, in the same '
        f'units, of {scope}.',
        '- It knows the people that it was fitted to. Its effect on other ages, and on diseases '
        'that nobody had, was not tested.',
        '- The model is not intended for diagnosis.',
        '',
    ]
    return '\n'.join(lines)


def _url(png: bytes) -> str:
    return f'data:image/png;base64,{base64.b64encode(png).decode()}'
