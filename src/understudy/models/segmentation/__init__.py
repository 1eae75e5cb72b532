"""Segmenters: any timm backbone under a DeepLabV3, PSP or FPN head, and torchvision's at their own stride."""
