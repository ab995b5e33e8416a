"""The Redis side of the worker: claim, read, hold, release, scan."""
