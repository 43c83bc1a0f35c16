"""Cohorts whose sites can be separated from their subjects, and others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ddae_app.methods.data import SliceData
from ddae_app.methods.suitability import (
    ages_beyond,
    confounded_sites,
    sites_with_few_subjects,
    unexamined_sites,
)


def cohort(ages, sexes, subjects=None) -> SliceData:
    """Site A and then B, half each."""
    n = len(ages)
    sites = ('A',) * (n // 2) + ('B',) * (n // 2)
    images = np.zeros((n, 1, 4, 4), np.float32)
    names = tuple(subjects or map(str, range(n)))
    return SliceData(images, sites, np.array(ages, float), tuple(sexes), names)


def test_subjects_are_counted_not_slices():
    ages, sexes = range(20, 60), 'MF' * 20
    assert sites_with_few_subjects(cohort(ages, sexes)) == {}
    few = [str(i % 4) for i in range(20)] + [str(i) for i in range(20, 40)]
    assert sites_with_few_subjects(cohort(ages, sexes, few)) == {'A': 4}


def test_one_sex_at_a_site_is_confounded():
    ages = [*range(20, 40)] * 2
    assert confounded_sites(cohort(ages, 'M' * 20 + 'MF' * 10)) == {
        'A': 'sex (all its subjects are M)'
    }
    assert confounded_sites(cohort(ages, 'M' * 40)) == {}
    unknown = [None] * 17 + ['M'] * 3 + ['F', 'M'] * 10
    assert confounded_sites(cohort(ages, unknown)) == {}


def test_ages_that_do_not_overlap_are_confounded():
    sexes = 'MF' * 20
    young, old = [*range(20, 40)], [*range(60, 80)]
    confounded = confounded_sites(cohort(young + old, sexes))
    assert set(confounded) == {'A', 'B'}
    assert '20 to 39 years there, 60 to 79 elsewhere' in confounded['A']
    assert confounded_sites(cohort([*range(20, 39), 65] + old, sexes)) == {}
    assert confounded_sites(cohort([np.nan] * 16 + [20] * 4 + old, sexes)).keys() == {'B'}


def test_many_slices_of_one_subject_count_as_one():
    subjects = ['a'] * 20 + [str(i) for i in range(20)]
    assert confounded_sites(
        cohort([20] * 20 + [*range(60, 80)], 'M' * 20 + 'MF' * 10, subjects)
    ) == {'B': 'age (60 to 79 years there, 20 to 20 elsewhere)'}


@pytest.mark.parametrize('first', [True, False])
def test_an_age_or_sex_that_one_scan_lacks_is_that_of_another(first):
    """Tables of sessions may tell the age at the first one alone."""
    half = 10 if first else 0
    ages = np.array([*[20.0] * 20, *[70.0] * 20])
    sexes = ['M', 'F'] * 20
    for scan in range(40):
        if scan % 20 // 10 * 10 == half:
            ages[scan], sexes[scan] = np.nan, None
    subjects = [f'{scan // 20} {scan % 10}' for scan in range(40)]
    data = cohort(ages, sexes, subjects)
    assert not unexamined_sites(data)
    assert confounded_sites(data).keys() == {'A', 'B'}


def test_what_could_not_be_examined_is_told():
    ages, sexes = [*range(20, 60)], 'MF' * 20
    assert unexamined_sites(cohort(ages, sexes)) == []
    (text,) = unexamined_sites(cohort([np.nan] * 40, sexes))
    assert text == (
        'confounding of site with age was not examined for A (age known of 0 of 20 subjects), '
        'B (age known of 0 of 20 subjects): a known age of 5 subjects is needed'
    )
    (text,) = unexamined_sites(cohort(ages, [None] * 16 + [*'MFMF'] + ['M', 'F'] * 10))
    assert 'with sex was not examined for A (sex known of 4 of 20 subjects): ' in text
    of_few, alone = unexamined_sites(cohort([*range(20, 40)] + [np.nan] * 20, sexes))
    assert 'for B (age known of 0 of 20 subjects): ' in of_few
    assert alone.endswith('not examined for A: no subject of another site has a known age')


def test_a_site_that_is_alone_cannot_be_confounded():
    data = cohort([*range(20, 60)], 'MF' * 20)
    assert unexamined_sites(replace(data, sites=('A',) * 40)) == []


def test_ages_beyond_those_of_the_references():
    children = cohort(np.linspace(6, 11, 10), 'MF' * 5)
    line = ages_beyond(children, 44, 16)
    assert line is not None and '6 to 11 years old' in line and '12 to 76 years' in line
    assert ages_beyond(cohort(np.linspace(80, 90, 10), 'MF' * 5), 44, 16) is not None
    for ages in (np.linspace(6, 20, 10), np.linspace(70, 90, 10), [8.0] * 4 + [np.nan] * 6):
        assert ages_beyond(cohort(ages, 'MF' * 5), 44, 16) is None
