"""DOT: task and distillation gradients with a momentum buffer each."""
