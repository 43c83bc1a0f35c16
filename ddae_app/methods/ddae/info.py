"""What the model file of a DDAE says of itself, free of PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from ddae_app.methods.ddae.config import ModelConfig
from ddae_app.methods.modelfile import ModelInfo


@dataclass(frozen=True, kw_only=True)
class DDAEInfo(ModelInfo):
    """Everything in the model file of a DDAE but the weights.

    Attributes
    ----------
    config : ModelConfig
    age_mean, age_sd : float
        Years.
    networks : str
        Name and SHA-256 of the model whose networks a calibrated one has; empty for one that was
        trained.
    evidence : tuple of str
        Columns of the evidence (:class:`~ddae_app.methods.site_effects.Evidence`) of a model that
        was calibrated; empty for one that was trained.
    references : tuple of str
        Sites of the packaged reference scans. They are targets only: a site of a dataset that has
        the same name may be another scanner.
    """

    method: str = 'ddae'
    config: ModelConfig
    age_mean: float
    age_sd: float
    networks: str = ''
    evidence: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def network(self) -> dict[str, object]:
        """Sizes and options of its network."""
        return vars(self.config)

    @property
    def source_sites(self) -> tuple[str, ...]:
        """The sites whose scans it knows; the others can only be targets."""
        return tuple(site for site in self.sites if site not in self.references)

    @property
    def _measured(self) -> list[str]:
        """The sites of its evidence that were not measured again since."""
        return [site for site in self.evidence if site]

    @property
    def can_be_calibrated(self) -> bool:
        """Whether its networks know sites by what is measured of them, not by training alone."""
        config = self.config
        return config.site_curve or config.site_edge or config.site_average

    @property
    def uses_covariates(self) -> bool:
        """Whether it was never trained without age and sex, and needs them."""
        return self.config.condition_dropout == 0

    def _checks(self) -> dict[str, bool]:
        return (
            super()._checks()
            | self._slice_checks(self.config.image_size)
            | {
                f'an age_sd of {self.age_sd}; it must be above 0': self.age_sd > 0,
                'reference sites that are not among its sites': (
                    set(self.references) <= set(self.sites)
                ),
                'evidence of sites that are not among its sites, or of one twice': (
                    set(self._measured) <= set(self.sites)
                    and len(set(self._measured)) == len(self._measured)
                ),
                f'{self.protocol.depth} slices a scan for a network of {self.config.depth}': (
                    self.protocol.depth == self.config.depth
                ),
            }
        )
