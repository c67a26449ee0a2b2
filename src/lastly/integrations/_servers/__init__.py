"""_servers."""
