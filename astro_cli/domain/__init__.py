"""Values and decisions, without side effects: what a project, a stack, an image, a release is."""
