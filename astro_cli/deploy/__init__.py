"""What reaches the machines that deployments live on: SSH, registries, engines in swarm mode."""
