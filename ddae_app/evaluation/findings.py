"""What the figures of a candidate say, in plain words; and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ddae_app.evaluation.estimates import Estimate

Estimates = Mapping[str, Estimate]

LEAST_IDENTIFIED = 0.5
LEAST_VARIANCE = 0.5
"""Of what people differ by; below, they were made alike."""

OUTPUT_PROBES = ('site_cnn', 'site_linear', 'site_histogram')
"""Probes of the site that are trained on the outputs."""

MOST_AGE_SLOPE = 0.1
"""How far an age read from the image may follow a false age given to the harmoniser."""


@dataclass(frozen=True)
class Finding:
    """A sentence, and whether it tells of something wrong."""

    text: str
    wrong: bool = False


def headline(methods: Mapping[str, Estimates], judged: str, chance: float) -> str:
    """One method beside the others, in one sentence.

    Parameters
    ----------
    methods : mapping of str to mapping of str to Estimate
        ``source`` among them.
    judged : str
        The method that it is about.
    chance : float
        Balanced accuracy of a guess at the site.
    """
    told = {name: _best_probe(estimates) for name, estimates in methods.items()}
    gone = told[judged].low <= chance
    where = 'in the scans' if judged == 'source' else f'after {judged}'
    others = [
        f'{"in the scans" if name == "source" else f"after {name}"} {best.value:.2f}'
        for name, best in told.items()
        if name != judged
    ]
    return (
        f'The site {"cannot" if gone else "can still"} be told {where}: {_said(told[judged])}, '
        f'chance {chance:.2f}; {", ".join(others)}.'
    )


def _best_probe(estimates: Estimates) -> Estimate:
    return max((estimates[name] for name in OUTPUT_PROBES), key=lambda e: e.value)


def verdict(estimates: Estimates, chance: float) -> str:
    """The site in one sentence: the best of the probes that are trained on the outputs."""
    best = _best_probe(estimates)
    if best.low <= chance:
        return f'the site cannot be told: {_said(best)}, chance {chance:.2f}'
    return f'the site can still be told: {_said(best)}, chance {chance:.2f}'


def findings(
    estimates: Estimates, source: Estimates, chance: float, *, label_blind: bool = False
) -> list[Finding]:
    """What there is to say of a candidate beside the untouched scans.

    Parameters
    ----------
    estimates, source : mapping of str to Estimate
        As :func:`ddae_app.evaluation.protocol.evaluate` gives them.
    chance : float
        Balanced accuracy of a guess at the site.
    label_blind : bool
        Whether the method is never told an age.
    """
    found = [Finding(verdict(estimates, chance))]
    wrong = [
        _below_chance(estimates, chance),
        _hidden(estimates, source, chance),
        _as_before(estimates, source),
        _people_lost(estimates, source),
        _age_lost(estimates, source),
        _age_painted(estimates),
    ]
    if better := _age_gained(estimates, source):
        honest = label_blind or ('age_slope' in estimates and not _age_painted(estimates))
        found.append(Finding(better if honest else f'{better}; it may be painted in', not honest))
    return found + [Finding(text, wrong=True) for text in wrong if text]


def _below_chance(estimates: Estimates, chance: float) -> str | None:
    everybody = estimates.get('site_all')
    if everybody and everybody.high < chance:
        return (
            f'the site is told below chance ({_said(everybody)}, chance {chance:.2f}): the method '
            'was fitted to the people that it is judged on, so these figures flatter it'
        )
    return None


def _hidden(estimates: Estimates, source: Estimates, chance: float) -> str | None:
    """A probe of scans comes half way to chance, its retrained self does not."""
    half = (source['site_linear'].value + chance) / 2
    fooled, told = estimates['site_raw_probe'], estimates['site_linear']
    if fooled.value < half <= told.low:
        return (
            f'a probe that learnt from scans loses the site ({_said(fooled)}), one that learns '
            f'from the outputs finds it ({_said(told)}): it is hidden, not gone'
        )
    return None


def _as_before(estimates: Estimates, source: Estimates) -> str | None:
    names = ('site_cnn', 'site_linear')
    if estimates is not source and all(
        estimates[name].high >= source[name].value for name in names
    ):
        return f'the site is told as well as from the scans: {_said(estimates["site_linear"])}'
    return None


def _people_lost(estimates: Estimates, source: Estimates) -> str | None:
    alike, spread = estimates['identified'], estimates['variance_ratio']
    if alike.high < LEAST_IDENTIFIED * source['identified'].value:
        return f'outputs are no longer most like their own scans ({_said(alike)}): people are lost'
    if spread.high < LEAST_VARIANCE:
        return f'people of a site differ by {_said(spread)} of what they did: they were made alike'
    return None


def _age_lost(estimates: Estimates, source: Estimates) -> str | None:
    if 'age_r' in source and estimates['age_r'].high < source['age_r'].low:
        return (
            f'age is read worse than from the scans: r {_said(estimates["age_r"])}, from the '
            f'scans {_said(source["age_r"])}'
        )
    return None


def _age_painted(estimates: Estimates) -> str | None:
    slope = estimates.get('age_slope')
    if slope and slope.low > MOST_AGE_SLOPE:
        return (
            f'the age read from the outputs follows a false age that the method is told, by '
            f'{_said(slope)} years a year: age is painted in'
        )
    return None


def _age_gained(estimates: Estimates, source: Estimates) -> str | None:
    if 'age_r' in source and estimates['age_r'].low > source['age_r'].high:
        return (
            f'age is read better than from the scans: r {_said(estimates["age_r"])}, from the '
            f'scans {_said(source["age_r"])}'
        )
    return None


def _said(estimate: Estimate) -> str:
    return f'{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]'
