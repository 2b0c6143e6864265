"""Rules and skills for AI assistants, as they are installed."""
