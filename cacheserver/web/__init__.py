"""The page at /ui/: plain files, served as they are. What it shows it asks the API for, as any client does."""
