"""How people ask: the command line, JSON, a conversation in a terminal, the page in `web`."""
