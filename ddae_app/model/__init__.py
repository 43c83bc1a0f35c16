"""The Disentangled Diffusion Autoencoder: tensors only."""
