"""Render training images and train the embedded backbone `tiny`."""
