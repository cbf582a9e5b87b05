"""`kubectl cacheserver`: a server asked from a terminal, through kubectl or straight. Standard library only."""
