"""Finding what nobody asked for: ended, idle, forgotten and vanished sessions."""
