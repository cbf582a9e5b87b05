"""What is done in git: operations that were asked for, and drafts that git does not have yet."""
