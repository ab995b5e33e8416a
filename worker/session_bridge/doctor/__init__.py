"""`session-bridge doctor`: looks at a deployment, and says what to change."""
