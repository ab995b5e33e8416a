"""Calls that nobody made, as believable as they need to be: to try the bridge, to measure it, to show it."""

from session_bridge.simulate.call import Ending, SimulatedCall, live_fields
from session_bridge.simulate.campaign import Campaign, Report, run_campaign
from session_bridge.simulate.play import play, send_late
from session_bridge.simulate.script import script

__all__ = [
    "Campaign",
    "Ending",
    "Report",
    "SimulatedCall",
    "live_fields",
    "play",
    "run_campaign",
    "script",
    "send_late",
]
