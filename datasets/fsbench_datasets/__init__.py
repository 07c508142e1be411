"""The built-in data sets, registered through the same entry point as third-party ones."""
