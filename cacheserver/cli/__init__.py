"""The command line: arguments to settings, commands, what a terminal shows."""
