"""Teacher banks: a teacher's outputs read from disk in place of its network."""
