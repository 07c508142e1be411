"""Built-in plug-ins, which use only public interfaces and hooks; nothing outside imports them."""
