"""The names of the files that are written of a table of features.

Of a table ``aparc.tsv``::

    features/aparc_desc-source.tsv, .json                   as read from stats files
    features/aparc_desc-harmonized.tsv, .json               harmonized, and its sidecar
    features/aparc_desc-anatomy.tsv, .json                  what the anatomy guard found
    aparc_features.html                                     page
    group_aparc_features.tsv, .html                         group level
    models/aparc_features.safetensors, ..._features_MODEL.md   model and its card
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from ddae_app.bids.layout import FEATURES_MODEL, ModelFiles
from ddae_app.errors import UsageError

_SOURCE = '_desc-source'


@dataclass(frozen=True)
class FeatureFiles:
    """The files of one table in an output dataset.

    Attributes
    ----------
    root : Path
    name : str
        Of the table, see :func:`table_name`.
    """

    root: Path
    name: str

    @property
    def source(self) -> Path:
        """The table as it was read from stats files; its sidecar has the same name."""
        return self.root / 'features' / f'{self.name}{_SOURCE}.tsv'

    @property
    def harmonized(self) -> Path:
        """The harmonized table; its sidecar has the same name."""
        return self.root / 'features' / f'{self.name}_desc-harmonized.tsv'

    @property
    def anatomy(self) -> Path:
        """What the anatomy guard found of each row; its sidecar has the same name."""
        return self.root / 'features' / f'{self.name}_desc-anatomy.tsv'

    @property
    def page(self) -> Path:
        """What was done, for people."""
        return self.root / f'{self.name}_features.html'

    @property
    def group_table(self) -> Path:
        """The measures of the evaluation."""
        return self.root / f'group_{self.name}_features.tsv'

    @property
    def group_page(self) -> Path:
        """The page of the group level."""
        return self.group_table.with_suffix('.html')

    def model(self, name: str | None = None) -> ModelFiles:
        """The files of a model that was fitted here, by default under the name of the table."""
        stem = FEATURES_MODEL.removesuffix('.safetensors')
        return ModelFiles(self.root / 'models', f'{name or self.name}{stem}')


def table_name(path: Path) -> str:
    """The name of a table without its ending: letters and digits of any script, and ``_.+-``.

    One that was read from stats files is named as what was read.

    Raises
    ------
    UsageError
        It has neither a letter nor a digit.
    """
    stem = unicodedata.normalize('NFC', path.stem).removesuffix(_SOURCE)
    if not any(map(str.isalnum, stem)):
        raise UsageError(
            f'--features {path}: a name without a letter or a digit, by which outputs are named; '
            'rename the file'
        )
    return re.sub(r'[^\w.+-]', '-', stem).lstrip('-')
