"""Published tables repeated: paper, ours, difference, noise to expect, verdict."""
