"""What is done to an image: crops, policies, erasing, rotated copies, Mixup and CutMix."""
