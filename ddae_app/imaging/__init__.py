"""Pure functions on images, without nipype and BIDS; only brain.py uses torch."""
