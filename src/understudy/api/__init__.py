"""What Python calls: distill(), trainer(), and the public names."""
