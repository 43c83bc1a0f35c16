"""What the scans of a calibrated model say of site effects, as tensors of its file.

A later calibration takes part of its knowledge of age, sex and sites from it, and the sites of it
stay targets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ddae_app.methods.ddae.config import CURVE_LEVELS, EDGE_PIXELS
from ddae_app.methods.ddae.fields import Shape, knot_shape
from ddae_app.methods.ddae.residuals import LEVELS
from ddae_app.methods.ddae.sharpness import AXES
from ddae_app.methods.site_effects import COVARIATES, Center, Evidence, Prior, Sums

OF_APPEARANCE, OF_CONTRAST, OF_RENDERED = 'appearance', 'contrast', 'rendered'

WITH_PRIOR = OF_APPEARANCE, OF_CONTRAST
"""Measures of scans as they are; what rendering changes differs little between scanners."""


def measures_of(shape: Shape) -> dict[str, dict[str, tuple[int, ...]]]:
    """The measures of each regression, and the shape of each for one scan."""
    return {
        OF_APPEARANCE: {
            'quantiles': (CURVE_LEVELS,),
            'edge': (EDGE_PIXELS,),
            'average': knot_shape(shape),
        },
        OF_CONTRAST: {'before': (LEVELS,)},
        OF_RENDERED: {'change': (LEVELS,), 'rough': (len(AXES),)},
    }


class StoredEvidence(nn.Module):
    """The evidence of each regression of a calibration.

    Parameters
    ----------
    shape : tuple of int
        ``(D, H, W)`` of a scan.
    columns : tuple of str
        The sites of the regressions, as :class:`~ddae_app.methods.site_effects.Evidence` has them.
    """

    center: Tensor

    def __init__(self, shape: Shape, columns: tuple[str, ...]) -> None:
        super().__init__()
        self.shape, self.columns = shape, columns
        size = len(columns) + COVARIATES
        self.register_buffer('center', torch.zeros(4))
        for regression, measures in measures_of(shape).items():
            self.register_buffer(f'{regression}_scans', torch.zeros(()))
            self.register_buffer(f'{regression}_subjects', torch.ones(len(columns)))
            self.register_buffer(f'{regression}_gram', torch.zeros(size, size))
            for name, of_one in measures.items():
                self.register_buffer(f'{name}_cross', torch.zeros(size, *of_one))
                square = of_one * 2 if len(of_one) == 1 else of_one
                self.register_buffer(f'{name}_square', torch.zeros(square))
                if regression in WITH_PRIOR:
                    self.register_buffer(f'{name}_between', torch.zeros(square))
                    self.register_buffer(f'{name}_within', torch.zeros(square))

    @classmethod
    def of(cls, shape: Shape, evidence: dict[str, Evidence]) -> StoredEvidence:
        """The evidence of the three regressions by their names."""
        some = evidence[OF_APPEARANCE]
        new = cls(shape, some.sites)
        center = some.center
        values = [center.age, center.age_scale, center.squared, center.sex]
        new.center.copy_(torch.tensor(values))
        for regression, each in evidence.items():
            new._set(f'{regression}_scans', np.array(each.scans))
            new._set(f'{regression}_subjects', np.array(each.subjects))
            new._set(f'{regression}_gram', each.gram)
            for name, sums in each.sums.items():
                new._set(f'{name}_cross', sums.cross)
                new._set(f'{name}_square', sums.square)
            new.set_priors(each.priors)
        return new

    def set_priors(self, priors: Mapping[str, Prior]) -> None:
        """Store the priors of some measures."""
        for name, prior in priors.items():
            self._set(f'{name}_between', prior.between)
            self._set(f'{name}_within', prior.within)

    def evidence(self) -> dict[str, Evidence]:
        """The same by the names of the regressions."""
        center = Center(*self.center.tolist())
        return {
            regression: Evidence(
                self.columns,
                tuple(int(n) for n in self._get(f'{regression}_subjects')),
                int(self._get(f'{regression}_scans')),
                center,
                self._get(f'{regression}_gram'),
                {
                    name: Sums(self._get(f'{name}_cross'), self._get(f'{name}_square'))
                    for name in measures
                },
                self._priors(regression, measures),
            )
            for regression, measures in measures_of(self.shape).items()
        }

    def _priors(self, regression: str, measures: Mapping[str, object]) -> dict[str, Prior]:
        """Those that were stored."""
        if regression not in WITH_PRIOR:
            return {}
        priors = {
            name: Prior(self._get(f'{name}_between'), self._get(f'{name}_within'))
            for name in measures
        }
        return {name: prior for name, prior in priors.items() if prior.within.any()}

    def _set(self, name: str, values: np.ndarray) -> None:
        self.get_buffer(name).copy_(torch.from_numpy(np.asarray(values, dtype=np.float32)))

    def _get(self, name: str) -> np.ndarray:
        return self.get_buffer(name).cpu().double().numpy()
