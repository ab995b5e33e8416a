"""Webhooks: what providers call back, verified, understood and written to the live session."""
