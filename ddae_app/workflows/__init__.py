"""Nipype workflows."""
