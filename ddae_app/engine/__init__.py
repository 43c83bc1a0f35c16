"""From settings to scans, a plan and a run."""
