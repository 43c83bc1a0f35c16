"""Model cards, which hold names and texts of others."""

from __future__ import annotations

from ddae_app.reports.card import ModelCard, SiteFacts, format_card
from ddae_app.reports.features import format_features_card

NAMES = '3T*new|*', '_x_ <b>'
SHOWN = r'3T\*new \*', r'\_x\_ \<b\>'


def test_names_of_others_are_no_markup_on_cards():
    sites = tuple(SiteFacts(name, 5, 5, 0, 40.0, 9.0, 0.5) for name in NAMES)
    facts = {f'others rendered at {NAMES[1]}': f'of {NAMES[1]}'}
    card = format_card(
        ModelCard('m', 'A model', NAMES[1], NAMES[1], False, sites, facts, facts, (NAMES[1],))
    )
    assert [line[2 : line.index(' | 5')] for line in card.splitlines() if ' | 5' in line] == [
        *SHOWN
    ]
    assert card.count(SHOWN[1]) == 8 and NAMES[1] not in card
    rows = [{'site': name, 'rows': '5'} for name in NAMES]
    card = format_features_card(
        'm', {'Dataset': NAMES[1]}, rows, [NAMES[1]], method='ComBat', scope='these sites'
    )
    assert f'| {SHOWN[0]} | 5 |' in card
    assert card.count(SHOWN[1]) == 3 and NAMES[1] not in card
