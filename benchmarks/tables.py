"""Tables of regional volumes of real people: what ComBat does to site, age and sex.

    python -m benchmarks.tables TABLE PEOPLE WORK

TABLE has a column ID and one for each region, PEOPLE the columns ID, Age and Sex; the site is the
second part of an ID, as in ``IXI013-HH-1212-T1``. The three levels run in WORK by the command
line. Then the site is classified, and age predicted, in plain five-fold cross-validation over all
people, with ComBat fitted inside of each fold to its training people.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import pearsonr
from sklearn.metrics import balanced_accuracy_score

from ddae_app.cli.main import main as ddae_app
from ddae_app.evaluation.probes import Components, folds
from ddae_app.features.fit import fit_model
from ddae_app.features.people import RowLabels
from ddae_app.features.table import FeatureTable


def read(table: Path, people: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Regions of each person, and ``subject``, ``site``, ``age`` and ``sex``."""
    merged = pd.read_csv(table).merge(pd.read_csv(people), on='ID')
    parts = merged['ID'].str.split('-')
    known = pd.DataFrame(
        {'subject': parts.str[0], 'site': parts.str[1], 'age': merged['Age'], 'sex': merged['Sex']}
    )
    return merged.drop(columns=['ID', 'Age', 'Sex']).add_prefix('region_'), known


def labels_of(known: pd.DataFrame) -> RowLabels:
    """What :func:`read` tells of the people, as the program takes it."""
    return RowLabels(
        known['site'].to_numpy(str), known['subject'].to_numpy(str), known['age'].to_numpy(float),
        known['sex'].to_numpy(object),
    )  # fmt: skip


def table_of(values: pd.DataFrame) -> FeatureTable:
    """A table of these regions, of numbered people."""
    n, names = len(values), tuple(values.columns)
    return FeatureTable(
        Path('table.tsv'), tuple(map(str, range(n))), (None,) * n, names, values.to_numpy(float),
        ('participant_id', *names), ((),) * n,
    )  # fmt: skip


def write_dataset(folder: Path, values: pd.DataFrame, known: pd.DataFrame) -> Path:
    """A dataset of these people without scans; the path of the table beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'dataset_description.json').write_text('{"Name": "table", "BIDSVersion": "1.10.0"}')
    people = 'sub-' + known['subject']
    known.drop(columns='subject').assign(participant_id=people).set_index('participant_id').to_csv(
        folder / 'participants.tsv', sep='\t', na_rep='n/a'
    )
    table = folder.parent / 'regions.tsv'
    values.assign(participant_id=people).set_index('participant_id').to_csv(
        table, sep='\t', na_rep='n/a'
    )
    return table


def cross_validated(
    values: pd.DataFrame, known: pd.DataFrame, *, harmonized: bool
) -> tuple[float, float, float]:
    """Balanced accuracy of the site, correlation of age, and its mean absolute error, years.

    Parameters
    ----------
    values, known : pandas.DataFrame
    harmonized : bool
        Whether ComBat, fitted to the training people, is applied to all.
    """
    labels, table = labels_of(known), table_of(values)
    site, age = np.empty_like(labels.sites), np.empty(len(labels.ages))
    for train, test in folds(labels.sites, labels.subjects, 5, 0):
        y = table.values
        if harmonized:
            model, _ = fit_model(table.rows(train), labels.rows(train), name='fold')
            y = model.harmonized(table, labels)
        z = (y - y[train].mean(axis=0)) / y[train].std(axis=0)
        components = Components.fit(z[train])
        site[test] = components.fit_classifier(labels.sites[train])(z[test])
        age[test] = components.fit_regression(labels.ages[train])(z[test])
    return (
        float(balanced_accuracy_score(labels.sites, site)),
        float(pearsonr(age, labels.ages).statistic),
        float(np.abs(age - labels.ages).mean()),
    )


def main() -> None:
    """Run the three levels, and print both evaluations as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ('table', 'people', 'work'):
        parser.add_argument(name, type=Path)
    parser.add_argument('--method', choices=('combat', 'ddae'), default='combat')
    asked = parser.parse_args()
    values, known = read(asked.table, asked.people)
    bids, out = asked.work / 'bids', asked.work / 'out'
    table = write_dataset(bids, values, known)
    for level in ('train', 'participant', 'group'):
        flags = ['--features', str(table), '-w', str(asked.work / 'work')]
        flags += ['--method', asked.method] if level == 'train' else []
        if code := ddae_app([str(bids), str(out), level, *flags]):
            raise SystemExit(code)
    measures = pd.read_csv(out / 'group_regions_features.tsv', sep='\t')
    measures['cell'] = [
        f'{v:.3g} [{a:.3g}, {b:.3g}]'
        for v, a, b in zip(measures['value'], measures['low'], measures['high'], strict=True)
    ]
    wide = measures.pivot(index='measure', columns='table', values='cell').fillna('n/a')
    print('| measure |', ' | '.join(wide.columns), '|')
    print('|---' * (len(wide.columns) + 1) + '|')
    for name, row in wide.iterrows():
        print(f'| {name} |', ' | '.join(row), '|')
    print('\n| five folds over all people | site | age r | age error, years |\n|---|---|---|---|')
    for name, harmonized in (('source', False), ('ComBat, fitted in the fold', True)):
        figures = cross_validated(values, known, harmonized=harmonized)
        print(f'| {name} |', ' | '.join(f'{figure:.2f}' for figure in figures), '|')


if __name__ == '__main__':
    main()
