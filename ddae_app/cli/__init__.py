"""Command lines: from arguments to settings, to an analysis level, to an exit code."""
