"""Kept models: adapt one to images, classify with it, share it."""
