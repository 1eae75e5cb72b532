"""Data sets handed over from Python: their images, labels, class names and transforms."""
