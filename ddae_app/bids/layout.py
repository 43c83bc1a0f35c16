"""The names of all files that the program writes: made, and recognized, here alone.

Every path is absolute. The output dataset is laid out as follows, ``<scan>`` being the name of a
scan up to its suffix, for example ``sub-01_ses-1_run-2``::

    sub-01.html                                             page of a participant
    sub-01/[ses-1/]anat/<scan>_[space-..._res-..._]desc-..._T1w.nii.gz   images
    sub-01/[ses-1/]sub-01_[ses-1_]scans.tsv                 quality measures
    sub-01/figures/<scan>_desc-..._T1w.svg                  figures of the page
    group_T1w.tsv, group_T1w.html, group_metrics.json       group level
    models/<name>.safetensors, <name>_MODEL.md, ...         train level
    logs/<run id>/                                          settings, log, methods text of a run
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ddae_app.bids.scan import Scan, Space


class Preprocessed(NamedTuple):
    """What preprocessing wrote of a scan: image, brain mask, and the affine to template space."""

    image: Path
    mask: Path
    transform: Path


class ImageKind(NamedTuple):
    """How an image of the output dataset is named."""

    desc: str
    suffix: str = 'T1w'
    native: bool = False
    """Whether it is in the scan's own space, rather than in template space."""


IMAGES = {
    'preproc': ImageKind('preproc'),
    'mask': ImageKind('brain', 'mask'),
    'slices': ImageKind('slices'),
    'harmonized': ImageKind('harmonized'),
    'native': ImageKind('harmonized', native=True),
    'effect': ImageKind('siteeffect'),
    'native_effect': ImageKind('siteeffect', native=True),
}
"""The images of a scan, by what the program calls them."""

PREPROC_FIGURES = ('registration', 'brain')
HARMONIZE_FIGURES = ('harmonized', 'flicker', 'histogram')
VOLUME_FIGURES = ('planes',)
"""The figures of a scan, by the stage that draws them; the last of whole scans alone."""

IMAGE, FIGURE, MODEL = '.nii.gz', '.svg', '.safetensors'
FEATURES_MODEL = f'_features{MODEL}'

CITATION_FORMATS = ('md', 'html', 'tex', 'bib')

# No trailing slashes: the validator would not silence the folders (bids-validator#291).
BIDSIGNORE = '*.html\nfigures\n*_xfm.*\ngroup_*\nmodels\nfeatures\ntargets\n.*.lock\n.tmp-*\n'

_IMAGE = re.compile(
    r'(?P<stem>sub-[A-Za-z0-9+]+(?:_[A-Za-z0-9]+-[A-Za-z0-9+]+)*?)'
    r'(?:_space-(?P<space>[A-Za-z0-9+]+)_res-(?P<res>[A-Za-z0-9+]+))?'
    r'_desc-(?P<desc>[A-Za-z0-9+]+)_(?P<suffix>T1w|mask)(?P<ending>\.nii\.gz|\.json|\.svg)'
)


@dataclass(frozen=True)
class ImageName:
    """The parts of the name of an image, a sidecar or a figure.

    Attributes
    ----------
    kind : str
        A key of ``IMAGES``, or the label of a figure.
    stem : str
        Of the scan.
    space, res : str or None
        Of an image in template space.
    ending : {'.nii.gz', '.json', '.svg'}
    """

    kind: str
    stem: str
    space: str | None
    res: str | None
    ending: str

    @property
    def participant(self) -> str:
        """Label of the participant."""
        return self.stem.split('_')[0].removeprefix('sub-')


def read_name(path: Path | str) -> ImageName | None:
    """The parts of the name of an image, a sidecar or a figure of ours; None of any other file.

    >>> read_name('sub-01_run-2_space-MNI_res-130_desc-preproc_T1w.nii.gz').kind
    'preproc'
    >>> read_name('sub-01_desc-harmonized_T1w.json').kind
    'native'
    """
    match = _IMAGE.fullmatch(Path(path).name)
    if match is None:
        return None
    parts = match.groupdict()
    stem, space, res, ending = (parts[key] for key in ('stem', 'space', 'res', 'ending'))
    if ending == FIGURE:
        figures = (*PREPROC_FIGURES, *HARMONIZE_FIGURES, *VOLUME_FIGURES)
        known = parts['desc'] in figures and parts['suffix'] == 'T1w' and space is None
        return ImageName(parts['desc'], stem, space, res, ending) if known else None
    wanted = ImageKind(parts['desc'], parts['suffix'], native=space is None)
    kind = next((name for name, image in IMAGES.items() if image == wanted), None)
    return ImageName(kind, stem, space, res, ending) if kind else None


def sidecar(path: Path) -> Path:
    """The JSON file that belongs to an image, a table or a map on the cortex."""
    name = path.name.removesuffix('.gz').removesuffix('.nii').removesuffix('.tsv')
    name = name.removesuffix('.shape.gii').removesuffix('.dscalar')
    return path.with_name(f'{name}.json')


def lock(path: Path) -> Path:
    """The file by which processes take turns to write another one."""
    return path.with_name(f'.{path.name}.lock')


@dataclass(frozen=True)
class Layout:
    """The files of an output dataset.

    Attributes
    ----------
    root : Path
    """

    root: Path

    def uri(self, path: Path, links: Mapping[str, Path] = MappingProxyType({})) -> str:
        """BIDS URI of a file of the dataset, or of one that it links to by name."""
        for name, root in {'': self.root, **links}.items():
            if path.is_relative_to(root):
                return f'bids:{name}:{path.relative_to(root).as_posix()}'
        raise ValueError(f'{path} is in none of the datasets {self.root}, {dict(links)}')

    @property
    def description(self) -> Path:
        """What BIDS asks of every dataset."""
        return self.root / 'dataset_description.json'

    @property
    def readme(self) -> Path:
        """What the dataset is, for people."""
        return self.root / 'README.md'

    @property
    def ignored(self) -> Path:
        """The list of files that are not BIDS."""
        return self.root / '.bidsignore'

    @property
    def labels(self) -> Path:
        """The table of the ``desc-`` labels."""
        return self.root / 'descriptions.tsv'

    def figure(self, scan: Scan, desc: str) -> Path:
        """A figure of a scan."""
        return self.figures(scan.participant) / f'{scan.stem}_desc-{desc}_T1w{FIGURE}'

    def figures(self, participant: str) -> Path:
        """The folder of the figures of a participant."""
        return self.root / f'sub-{participant}' / 'figures'

    def page(self, participant: str) -> Path:
        """The page of a participant."""
        return self.root / f'sub-{participant}.html'

    def scans_table(self, scan: Scan) -> Path:
        """The table that holds the quality measures of a scan."""
        session = f'_ses-{scan.session}' if scan.session else ''
        return self.root / scan.folder.parent / f'sub-{scan.participant}{session}_scans.tsv'

    def scans_tables(self) -> list[Path]:
        """The tables with quality measures that are there; not what somebody is writing."""
        return sorted(self.root.glob('sub-*/**/sub-*_scans.tsv'))

    @property
    def group_table(self) -> Path:
        """The quality measures of all participants."""
        return self.root / 'group_T1w.tsv'

    @property
    def group_page(self) -> Path:
        """The page of the group level."""
        return self.root / 'group_T1w.html'

    @property
    def group_metrics(self) -> Path:
        """The measures of the group level with their intervals."""
        return self.root / 'group_metrics.json'

    def model(self, name: str) -> ModelFiles:
        """The files of a trained model."""
        return ModelFiles(self.root / 'models', name)

    def models(self) -> list[Path]:
        """The models of images that are there; not what somebody is writing."""
        found = sorted((self.root / 'models').glob(f'[!.]*{MODEL}'))
        return [path for path in found if not path.name.endswith(FEATURES_MODEL)]

    def run(self, run_id: str) -> RunFiles:
        """The files of a run."""
        return RunFiles(self.root / 'logs' / run_id)

    def runs(self) -> list[RunFiles]:
        """The runs that are there, the latest first, since run ids begin with the time."""
        # As many as jobs: the folder is read, and none of those in it.
        with suppress(OSError), os.scandir(self.root / 'logs') as entries:
            names = sorted((entry.name for entry in entries if entry.is_dir()), reverse=True)
            return [self.run(name) for name in names]
        return []

    def in_space(self, space: Space) -> SpaceLayout:
        """The images in a template space."""
        return SpaceLayout(self.root, space)


@dataclass(frozen=True)
class SpaceLayout(Layout):
    """The files of an output dataset whose images lie in one template space.

    Attributes
    ----------
    root : Path
    space : Space
    """

    space: Space

    def image(self, kind: str, scan: Scan) -> Path:
        """An image of a scan; `kind` is a key of ``IMAGES``."""
        return self.root / scan.folder / f'{scan.stem}{self.ending(kind)}'

    def ending(self, kind: str) -> str:
        """What follows the name of the scan in the name of an image."""
        image = IMAGES[kind]
        entities = {} if image.native else self.space.entities
        parts = [f'{key}-{value}' for key, value in (entities | {'desc': image.desc}).items()]
        return '_' + '_'.join([*parts, image.suffix]) + IMAGE

    def in_other_spaces(self, kind: str, scan: Scan) -> list[Path]:
        """Such images of a scan that are there in other template spaces."""
        own, image = self.image(kind, scan), IMAGES[kind]
        name = f'{scan.stem}_space-*_desc-{image.desc}_{image.suffix}{IMAGE}'
        return sorted(path for path in own.parent.glob(name) if path != own)

    def transform(self, scan: Scan) -> Path:
        """The affine from a scan to template space."""
        name = f'{scan.stem}_from-T1w_to-{self.space.protocol.template}_mode-image_xfm.txt'
        return self.root / scan.folder / name

    def preprocessed(self, scan: Scan) -> Preprocessed:
        """What later steps take of a preprocessed scan."""
        return Preprocessed(
            self.image('preproc', scan), self.image('mask', scan), self.transform(scan)
        )

    def preproc_outputs(self, scan: Scan) -> list[Path]:
        """All that preprocessing writes of a scan, but for sidecars."""
        figures = (self.figure(scan, desc) for desc in PREPROC_FIGURES)
        return [*self.preprocessed(scan), *figures]

    def harmonized_images(self, scan: Scan, *, site_effect: bool = False) -> dict[str, Path]:
        """The images that harmonization writes of a scan, by kind."""
        whole = self.space.protocol.depth > 1
        kinds = ['harmonized', 'slices', *(['native'] if whole else [])]
        if site_effect:
            kinds += ['effect', *(['native_effect'] if whole else [])]
        return {kind: self.image(kind, scan) for kind in kinds}

    def harmonize_outputs(self, scan: Scan, *, site_effect: bool) -> list[Path]:
        """All that harmonization writes of a scan, but for sidecars."""
        whole = self.space.protocol.depth > 1
        figures = (*HARMONIZE_FIGURES, *(VOLUME_FIGURES if whole else ()))
        images = self.harmonized_images(scan, site_effect=site_effect).values()
        return [*images, *(self.figure(scan, desc) for desc in figures)]

    def harmonize_leftovers(self, scan: Scan, *, site_effect: bool) -> list[Path]:
        """What is there of a harmonization with other options, and this one does not write."""
        written = self.harmonize_outputs(scan, site_effect=site_effect)
        images = [self.image(kind, scan) for kind in ('native', 'effect', 'native_effect')]
        others = [*images, *(self.figure(scan, desc) for desc in VOLUME_FIGURES)]
        left = [path for path in others if path not in written]
        return [file for path in left for file in (path, sidecar(path)) if file.is_file()]


@dataclass(frozen=True)
class ModelFiles:
    """The files of a trained model.

    Attributes
    ----------
    folder : Path
    name : str
    """

    folder: Path
    name: str

    @property
    def model(self) -> Path:
        """The model itself."""
        return self.folder / f'{self.name}{MODEL}'

    @property
    def losses(self) -> Path:
        """Table of the training and validation losses."""
        return self.folder / f'{self.name}_losses.tsv'

    @property
    def loss_curve(self) -> Path:
        """Figure of these."""
        return self.folder / f'{self.name}_losses{FIGURE}'

    @property
    def samples(self) -> Path:
        """Picture of one scan of each site, rendered at every site."""
        return self.folder / f'{self.name}_samples.png'

    @property
    def card(self) -> Path:
        """The model card."""
        return self.folder / f'{self.name}_MODEL.md'

    @property
    def is_made(self) -> bool:
        """Whether the train level has written it, to the end: the model comes after its card."""
        return self.model.is_file() and self.card.is_file()


@dataclass(frozen=True)
class RunFiles:
    """The files of a run's logs.

    Attributes
    ----------
    folder : Path
        Named by the run id.
    """

    folder: Path

    @property
    def run_id(self) -> str:
        """Time and random number of the run."""
        return self.folder.name

    @property
    def settings(self) -> Path:
        """The settings of the run, as ``--config-file`` takes them."""
        return self.folder / 'settings.toml'

    @property
    def command(self) -> Path:
        """The command line of the run."""
        return self.folder / 'command.txt'

    @property
    def log(self) -> Path:
        """What the run reported."""
        return self.folder / 'ddae-app.log'

    @property
    def graph(self) -> Path:
        """The workflow graph; an image of it has the same name."""
        return self.folder / 'graph.dot'

    @property
    def citations(self) -> dict[str, Path]:
        """The methods text by format."""
        return {ending: self.folder / f'CITATION.{ending}' for ending in CITATION_FORMATS}

    def crashes(self) -> list[Path]:
        """What nipype wrote of the steps that failed."""
        return sorted(self.folder.glob('crash-*.txt'))

    def link(self, path: Path) -> str:
        """Address of a file of the run for a page in the output folder."""
        return f'logs/{self.run_id}/{path.name}'
