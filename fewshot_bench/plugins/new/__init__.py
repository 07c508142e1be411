"""Built-in plug-in: `fsbench new` writes the package of a plug-in."""
