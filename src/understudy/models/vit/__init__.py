"""Vision transformers with more than one prediction: distillation tokens, and the conv stem of the projector's DeiT."""
