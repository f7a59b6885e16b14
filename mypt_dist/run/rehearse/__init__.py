"""Play a run small, as several virtual nodes of one machine, before a cluster is paid for."""
