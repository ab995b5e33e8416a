"""Asking a provider whether a call is still alive: one module a provider, one shape of question and answer."""
