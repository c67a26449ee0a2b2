"""The fixtures of a shared journal."""

from sharing import _database_server, cloud, fleet, network, new_pair, own_server, shared

__all__ = ["_database_server", "cloud", "fleet", "network", "new_pair", "own_server", "shared"]
