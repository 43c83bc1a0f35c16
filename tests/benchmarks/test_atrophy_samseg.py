"""What the benchmark of SAMSEG makes of the volumes that SAMSEG writes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.atrophy_samseg import STRUCTURES, compare, measured_rows, volumes_of
from benchmarks.phantoms import TARGET

VISITS = pd.DataFrame(
    [('a', TARGET, 0), ('a', 'X', 0), ('a', 'Y', 0), ('a', 'X', 1), ('a', 'X', 7), ('a', 'X', 8),
     ('b', TARGET, 0), ('b', 'X', 0), ('b', 'Y', 0), ('b', 'Y', 1), ('b', 'Y', 7), ('b', 'Y', 8)],
    columns=['person', 'site', 'visit'],
)  # fmt: skip


def test_people_are_measured_at_their_own_scanner_and_once_at_that_of_the_target():
    assert measured_rows(VISITS, 1, [7, 8]) == [0, 1, 4, 5]
    assert measured_rows(VISITS, 2, [7, 8]) == [0, 1, 4, 5, 6, 8, 10, 11]


def test_a_volume_is_that_of_all_its_parts_on_both_sides(tmp_path):
    names = [part for parts in STRUCTURES.values() for part in parts]
    parts = [f'{side}-{part}' for side in ('Left', 'Right') for part in names] + ['Intra-Cranial']
    rows = [f'# Measure {part}, {i}.500000, mm^3' for i, part in enumerate(parts)]
    stats = tmp_path / 'scan.stats'
    stats.write_text('\n'.join(rows) + '\n')
    assert volumes_of(stats) == {
        'ventricles': 0.5 + 1.5 + 5.5 + 6.5, 'cortex': 2.5 + 7.5, 'hippocampi': 3.5 + 8.5,
        'white matter': 4.5 + 9.5, 'intracranial': 10.5,
    }  # fmt: skip


def measured(change: np.ndarray) -> dict[str, pd.DataFrame]:
    """Volumes that change by some percent in the truth, and by half of it in the source."""
    rows = measured_rows(VISITS, 2, [7, 8])
    head = VISITS.loc[rows].assign(intracranial=1000.0)
    truth = head.assign(**dict.fromkeys(STRUCTURES, 100.0 + change))
    source = head.assign(**dict.fromkeys(STRUCTURES, 200.0 + change))
    source.loc[source.site == TARGET, list(STRUCTURES)] = 160.0
    return {'truth': truth, 'source': source}


def cells(table: str) -> list[str]:
    """Slope, slopes of people and distance between scanners, of the cortex."""
    (line,) = (row for row in table.splitlines() if row.startswith('| source | cortex'))
    return [cell.strip() for cell in line.strip('|').split('|')[2:]]


def test_the_slope_is_that_of_the_measured_change_on_the_true_one():
    change = np.array([0, 0, 10, -10, 0, 0, 5, -10])  # percent
    table = compare(measured(change))
    slope, people, apart = cells(table)
    assert 'Left out' not in table
    assert float(slope) == pytest.approx(0.5) and people == '0.50 to 0.50'
    assert float(apart) == 25.0


def test_a_visit_where_samseg_failed_is_left_out_and_named():
    found = measured(np.array([0, 0, 10, -10, 0, 0, 5, -10]))
    last = found['truth'].index[-1]
    found['truth'].loc[last, [*STRUCTURES, 'intracranial']] = 40.0, 40.0, 40.0, 40.0, 950.0
    table = compare(found)
    slope, people, _ = cells(table)
    assert float(slope) == pytest.approx(0.5) and people == ''  # one change alone has no line
    assert 'Left out: visit 8 of b, where SAMSEG failed in truth.' in table


def test_without_a_first_scan_a_person_is_left_out():
    found = measured(np.array([0, 0, 10, -10, 0, 0, 5, -10]))
    first = found['source'].index[0]
    found['source'].loc[first, 'intracranial'] = 950.0
    table = compare(found)
    slope, people, apart = cells(table)
    assert float(slope) == pytest.approx(0.5) and people == '' and float(apart) == 25.0
    assert 'Left out: visit 0 of a, where SAMSEG failed in source.' in table
    assert 'With it, all visits of a are left out' in table
