"""Participant level."""
