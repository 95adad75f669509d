"""What the workflow asks and does outside: logs, deploys, old incidents, the status page."""
