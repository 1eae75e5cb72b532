"""Where images come from: one file a format, the detection of formats, and decoding."""
