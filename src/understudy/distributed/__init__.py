"""Many processes as one: the only importer of torch.distributed."""
