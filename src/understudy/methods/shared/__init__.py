"""What several methods are built from: stage pairs, connectors, embeddings, relations."""
