"""Sentences about measures: they say what the measures say."""

from __future__ import annotations

from ddae_app.evaluation.estimates import Estimate
from ddae_app.evaluation.explanation import explain
from ddae_app.evaluation.findings import findings, headline

CHANCE = 0.5
NOTHING = Estimate(0.5, 0.4, 0.6, 400)
SOURCE = Estimate(0.97, 0.95, 0.99, 400)


def measured(**accuracies: Estimate) -> dict[str, Estimate]:
    """Of a method that leaves individuals and hides the site from all other probes."""
    names = 'site_cnn', 'site_linear', 'site_histogram', 'site_raw_probe'
    same = Estimate(1.0, 1.0, 1.0, 400)
    return (
        dict.fromkeys(names, NOTHING) | {'identified': same, 'variance_ratio': same} | accuracies
    )


def test_a_network_that_saw_few_scans_does_not_hide_what_another_probe_finds():
    few, many = Estimate(0.6, 0.45, 0.75, 50), Estimate(0.58, 0.54, 0.62, 400)
    found = measured(site_cnn=few, site_linear=many)
    source = measured(site_cnn=SOURCE, site_linear=SOURCE)
    text = headline({'source': source, 'x': found}, 'x', CHANCE)
    assert text.startswith('The outputs of x show site effects')
    assert '(best balanced accuracy 0.58 [0.54, 0.62], chance 0.50)' in text
    seen = explain(found, {'mask': NOTHING}, CHANCE, 100).seen
    assert seen[0].startswith('Of the three probes, the linear probe tells the site best (0.58 ')
    nothing = explain(measured(site_cnn=few), {'mask': NOTHING}, CHANCE, 100).seen
    assert nothing[0].startswith('No probe tells the site from these 400 scans better')


def test_outputs_without_site_effects_are_not_said_to_have_those_of_the_scans():
    """Where the scans have none, either."""
    source, found = measured(), measured()
    (verdict,) = findings(found, source, CHANCE)
    assert 'no site effects' in verdict.text and not verdict.warning
    found = measured(site_cnn=SOURCE, site_linear=SOURCE)
    texts = [each.text for each in findings(found, dict(found), CHANCE)]
    assert any('as well as from the original scans' in text for text in texts)


def test_an_interior_of_few_scans_does_not_point_to_the_edge():
    """It is told as well as the whole slice, but its interval reaches chance."""
    whole = Estimate(0.76, 0.56, 0.91, 21)
    scales = dict.fromkeys(('site_broad', 'site_middle', 'site_fine', 'site_tissues'), NOTHING)

    def places(inside: Estimate) -> str:
        found = measured(site_linear=whole, site_interior=inside, **scales)
        return explain(found, {'mask': NOTHING}, CHANCE, 10).seen[1]

    assert places(Estimate(0.83, 0.5, 1.0, 6)) == (
        'Whether the interior of the brain alone tells the site remains open '
        '(0.83 [0.50, 1.00], from 6 scans).'
    )
    assert 'at the edge of the brain' in places(Estimate(0.5, 0.4, 0.6, 21))
    assert 'alone tells the site, too' in places(Estimate(0.8, 0.6, 0.9, 21))


def test_scans_below_chance_are_not_said_to_be_of_a_fitted_method():
    found = measured(site_all=Estimate(0.4, 0.3, 0.48, 100))
    texts = [each.text for each in findings(found, found, CHANCE)]
    assert any('The method was fitted to the participants' in text for text in texts)
    texts = [each.text for each in findings(found, found, CHANCE, fitted=False)]
    assert len(texts) == 1 and 'no site effects' in texts[0]
