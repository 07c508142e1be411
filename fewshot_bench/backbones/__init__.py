"""Vision-language backbones behind one protocol."""
