"""The bridge from a live call's state in Redis to its permanent record in PostgreSQL."""

__version__ = "0.1.0"
