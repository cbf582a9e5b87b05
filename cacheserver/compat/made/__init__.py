"""Objects of other systems that become Repositories: what all such kinds have in common. Knows no kind."""
