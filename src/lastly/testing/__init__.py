"""Tools for tests: a pytest plugin, which pytest finds by itself."""
