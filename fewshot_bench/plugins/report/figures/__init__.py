"""The figures of the report: drawn by matplotlib, then fitted to the page as inline SVG."""
