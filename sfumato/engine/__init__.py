"""The engine: it answers what tasks ask for. Everything above the ``await`` is written for one request."""
