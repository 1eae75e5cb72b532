"""Knowledge distillation of vision models."""
