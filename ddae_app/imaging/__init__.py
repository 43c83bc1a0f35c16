"""Pure functions on images: no nipype, no BIDS, no torch but in brain.py."""
