"""DOT and DeepKD: a momentum of its own for each loss."""
