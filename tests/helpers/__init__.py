"""What tests of more than one module share: small networks, recipes, data and doubles."""
