"""The Disentangled Diffusion Autoencoder: networks, site appearance, rendering and training."""
