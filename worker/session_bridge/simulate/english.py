"""What callers who speak English share: days, names, and ways not to understand."""

from __future__ import annotations

from session_bridge.simulate.scenario import Exchange

DAYS = ("Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
NAMES = ("Martha Quill", "Idris Bell", "Anneke Voss", "Callum Reyes", "Priya Nandan", "Owen Tarrant")
UNCLEAR = (
    Exchange(("Sorry, the line is breaking up. Again, please?",), ("Of course. Is it better now?",)),
    Exchange(("Hang on, there's someone at the door... Right, I'm back.",), ("No hurry at all. I am still here.",)),
    Exchange(("Wait, am I talking to a machine?",), ("You are, yes: I am an assistant. Shall I get a colleague?",)),
    Exchange(("Hello? Are you still there?",), ("I am. It took me a moment to look that up.",)),
)
