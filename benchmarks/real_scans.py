"""Real scans of several sites, as the benchmark of real scanners takes them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import binary_erosion, binary_fill_holes

from benchmarks.phantoms import PROTOCOL
from benchmarks.universal import VOLUMES, real_data
from ddae_app.evaluation.probes import folds
from ddae_app.imaging.slices import TRAINING_NEIGHBORS, slice_indices
from ddae_app.methods.data import SliceData
from ddae_app.settings import Protocol

NEAR = 2 * TRAINING_NEIGHBORS + 1
"""Slices of a person that the train level takes for the medial slice."""

EDGE_PIXELS = 6


@dataclass(frozen=True)
class Scans:
    """Preprocessed scans of people of similar ages.

    Attributes
    ----------
    stacks : np.ndarray, shape (N, D, H, W), float32
        Whole volumes, or the slices near the medial one; that one is in the middle. 0 outside the
        brain, brain about 0 to 1. It may be mapped from a file.
    people : pandas.DataFrame, N rows
        ``subject``, ``site``, ``age``, ``sex``, and ``learnt``: whether the packaged networks
        learned from this person, who is then never judged on.
    volumes : bool
        Whether methods take whole volumes; else they take the medial slice.
    interior : np.ndarray, shape (H, W), bool
        The part of the medial slice that is brain in everybody, and ``EDGE_PIXELS`` from its edge.
    """

    stacks: np.ndarray
    people: pd.DataFrame
    volumes: bool
    interior: np.ndarray

    @property
    def sites(self) -> np.ndarray:
        """Of each scan, shape (N,), str."""
        return self.people['site'].to_numpy(str)

    @property
    def subjects(self) -> np.ndarray:
        """Of each scan, shape (N,), str."""
        return self.people['subject'].to_numpy(str)

    @property
    def judged(self) -> np.ndarray:
        """Rows of the people whom the packaged networks never saw."""
        return np.flatnonzero(~self.people['learnt'].to_numpy(bool))

    @property
    def protocol(self) -> Protocol:
        """How the scans were preprocessed, and which slices a model takes."""
        return VOLUMES if self.volumes else PROTOCOL

    def slices(self) -> np.ndarray:
        """The medial slice of each scan, shape (N, H, W)."""
        return medial(self.stacks)

    def inputs(self) -> np.ndarray:
        """What a method harmonizes, shape (N, H, W), or (N, D, H, W) if volumes."""
        return self.stacks if self.volumes else self.slices()

    def training(self) -> SliceData:
        """What the train level gives: whole volumes, or all slices near the medial one."""
        images, each = (self.stacks, 1) if self.volumes else (_alone(self.stacks), NEAR)
        people = self.people.loc[self.people.index.repeat(each)]
        return SliceData(
            images,
            tuple(people['site']),
            people['age'].to_numpy(float),
            tuple(people['sex']),
            tuple(people['subject']),
        )

    def take(self, rows: np.ndarray) -> Scans:
        """Some of the scans."""
        people = self.people.iloc[rows].reset_index(drop=True)
        return replace(self, stacks=self.stacks[rows], people=people)

    def deal(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the people to fit to, and of the others, to judge on.

        People are dealt into halves as at the group level; two deals in turn have the same halves,
        each of which is fitted to once. The people whom the networks learned from are spread over
        both halves evenly.

        Parameters
        ----------
        number : int
            From 0.
        """
        strata = np.char.add(self.sites, self.people['learnt'].to_numpy().astype(str))
        return folds(strata, self.subjects, 2, number // 2)[number % 2]

    def probe_folds(self, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows to train a probe on and rows to test it on, in five folds."""
        with warnings.catch_warnings():
            # A site of four people is in the test of four folds only, which does no harm.
            warnings.filterwarnings('ignore', 'The least populated class', UserWarning)
            return folds(self.sites, self.subjects, 5, seed)


def medial(stacks: np.ndarray) -> np.ndarray:
    """The slice in the middle of each stack (N, D, H, W), shape (N, H, W)."""
    return np.ascontiguousarray(stacks[:, stacks.shape[1] // 2])


def interior_of(slices: np.ndarray) -> np.ndarray:
    """The part of slices (N, H, W) that is brain in all, without its edge; shape (H, W), bool."""
    shared = binary_fill_holes((slices > 0).all(axis=0))  # a ventricle may hold a pixel of 0
    return binary_erosion(shared, iterations=EDGE_PIXELS)


def _alone(stacks: np.ndarray) -> np.ndarray:
    """Each slice of some stacks as a scan, shape (N D, 1, H, W)."""
    return stacks.reshape(-1, 1, *stacks.shape[2:])


def read_scans(
    bids_dir: Path,
    work_dir: Path,
    preproc_dir: Path | None,
    ages: tuple[float, float],
    sites: list[str] | None,
    volumes: bool,
) -> Scans:
    """The scans of people in a range of ages, preprocessed here unless that was done before.

    Parameters
    ----------
    bids_dir, work_dir : Path
    preproc_dir : Path, optional
        What ``ddae-app ... participant --stage preproc`` made of the dataset.
    ages : tuple of two float
        Years, both included.
    sites : list of str, optional
        All by default.
    volumes : bool
        Whether to keep whole volumes, or only the slices near the medial one.
    """
    store, table = work_dir / f'{"volumes" if volumes else "near"}.npy', work_dir / 'people.tsv'
    if not (store.is_file() and table.is_file()):
        whole = work_dir / 'volumes.npy'
        data = real_data(
            bids_dir, preproc_dir or preprocess(bids_dir, work_dir), whole, learnt=None
        )
        if not volumes:
            (middle,) = slice_indices(PROTOCOL)
            near = slice(middle - TRAINING_NEIGHBORS, middle + TRAINING_NEIGHBORS + 1)
            np.save(store, data.images[:, near])
            whole.unlink()
        people = pd.DataFrame(
            {'subject': data.subjects, 'site': data.sites, 'age': data.ages, 'sex': data.sexes}
        )
        people['learnt'] = people.groupby('site').cumcount() % 2 == 0  # as benchmarks.universal
        people.to_csv(table, sep='\t', index=False)
    people = pd.read_csv(table, sep='\t')
    chosen = people['age'].between(*ages) & people['site'].isin(sites or people['site'])
    stacks = np.load(store, mmap_mode='r')[np.flatnonzero(chosen)]
    return Scans(
        stacks, people[chosen].reset_index(drop=True), volumes, interior_of(medial(stacks))
    )


def preprocess(bids_dir: Path, work_dir: Path) -> Path:
    """Preprocess all scans by the command line of the program, and return its output folder."""
    out = work_dir / 'preprocessed'
    command = [bids_dir, out, 'participant', '--stage', 'preproc', '-w', work_dir / 'nipype']
    subprocess.run([sys.executable, '-m', 'ddae_app', *map(str, command)], check=True)
    return out
