"""Floor 5: runs searches: the session, who evaluates, who keeps records."""
