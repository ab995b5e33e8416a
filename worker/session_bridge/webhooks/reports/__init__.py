"""Whole reports: what a provider tells of a call when it is over, as the fields of a live session.

One module a provider, each with `understand(body)`. What a report says in its own way is put into the contract's
families; what is left of it goes into an event of a family named after the provider, so that nothing is lost.
"""
