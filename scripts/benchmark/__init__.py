"""The benchmark: `scripts/bench` runs it.

It needs no servers: it starts its own, with the durability settings of production, and reads those back from them.
What is compared runs in the same minutes, in turns, so that what else the machine does falls on all alike.
"""
