"""Images as pixels and as frozen features: decoded, batched, augmented, cached."""
