"""The files of `dreamer play`'s page."""
