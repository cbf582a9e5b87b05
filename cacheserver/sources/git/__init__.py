"""Git repositories as sources, read through the git command."""
