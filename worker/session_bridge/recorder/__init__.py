"""Recording a call into its live session, and asking for its drain. Needs nothing but redis-py."""

from session_bridge.contract.budget import Budget
from session_bridge.contract.fields import FinalizedBy
from session_bridge.contract.keys import Keys
from session_bridge.recorder.budget import BudgetNotice, UserSpend, user_spend
from session_bridge.recorder.events import Time
from session_bridge.recorder.recorder import CallRecorder
from session_bridge.recorder.requests import request_drain, withdraw_drain

__all__ = [
    "Budget",
    "BudgetNotice",
    "CallRecorder",
    "FinalizedBy",
    "Keys",
    "Time",
    "UserSpend",
    "request_drain",
    "user_spend",
    "withdraw_drain",
]
