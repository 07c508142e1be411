"""The built-in methods, registered through the same entry point as third-party ones."""
