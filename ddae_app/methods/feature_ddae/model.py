"""The DDAE of features: appearance of sites, networks, and how far these are trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from ddae_app.methods.condition import label_blind
from ddae_app.methods.ddae.schedule import noise_level, noise_times, split_prediction
from ddae_app.methods.feature_ddae.appearance import FeatureAppearance
from ddae_app.methods.feature_ddae.geometry import Geometry
from ddae_app.methods.feature_ddae.networks import FeatureNetworks
from ddae_app.methods.feature_ddae.sessions import SessionScales
from ddae_app.methods.location_scale import SiteRegression

FIRST_NOISE, LAST_NOISE, STEPS = 1.0, 0.1, 4
"""Noise levels of editing, as for images (:mod:`ddae_app.methods.ddae.editing`)."""

ROWS = 16
"""That are harmonized at once, or as many as a person has."""

APPEARANCE, NETWORKS, SESSIONS = 'appearance.', 'networks.', 'sessions.'
"""What the names of the arrays of the appearance, of the networks, and of the scales of sessions
begin with."""

UNIT, PLACES = f'{APPEARANCE}unit', 'places'
"""The names of the unit of shifts, which models of earlier versions do not have, and of the places
of vertices that :class:`Geometry` was given."""


@dataclass(frozen=True)
class FeatureDDAE:
    """A model of P features at S sites.

    Attributes
    ----------
    geometry : Geometry
    appearance : FeatureAppearance
        Of the sites of the networks, and after them of those that were calibrated.
    networks : FeatureNetworks
    trust : np.ndarray, shape (STEPS,), 0 to 1
        At each noise level, which part of the site effect of the networks is used: that which
        predicts features of people whom they were not trained on.
    sessions : SessionScales, optional
        Of the sites of the appearance; without, all rows are taken as of different people.
    """

    geometry: Geometry
    appearance: FeatureAppearance
    networks: FeatureNetworks
    trust: np.ndarray
    sessions: SessionScales | None = None

    def harmonized(
        self,
        y: np.ndarray,
        sites: np.ndarray,
        covariates: np.ndarray,
        persons: np.ndarray,
        target: int | None,
    ) -> np.ndarray:
        """The features as if measured at the target, or at the mean of all sites.

        Age and sex of a row enter as in ComBat alone, in what is protected; the networks are not
        told them.

        Parameters
        ----------
        y : np.ndarray, shape (N, P)
            NaN where a value is missing, and missing in the result.
        sites, persons : np.ndarray of int, shape (N,)
            The site of each row, of the appearance, and who it is of; all rows of a person say
            what the person is.
        covariates : np.ndarray, shape (N, C)
        target : int or None

        Returns
        -------
        np.ndarray, shape (N, P), dtype of `y`
        """
        out, look = np.empty_like(y), self.appearance
        for rows in parts_of_people(persons):
            here = sites[rows]
            x, protected = look.standardized(y[rows], here, covariates[rows])
            left = look.left(y[rows], here, covariates[rows])
            change = self.edited(left, here, target)
            if self.sessions is not None:
                away = left - means_of_people(left, persons[rows])
                change = change + self.sessions.change(away, here, target)
            out[rows] = look.back(look.unbent(x, here, target) + change, protected, target)
        return out

    def calibrated(
        self,
        regression: SiteRegression,
        y: np.ndarray,
        covariates: np.ndarray,
        persons: np.ndarray,
    ) -> FeatureDDAE:
        """With one more site (:meth:`FeatureAppearance.calibrated`)."""
        bands, sessions = self.geometry.bands, self.sessions
        look = self.appearance.calibrated(regression, bands, y, covariates)
        if sessions is not None:
            new = look.scale[-1:]
            sessions = sessions.calibrated(regression, bands, new, y, covariates, persons)
        return replace(self, appearance=look, sessions=sessions)

    @torch.inference_mode()
    def edited(self, common: np.ndarray, sites: np.ndarray, target: int | None) -> np.ndarray:
        """What the networks change, by editing under shared noise (docs/method).

        Parameters
        ----------
        common : np.ndarray, shape (N, P)
            Standardized, without the appearance of their site.
        sites : np.ndarray of int, shape (N,)
        target : int or None

        Returns
        -------
        np.ndarray, shape (N, P)
        """
        networks = self.networks
        if not self.trust.any():
            return np.zeros_like(common)
        u = torch.from_numpy(self.geometry.on_points(common))
        z_u, change = networks.encode(u), torch.zeros_like(u)
        source_code, target_code = (
            networks.condition(label_blind([self._code(site) for site in numbers]))
            for numbers in (sites.tolist(), [target] * len(sites))
        )
        for t, level, following, noise, trust in self._levels():
            at_target = clean(networks, u + change + level * noise, t, target_code, z_u)
            at_source = clean(networks, u + level * noise, t, source_code, z_u)
            share = following / level
            change = share * change + (1 - share) * trust * (at_target - at_source)
        return self.geometry.of_points(change.numpy())

    def _code(self, site: int | None) -> int:
        """The site of the networks; unknown for the mean of all, and for one they did not see."""
        return -1 if site is None or site >= self.networks.n_sites else site

    def _levels(self) -> list[tuple[int, float, float, Tensor, float]]:
        """Time, noise level, that of the next step, noise, and trust of each step."""
        times = editing_times(self.networks)
        levels = [float(noise_level(self.networks.alpha_bar[t])) for t in times]
        # The same noise for all rows: what is done to one does not depend on the others.
        draw = torch.Generator().manual_seed(0)
        shape = (STEPS, 1, 1, self.geometry.values, self.geometry.points)
        noise = torch.randn(shape, generator=draw, device='cpu')
        return list(
            zip(times, levels, [*levels[1:], 0.0], noise, self.trust.tolist(), strict=True)
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file keeps of it, by name."""
        weights = self.networks.state_dict()
        sessions = {} if self.sessions is None else vars(self.sessions)
        return {
            **{f'{APPEARANCE}{name}': value for name, value in vars(self.appearance).items()},
            **{f'{SESSIONS}{name}': value for name, value in sessions.items()},
            **{f'{NETWORKS}{name}': value.numpy() for name, value in weights.items()},
            **({} if self.geometry.given is None else {PLACES: self.geometry.given}),
            'trust': self.trust,
        }

    @classmethod
    def of_arrays(
        cls, geometry: Geometry, n_sites: int, arrays: Mapping[str, np.ndarray]
    ) -> FeatureDDAE:
        """What :meth:`arrays` gave.

        Raises
        ------
        KeyError, RuntimeError, ValueError
            If arrays are missing, or of other shapes.
        """
        # Models of earlier versions took shifts as smooth in standard deviations.
        arrays = {UNIT: np.ones_like(arrays[f'{APPEARANCE}sd']), **arrays}
        names = [item.name for item in fields(FeatureAppearance)]
        appearance = FeatureAppearance(**{name: arrays[f'{APPEARANCE}{name}'] for name in names})
        sessions = _sessions_of(appearance, arrays)
        with torch.random.fork_rng(devices=[]):  # what is drawn is replaced
            networks = FeatureNetworks(geometry, n_sites)
        networks.load_state_dict(
            {
                name.removeprefix(NETWORKS): torch.from_numpy(value)
                for name, value in arrays.items()
                if name.startswith(NETWORKS)
            }
        )
        return cls(geometry, appearance, networks.eval(), arrays['trust'], sessions)


def _sessions_of(
    look: FeatureAppearance, arrays: Mapping[str, np.ndarray]
) -> SessionScales | None:
    """The scales of sessions; None where a model knows of none, as those of earlier versions."""
    if not any(name.startswith(SESSIONS) for name in arrays):
        return None
    found = SessionScales(*(arrays[f'{SESSIONS}{item.name}'] for item in fields(SessionScales)))
    shapes = [value.shape for value in vars(found).values()]
    of_sites, of_bands = look.shift.shape, look.between.shape[1:]
    expected = [of_sites, of_sites[1:], of_bands, of_bands]
    if shapes != expected or found.ratio.min() <= 0:
        raise ValueError('scales of sessions of another shape, or not above 0')
    return found


def parts_of_people(persons: np.ndarray) -> Iterator[np.ndarray]:
    """Which rows are harmonized at once, so that all rows of a person are.

    Parameters
    ----------
    persons : np.ndarray of int, shape (N,)

    Yields
    ------
    np.ndarray of int
        The rows of one person or of several: at most ``ROWS``, or more of a single person.
    """
    part: list[int] = []
    order = np.argsort(persons, kind='stable')
    for rows in np.split(order, np.flatnonzero(np.diff(persons[order])) + 1):
        if part and len(part) + len(rows) > ROWS:
            yield np.array(part)
            part = []
        part += rows.tolist()
    yield np.array(part, dtype=int)


def means_of_people(left: np.ndarray, persons: np.ndarray) -> np.ndarray:
    """What the person of each row is, shape (N, P): the mean over the rows of the person.

    Parameters
    ----------
    left : np.ndarray, shape (N, P)
        Without the appearance of sites; NaN where a value is missing.
    persons : np.ndarray of int, shape (N,)
    """
    means = left.copy()
    for person in np.unique(persons):
        rows = persons == person
        known = np.maximum((~np.isnan(left[rows])).sum(axis=0), 1)
        means[rows] = np.nansum(left[rows], axis=0) / known
    return means


def editing_times(networks: FeatureNetworks) -> list[int]:
    """The times whose noise levels editing visits, noisiest first."""
    return noise_times(networks.alpha_bar, FIRST_NOISE, LAST_NOISE, STEPS)


def clean(networks: FeatureNetworks, noisy: Tensor, t: int, z_k: Tensor, z_u: Tensor) -> Tensor:
    """The features that the networks expect in noisy ones, shape (B, 1, H, V).

    Parameters
    ----------
    networks : FeatureNetworks
    noisy : torch.Tensor, shape (B, 1, H, V)
        Features and noise, not scaled down.
    t : int
    z_k, z_u : torch.Tensor, shape (B, D)
    """
    alpha_bar = networks.alpha_bar[t]
    x_t = alpha_bar.sqrt() * noisy
    output = networks(x_t, torch.full((len(noisy),), t), z_k, z_u)
    return split_prediction(networks.config.prediction, output, x_t, alpha_bar)[0]
