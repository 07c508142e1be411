"""Kept models: adapt one to images, ask it, hand it on."""
