"""ddae-app: T1-weighted MRI re-rendered as if acquired at one target site."""

__version__ = '0.1.0'
