"""Tables from records: one model, rendered to the terminal, Markdown, LaTeX, CSV and JSON."""
