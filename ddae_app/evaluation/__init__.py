"""Evaluation of harmonized images: arrays in, measures of site effects and biology out."""
