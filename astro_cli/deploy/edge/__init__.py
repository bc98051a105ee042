"""Edge workers: machines outside of a deployment that take tasks, and reach it by its web address alone."""
