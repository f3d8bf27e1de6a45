"""Losses, one idea a file."""

from keras_featx.losses.cross_entropy import CELoss

__all__ = ["CELoss"]
