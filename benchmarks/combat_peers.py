"""ComBat of tables against neuroCombat and neuroHarmonize, on a real table.

    python3 -m venv PEERS && PEERS/bin/pip install neuroCombat==0.2.12 neuroHarmonize==2.5.2
    python -m benchmarks.combat_peers TABLE PEOPLE PEERS/bin/python

The peers need an older NumPy, hence an environment of their own. TABLE and PEOPLE are read as by
:mod:`benchmarks.tables`. What is printed is the largest difference of any value, in standard
deviations of its feature. neuroCombat computes in single precision, so that all get the table
rounded to that.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.tables import labels_of, read, table_of
from ddae_app.features.fit import fit_model

PEERS = """
import contextlib, io, json, sys
import numpy as np, pandas as pd
np.int = int
from neuroCombat import neuroCombat
from neuroHarmonize import harmonizationLearn
data = np.load(sys.argv[1], allow_pickle=False)
y, site, age, sex = (data[name] for name in ('y', 'site', 'age', 'sex'))
known = pd.DataFrame({'SITE': site, 'age': age, 'sex': (sex == 'F').astype(float)})
found = {}
for reference in (None, str(data['reference'])):
    name = 'mean' if reference is None else 'reference'
    with contextlib.redirect_stdout(io.StringIO()):
        found[f'neuroCombat {name}'] = neuroCombat(
            y.T, known, 'SITE', categorical_cols=['sex'], continuous_cols=['age'],
            ref_batch=reference,
        )['data'].T
        found[f'neuroHarmonize {name}'] = harmonizationLearn(y, known, ref_batch=reference)[1]
np.savez(sys.argv[2], **found)
"""


def compare(values: pd.DataFrame, demographics: pd.DataFrame, python: Path) -> dict[str, float]:
    """The largest difference to each peer, in standard deviations of the feature.

    Parameters
    ----------
    values, demographics : pandas.DataFrame
        As :func:`benchmarks.tables.read` returns them.
    python : Path
        Of the environment of the peers.
    """
    labels, table = labels_of(demographics), table_of(values.astype(np.float32).astype(float))
    labels = type(labels)(
        labels.sites, labels.subjects, labels.ages.astype(np.float32).astype(float), labels.sexes
    )
    reference = labels.site_names[0]
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, 'given.npz'), Path(folder, 'found.npz')
        np.savez(
            given, y=table.values, site=labels.sites, age=labels.ages,
            sex=labels.sexes.astype(str), reference=reference,
        )  # fmt: skip
        subprocess.run([str(python), '-c', PEERS, str(given), str(found)], check=True)
        theirs = dict(np.load(found))
    model, _ = fit_model(table, labels, name='peers')
    ours = {
        'mean': model.harmonized(table, labels),
        'reference': model.harmonized(table, labels, reference),
    }
    sd = table.values.std(axis=0)
    return {
        name: float((np.abs(peer - ours[name.split()[1]]) / sd).max())
        for name, peer in theirs.items()
    }


def main() -> None:
    """Print the differences as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('table', type=Path)
    parser.add_argument('people', type=Path)
    parser.add_argument('python', type=Path, help='Python of the environment of the peers')
    asked = parser.parse_args()
    print(json.dumps(compare(*read(asked.table, asked.people), asked.python), indent=2))


if __name__ == '__main__':
    main()
