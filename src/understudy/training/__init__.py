"""One or several students trained on a stream of batches."""
