"""Engines that compute cells on other machines: Slurm and Ray."""
