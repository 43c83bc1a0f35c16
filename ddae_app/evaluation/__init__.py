"""Is the site gone, and is the person still there? Arrays in, numbers out."""
