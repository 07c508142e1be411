"""One cell: its request, its checks, its fit, its evaluation and its record."""
