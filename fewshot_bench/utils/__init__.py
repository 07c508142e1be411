"""Domain-independent helpers: errors, files, locks, processes, text; torch is imported lazily."""
