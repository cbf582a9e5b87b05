"""Doors: what clients of other systems ask for, made of what is served here. Each is off until somebody asks for it."""
