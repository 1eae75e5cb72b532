"""Colours of classes in masks: Pascal VOC's, in which neighbouring numbers are told apart."""

from __future__ import annotations

__all__ = ["PALETTE", "colour_of"]


def colour_of(number: int) -> tuple[int, int, int]:
    """Red, green and blue of class 0..255: the number's bits, dealt out to the channels, the high bits first."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]


PALETTE = [value for number in range(256) for value in colour_of(number)]
