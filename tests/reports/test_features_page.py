"""The page of a table: its figure names features apart, and it counts in the singular."""

from __future__ import annotations

import pytest

from ddae_app.reports import features
from ddae_app.reports.features import (
    FeatureFacts,
    FeaturesReport,
    Guard,
    MarkedRow,
    draw_variance,
    write_features_page,
)
from tests.reports.readback import crowded


def facts(names):
    return [FeatureFacts(name, 0.3, 0.1, 0.5) for name in names]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, not yet as bytes."""
    figures = []
    monkeypatch.setattr(features, 'render', lambda figure, kind: figures.append(figure) or b'')
    return figures


def test_features_that_begin_alike_keep_names_of_their_own(drawn):
    names = [
        f'{side}_caudalanteriorcingulate_{what}'
        for side in ('lh', 'rh')
        for what in ('thickness', 'area', 'volume', 'meancurv', 'gauscurv')
    ]
    draw_variance(facts(names))
    (figure,) = drawn
    shown = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert len(set(shown)) == len(names) and max(map(len, shown)) <= features.LONGEST_NAME
    assert crowded(figure, legends_in_panels=True) == []
    assert figure.axes[0].get_title('left') == 'Explained by the site: all 10 features'


def test_one_feature_and_one_more_marked_row_are_in_the_singular(drawn, tmp_path):
    row = MarkedRow('sub-1', 'A', 'why', 'where', dict.fromkeys(
        ('anatomy_unexplained', 'anatomy_share', 'source_deviation'), '4.0'))  # fmt: skip
    guard = Guard('two rows', [row], 1, 'a_guard.tsv', None)
    path = tmp_path / 'a.html'
    report = FeaturesReport('a', 'A', '1', [], {}, [{'site': 'A'}], facts('x'), 'Said.', guard)
    write_features_page(path, report)
    assert '>1 more is marked.<' in path.read_text()
    titles = [axes.get_title('left') for axes in drawn[0].axes]
    assert titles == ['Explained by the site: 1 feature', 'By name']
