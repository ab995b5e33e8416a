"""The campaign: real recorders play calls, everything around them fails, and not one event may be lost or doubled.

`schedule` decides what happens when, from a seed. `recording` and `witness` are the recorders' processes and what they
write down, `proxy`, `workers` and `faults` the trouble, `verify` and `summaries` the comparison at the end.
"""
