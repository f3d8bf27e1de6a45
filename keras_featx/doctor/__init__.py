"""Checks a data set before training; :func:`keras_featx.doctor.checkup.examine` does all of it."""
