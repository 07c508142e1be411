"""Built-in plug-ins, which use public faces and hooks alone. Nothing outside may import them."""
