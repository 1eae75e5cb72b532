"""The networks of the CIFAR literature, one file a family."""
