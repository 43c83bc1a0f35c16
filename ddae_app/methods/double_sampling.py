"""What a site adds to a measure that takes long, and that is known of few scans.

A related measure that is known of all scans says by how much these few happen to differ from the
others (the regression estimator under double sampling: Cochran 1977, Sampling Techniques,
chapter 12).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ddae_app.methods.data import SliceData
from ddae_app.methods.site_effects import Center, solved, subjects_per_site


def effects_by_value(
    data: SliceData,
    rows: np.ndarray,
    values: np.ndarray,
    every_row: np.ndarray,
    related: np.ndarray,
) -> np.ndarray:
    """What each site adds to a measure, where every value is shrunk by itself.

    Each value is shrunk by the part of its variance between the sites that chance alone would make
    (empirical Bayes). So values that differ much between people, such as dark quantiles, do not
    hide what sites add to others.

    Parameters
    ----------
    data : SliceData
    rows : np.ndarray of int, length N
    values : np.ndarray, shape (N, K)
        The measure in these rows.
    every_row : np.ndarray of int, length M
        Among these are ``rows``.
    related : np.ndarray, shape (M, K)
        A measure that is related to the other, in all these rows, value by value.

    Returns
    -------
    np.ndarray, shape (S, K)
        Of each of ``data.site_names``.
    """
    place = {row: i for i, row in enumerate(every_row.tolist())}
    of_these = related[[place[row] for row in rows.tolist()]]
    few, same_few = (_Fit.of(data, rows, measure) for measure in (values, of_these))
    every = _Fit.of(data, every_row, related)
    product = (few.residuals * same_few.residuals).sum(axis=0)
    slope = product / np.maximum(np.square(same_few.residuals).sum(axis=0), 1e-12)
    # Where all rows are measured, nothing is added.
    effects = few.effects + slope * (every.effects - same_few.effects)
    own = replace(few, residuals=few.residuals - slope * same_few.residuals)
    by_chance = own.by_chance() + slope**2 * every.by_chance()
    between = np.square(effects).sum(axis=0) / max(len(effects) - 1, 1)
    return effects * np.maximum(1 - by_chance / np.maximum(between, 1e-12), 0)


@dataclass(frozen=True)
class _Fit:
    """Regression of a measure on site, age and sex.

    ``effects``, shape (S, K), are those of the sites, and ``residuals``, shape (N, K), what they,
    age and sex leave of each row; ``people`` says how many there are of each site.
    """

    effects: np.ndarray
    residuals: np.ndarray
    columns: int
    people: list[int]

    @classmethod
    def of(cls, data: SliceData, rows: np.ndarray, values: np.ndarray) -> _Fit:
        member = np.array(data.sites)[rows][:, None] == np.array(data.site_names)
        covariates = Center.of(data, rows).columns(data, rows)
        design = np.concatenate([member, covariates], axis=1).astype(np.float64)
        beta = solved(design.T @ design, float(len(rows)), design.T @ values)
        sites = beta[: len(data.site_names)]
        return cls(
            sites - sites.mean(axis=0),
            values - design @ beta,
            design.shape[1],
            subjects_per_site(data, rows),
        )

    def by_chance(self) -> np.ndarray:
        """Variance of the effects that people make who happen to be scanned, shape (K,)."""
        left = np.square(self.residuals).sum(axis=0) / max(len(self.residuals) - self.columns, 1)
        return left * np.mean(1 / np.array(self.people))
