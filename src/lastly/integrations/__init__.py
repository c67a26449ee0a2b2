"""One file per framework, imported only by who uses it. `health` needs none, and the others build on it."""
