"""The heart: read, understand, shape, write, release."""
