"""Splits as files: lists of train, validation and test images, read, checked and written."""
