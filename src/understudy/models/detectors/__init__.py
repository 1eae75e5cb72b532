"""Detectors: adapters of one form over the families of torchvision, and any backbone of timm's under their heads."""
