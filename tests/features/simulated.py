"""Tables of features with known site effects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ddae_app.features.people import RowLabels
from ddae_app.features.table import FeatureTable

SITES = ('A', 'B', 'C')


def labels_of(n: int, *, seed: int = 0, sessions: int = 1) -> RowLabels:
    """`n` people of each site, with so many sessions each, two years apart."""
    rng = np.random.default_rng(seed)
    people = n * len(SITES)
    first = rng.uniform(20, 80, people)
    visit = np.tile(np.arange(sessions), people)
    return RowLabels(
        sites=np.repeat(SITES, n * sessions),
        subjects=np.repeat([f'{i:03d}' for i in range(people)], sessions),
        ages=np.repeat(first, sessions) + 2.0 * visit,
        sexes=np.repeat(rng.choice(np.array(['F', 'M'], dtype=object), people), sessions),
    )


def truth_of(
    labels: RowLabels, features: int = 12, *, seed: int = 1, own: float = 0
) -> np.ndarray:
    """Features without site effects: age, sex, what is a person's own, and noise of SD 1."""
    rng = np.random.default_rng(seed)
    people = len(np.unique(labels.subjects))
    slopes = rng.uniform(-0.05, 0.05, features)
    y = 50 + np.outer(labels.ages - 50, slopes)
    y += np.outer(labels.sexes == 'F', rng.normal(0, 0.5, features))
    y += own * rng.normal(size=(people, features))[labels.persons]
    return y + rng.normal(size=y.shape)


def with_sites(
    truth: np.ndarray, labels: RowLabels, *, shift: float = 2.0, seed: int = 2
) -> np.ndarray:
    """Each site but the first adds a shift to each feature, and scales its deviation from 50."""
    rng = np.random.default_rng(seed)
    y = truth.copy()
    for site in labels.site_names[1:]:
        here = labels.sites == site
        scale = rng.uniform(0.6, 1.6)
        y[here] = 50 + scale * (y[here] - 50) + shift * rng.normal(1, 0.3, y.shape[1])
    return y


def table_of(
    values: np.ndarray, labels: RowLabels, names: list[str] | None = None
) -> FeatureTable:
    names = names or [f'f{i}' for i in range(values.shape[1])]
    return FeatureTable(
        Path('t.tsv'), tuple(labels.subjects), (None,) * len(values), tuple(names), values,
        ('participant_id', *names), ((),) * len(values),
    )  # fmt: skip


def write_dataset(folder: Path, labels: RowLabels) -> Path:
    """A dataset of these people without a scan, and sessions tables where there are several."""
    folder.mkdir(parents=True)
    (folder / 'dataset_description.json').write_text(
        json.dumps({'Name': 'tables', 'BIDSVersion': '1.10.0'})
    )
    lines = ['participant_id\tsite\tage\tsex']
    for subject in np.unique(labels.subjects):
        rows = np.flatnonzero(labels.subjects == subject)
        site, age, sex = (v[rows[0]] for v in (labels.sites, labels.ages, labels.sexes))
        several = len(rows) > 1
        lines.append(f'sub-{subject}\t{site}\t{"n/a" if several else age}\t{sex or "n/a"}')
        if several:
            (folder / f'sub-{subject}').mkdir()
            visits = [f'ses-{i + 1}\t{labels.ages[row]}' for i, row in enumerate(rows)]
            (folder / f'sub-{subject}' / f'sub-{subject}_sessions.tsv').write_text(
                '\n'.join(['session_id\tage', *visits]) + '\n'
            )
    (folder / 'participants.tsv').write_text('\n'.join(lines) + '\n')
    return folder


def write_table(path: Path, values: np.ndarray, labels: RowLabels) -> Path:
    """The table of these values, with a column of sessions where people have several."""
    mark = ',' if path.suffix == '.csv' else '\t'
    names = [f'f{i}' for i in range(values.shape[1])]
    several = len(np.unique(labels.subjects)) < len(values)
    lines = [mark.join(['participant_id', *(['session_id'] if several else []), *names])]
    seen: dict[str, int] = {}
    for subject, row in zip(labels.subjects, values, strict=True):
        seen[subject] = seen.get(subject, 0) + 1
        session = [f'ses-{seen[subject]}'] if several else []
        cells = ['n/a' if np.isnan(value) else repr(float(value)) for value in row]
        lines.append(mark.join([f'sub-{subject}', *session, *cells]))
    path.write_text('\n'.join(lines) + '\n')
    return path
